import assert from "node:assert/strict";
import { type Bus, memoryBroker } from "@mcp-failover/bus";
import { applyConfiguration, type Client, type ConnectOptions, connect } from "@mcp-failover/client";
import {
  type BreakerState,
  type DataOf,
  type EventType,
  type FailoverState,
  type HealthStatus,
  makeEvent,
  parseTopology,
  type ServiceName,
  subjectFor,
} from "@mcp-failover/contracts";
import { eventually } from "@mcp-failover/testkit";

const two = `
      - { name: primary, url: "http://127.0.0.1:1001", tier: 0 }
      - { name: secondary, url: "http://127.0.0.1:1002", tier: 1 }
`;
/** `docs` has two endpoints, `solo` one. */
export const yaml = `upstreams:
  docs:
    kind: http
    endpoints:${two}
  solo:
    kind: http
    endpoints: [{ name: only, url: "http://127.0.0.1:2001", tier: 0 }]
`;

const certificate = {
  decider: "test",
  rule: "test",
  policyHash: "",
  nowMs: 0,
  folded: { AUDIT: null, SIGNALS: null },
  input: null,
  rejected: [],
};
const by = { kind: "service", id: "test" } as const;

/** A fleet in memory that says what the test wants it to say. */
export class Fleet {
  readonly broker = memoryBroker();
  readonly bus: Bus = this.broker.connect();
  readonly #clients: { client: Client; bus: Bus }[] = [];
  #count = 0;

  static async start(text = yaml): Promise<Fleet> {
    const fleet = new Fleet();
    await fleet.configure(text);
    return fleet;
  }

  async configure(text: string): Promise<void> {
    const parsed = parseTopology(text, { file: "failover.yaml", env: {} });
    await applyConfiguration(this.bus, {
      ...parsed,
      fileHash: parsed.hash,
      environment: "development",
      by,
      reason: "test",
      service: "bootstrap",
      instance: "test",
      nowMs: Date.now(),
      onlyIfFileChanged: false,
    });
  }

  /** A client that has read the log. Its bus is its own, so that a test can cut it. */
  async client(options: Partial<ConnectOptions> = {}): Promise<{ client: Client; bus: Bus }> {
    const made = this.newClient(options);
    await made.client.ready(2000);
    return made;
  }
  newClient(options: Partial<ConnectOptions> = {}): { client: Client; bus: Bus } {
    const bus = this.broker.connect();
    const made = { client: connect({ bus, name: "test", onError: (error) => assert.fail(String(error)), ...options }), bus };
    this.#clients.push(made);
    return made;
  }

  async say<T extends EventType>(type: T, keys: string[], data: DataOf<T>, service: ServiceName): Promise<void> {
    this.#count += 1;
    const event = makeEvent({ type, keys, data, id: `test-${this.#count}`, service, instance: "test", timeMs: Date.now() });
    const last = await this.bus.lastOf("AUDIT", subjectFor(type, ...keys));
    assert.equal((await this.bus.appendFenced(event, last?.seq ?? 0)).outcome, "won");
  }

  async moveTo(upstream: string, active: string, epoch: number, generation = 0, held: FailoverState["held"] = null): Promise<void> {
    const data = {
      service: upstream,
      action: "moved" as const,
      previousEndpoint: active === "primary" ? "secondary" : "primary",
      currentEndpoint: active,
      timestamp: new Date().toISOString(),
      automatic: true,
      by,
      reason: "test",
      commandId: null,
      overrode: [],
      state: { generation, epoch, active, tier: active === "primary" ? 0 : 1, sinceMs: Date.now(), held, moves: [] },
      certificate,
    };
    await this.say("failover.decided", [upstream], data, "failover-controller");
  }

  /** The controller has nowhere to go. */
  async failing(upstream: string): Promise<void> {
    const data = {
      service: upstream,
      timestamp: new Date().toISOString(),
      rule: "no_candidate",
      reason: "test",
      failing: true,
      certificate,
    };
    await this.say("failover.failed", [upstream], data, "failover-controller");
  }

  async health(upstream: string, endpoint: string, status: HealthStatus): Promise<void> {
    const score = status === "healthy" ? 1 : 0;
    const state = { status, score, sinceMs: 0, okRun: 0, failRun: 0, changesAtMs: [], heldDownUntilMs: null, lastObservedAtMs: null };
    const data = {
      service: upstream,
      endpoint,
      status,
      responseTime: 1,
      error: null,
      timestamp: new Date().toISOString(),
      critical: true,
      previousStatus: null,
      reason: "test",
      prober: "prober-1",
      votes: [],
      state,
      certificate,
    };
    await this.say("health.changed", [upstream, endpoint], data, "prober");
  }

  async breaker(
    upstream: string,
    endpoint: string,
    state: Partial<BreakerState> & Pick<BreakerState, "status" | "generation">,
  ): Promise<void> {
    const whole = { sinceMs: Date.now(), openUntilMs: null, openings: 1, permits: [], ...state };
    const data = {
      service: upstream,
      endpoint,
      status: state.status,
      previousStatus: "closed" as const,
      timestamp: new Date().toISOString(),
      reason: "test",
      by,
      state: whole,
      certificate,
    };
    await this.say("breaker.changed", [upstream, endpoint], data, "breaker-state");
  }

  async stop(): Promise<void> {
    for (const { client, bus } of this.#clients) {
      await client.close();
      await bus.close();
    }
    await this.bus.close();
  }
}

export async function until(what: string, check: () => boolean, withinMs = 3000): Promise<void> {
  await eventually(check, { what, withinMs, everyMs: 5 });
}

/** An error as Node throws it. */
export function systemError(code: string): Error {
  return Object.assign(new Error(code), { code });
}
/** What `fetch` throws when the connection fails. */
export function fetchError(code: string): Error {
  return Object.assign(new TypeError("fetch failed"), { cause: systemError(code) });
}
