import type { Bus } from "@mcp-failover/bus";
import {
  type BreakerStatus,
  type DataOf,
  type Event,
  type EventType,
  makeEvent,
  type NewEvent,
  type OutcomeClass,
  topology,
} from "@mcp-failover/contracts";
import { initialBreakerState } from "@mcp-failover/domain";
import { becomes } from "@mcp-failover/testkit";

const by = { kind: "service", id: "test" } as const;
const certificate = {
  decider: "test",
  rule: "test",
  policyHash: "test",
  folded: { AUDIT: null, SIGNALS: null },
  input: null,
  rejected: [],
};

function fail(error: unknown): never {
  throw error;
}

/** Probers and a configuration, played by the test: what each prober finds is what the test says is true. */
export class FleetDouble {
  readonly bus: Bus;
  readonly probers: readonly string[];
  /** By `upstream/endpoint`; what is not named here answers well. */
  readonly truth = new Map<string, OutcomeClass>();
  /** `prober upstream/endpoint`: what one prober finds, whatever is true. */
  readonly illusions = new Map<string, OutcomeClass>();
  /** Probers that do not answer. */
  readonly silent = new Set<string>();
  requests = 0;
  #ids = 0;
  #version = 0;
  readonly #subscription: { stop(): void };

  /** `onError`: an answer that could not be published; otherwise the test fails. */
  constructor(bus: Bus, probers: readonly string[] = ["p1", "p2", "p3"], onError: (error: unknown) => void = fail) {
    this.bus = bus;
    this.probers = probers;
    this.#subscription = bus.subscribe("probe.requested", ({ data }) => {
      this.requests += 1;
      for (const prober of this.probers) {
        if (this.silent.has(prober)) continue;
        const targets = data.targets.map(({ upstream, endpoint }) => ({ upstream, endpoint, purpose: data.purpose }));
        this.probe(prober, targets, data.requestId).catch((error: unknown) => {
          if (this.bus.status.kind === "connected") onError(error);
        });
      }
    });
  }

  stop(): void {
    this.#subscription.stop();
  }

  event<T extends EventType>(type: T, keys: readonly string[], data: DataOf<T>): Event<T> {
    this.#ids += 1;
    const from = { type, keys, data, id: `test-${process.pid}-${this.#ids}`, service: "prober", instance: "test", timeMs: Date.now() };
    return makeEvent(from as NewEvent<T>);
  }

  async start(upstreams: Record<string, object>, more: object = {}): Promise<void> {
    const timestamp = new Date().toISOString();
    await this.bus.appendFenced(this.event("log.started", [], { generation: 1, timestamp, by, reason: "test" }), 0);
    await this.configure(upstreams, more);
    await this.probeAll(upstreams);
  }

  /** Every prober looks at everything once, as at a start: this ends the grace. */
  async probeAll(upstreams: Record<string, object>): Promise<void> {
    const targets = Object.entries(upstreams).flatMap(([upstream, { endpoints }]: [string, { endpoints?: { name: string }[] }]) =>
      (endpoints ?? []).map(({ name }) => ({ upstream, endpoint: name })),
    );
    for (let from = 0; from < targets.length; from += 1000) {
      for (const prober of this.probers) await this.probe(prober, targets.slice(from, from + 1000));
    }
  }

  async configure(upstreams: Record<string, object>, more: object = {}): Promise<void> {
    this.#version += 1;
    const parsed = topology.parse({ upstreams, ...more });
    const last = await this.bus.lastOf("AUDIT", "config.applied");
    const applied = this.event("config.applied", [], {
      version: this.#version,
      hash: `hash-${this.#version}`,
      fileHash: null,
      timestamp: new Date().toISOString(),
      by,
      reason: "test",
      environment: "development",
      topology: parsed,
    });
    await this.bus.appendFenced(applied, last?.seq ?? 0);
  }

  /** One prober probes these endpoints now and says what it found. */
  async probe(
    prober: string,
    targets: readonly { upstream: string; endpoint: string; purpose?: "scheduled" | "confirm" | "requested" }[],
    requestId: string | null = null,
  ): Promise<void> {
    const observations = targets.map(({ upstream, endpoint, purpose = "scheduled" }) => {
      const key = `${upstream}/${endpoint}`;
      const outcome = this.illusions.get(`${prober} ${key}`) ?? this.truth.get(key) ?? "ok";
      return {
        upstream,
        endpoint,
        observer: prober,
        purpose,
        requestId,
        startedAtMs: Date.now(),
        responseTimeMs: 1,
        outcome,
        code: outcome === "hard" ? ("refused" as const) : null,
        error: null,
        httpStatus: null,
        era: null,
      };
    });
    await this.bus.append(this.event("probe.observed", [prober], { observer: prober, observations }));
  }

  /** A router's word: hard failures of an endpoint in one window, and the route that it holds. */
  async traffic(
    router: string,
    upstream: string,
    endpoint: string,
    counts: { ok?: number; hard?: number },
    routes: DataOf<"traffic.observed">["routes"] = {},
  ): Promise<void> {
    const { ok = 0, hard = 0 } = counts;
    const window = {
      upstream,
      endpoint,
      ok,
      hard,
      soft: 0,
      auth: 0,
      caller: 0,
      inFlight: 0,
      oldestInFlightMs: 0,
      hardRunHead: hard,
      hardRunTail: hard,
      lastCode: hard > 0 ? ("refused" as const) : null,
      lastHardAtMs: hard > 0 ? Date.now() : null,
      lastOkAtMs: ok > 0 ? Date.now() : null,
      latency: Array.from({ length: 14 }, () => 0),
      latencyMsSum: ok + hard,
      latencyMsMax: 1,
    };
    const endpoints = ok + hard > 0 ? [window] : [];
    const nowMs = Date.now();
    const data = { router, fromMs: nowMs - 250, toMs: nowMs, endpoints, tools: [], routes, rollbacks: {} };
    await this.bus.append(this.event("traffic.observed", [router], data));
  }

  async breaker(upstream: string, endpoint: string, status: BreakerStatus): Promise<void> {
    const data: DataOf<"breaker.changed"> = {
      service: upstream,
      endpoint,
      status,
      previousStatus: "closed",
      timestamp: new Date().toISOString(),
      reason: "test",
      by: { kind: "operator", id: "ann" },
      state: { ...initialBreakerState, status, generation: 1, sinceMs: Date.now() },
      certificate: { ...certificate, nowMs: 0 },
    };
    await this.bus.appendFenced(this.event("breaker.changed", [upstream, endpoint], data), 0);
  }

  async health(upstream: string, endpoint: string, status: "healthy" | "unhealthy", heldDownUntilMs: number | null = null): Promise<void> {
    const last = await this.bus.lastOf("AUDIT", `health.changed.${upstream}.${endpoint}`);
    const nowMs = Date.now();
    const state = {
      status,
      score: status === "healthy" ? 1 : 0,
      sinceMs: nowMs,
      okRun: 0,
      failRun: 0,
      changesAtMs: [],
      heldDownUntilMs,
      lastObservedAtMs: nowMs,
    };
    const changed = this.event("health.changed", [upstream, endpoint], {
      service: upstream,
      endpoint,
      status,
      responseTime: null,
      error: null,
      timestamp: new Date(nowMs).toISOString(),
      critical: true,
      previousStatus: null,
      reason: "test",
      prober: "p1",
      votes: [],
      state,
      certificate: { ...certificate, nowMs },
    });
    await this.bus.appendFenced(changed, last?.seq ?? 0);
  }

  /** Everything in AUDIT of some types, in the order of the log. */
  async said<T extends EventType>(...types: T[]): Promise<Event<T>[]> {
    const found: Event<T>[] = [];
    for await (const { content } of this.bus.read("AUDIT")) {
      if (content.kind === "event" && (types as string[]).includes(content.event.type)) found.push(content.event as unknown as Event<T>);
    }
    return found;
  }
}

/** An upstream of endpoints named in order of preference. */
export function upstreamOf(endpoints: readonly string[], more: object = {}): object {
  return { kind: "mcp", endpoints: endpoints.map((name, tier) => ({ name, tier, url: `http://127.0.0.1:1/${name}` })), ...more };
}

/** Waits until a condition holds; throws with the last value seen when it takes too long. */
export const until = <V>(read: () => V | Promise<V>, holds: (value: V) => boolean, withinMs = 5000, everyMs = 20) =>
  becomes(read, holds, { withinMs, everyMs });
