import { randomUUID } from "node:crypto";
import { after, before } from "node:test";
import type { Bus } from "@mcp-failover/bus";
import { type Event, type EventType, type HealthStatus, makeEvent, type NewEvent, type Reply } from "@mcp-failover/contracts";
import { testKit } from "@mcp-failover/service-kit/testing";
import { becomes, type RunningServer, startRedis, tempDir } from "@mcp-failover/testkit";
import { Redis } from "ioredis";
import { startStateStore } from "../src/wiring.ts";

const certificate = {
  decider: "test",
  rule: "test",
  policyHash: "p",
  nowMs: 0,
  folded: { AUDIT: null, SIGNALS: null },
  input: {},
  rejected: [],
};
const service = { kind: "service", id: "failover-controller" } as const;
const now = (): string => new Date().toISOString();

/** Writes to AUDIT what the other services would. */
export class Log {
  readonly bus: Bus;
  #version = 0;
  #epoch = 0;
  constructor(bus: Bus) {
    this.bus = bus;
  }

  async say<T extends EventType>(type: T, keys: readonly string[], data: NewEvent<T>["data"]): Promise<number> {
    const event = makeEvent({ type, keys, data, id: randomUUID(), service: "cli", instance: "test", timeMs: Date.now() } as NewEvent<T>);
    return (await this.bus.append(event as Event)).seq;
  }

  begin(generation = 1): Promise<number> {
    return this.say("log.started", [], { generation, timestamp: now(), by: service, reason: "test" });
  }

  configure(...upstreams: string[]): Promise<number> {
    const endpoints = ["primary", "secondary"].map((name, tier) => ({ name, tier, url: `http://127.0.0.1:${tier + 1}/` }));
    const topology = { upstreams: Object.fromEntries(upstreams.map((name) => [name, { kind: "http", endpoints }])) };
    this.#version += 1;
    const version = this.#version;
    const environment = "development" as const;
    return this.say("config.applied", [], {
      version,
      hash: `h${version}`,
      fileHash: null,
      timestamp: now(),
      by: service,
      reason: "test",
      environment,
      topology,
    });
  }

  health(upstream: string, endpoint: string, status: HealthStatus): Promise<number> {
    const state = { status, score: 1, sinceMs: 0, okRun: 0, failRun: 0, changesAtMs: [], heldDownUntilMs: null, lastObservedAtMs: null };
    const known = { service: upstream, endpoint, status, responseTime: 2.5, error: null, timestamp: now(), critical: true };
    return this.say("health.changed", [upstream, endpoint], {
      ...known,
      previousStatus: null,
      reason: `it is ${status}`,
      prober: "prober-1",
      votes: [],
      state,
      certificate,
    });
  }

  /** A decision and its notice. */
  async move(upstream: string, to: "primary" | "secondary", timestamp = now()): Promise<number> {
    this.#epoch += 1;
    const epoch = this.#epoch;
    const from = to === "primary" ? "secondary" : "primary";
    const state = { generation: 1, epoch, active: to, tier: 0, sinceMs: Date.now(), held: null, moves: [] };
    const common = {
      service: upstream,
      timestamp,
      automatic: true,
      by: service,
      reason: `move ${epoch}`,
      previousEndpoint: from,
      currentEndpoint: to,
    };
    await this.say("failover.decided", [upstream], { ...common, action: "moved", commandId: null, overrode: [], state, certificate });
    return this.say("failover.executed", [upstream], { ...common, epoch, decisionId: "d", appliedBy: [], notAppliedBy: [] });
  }
}

/** A redis-server and a client for a test file; the database is emptied by the tests themselves. */
export function redisForTests(): { server: () => RunningServer; client: () => Redis; connect(): Promise<Redis> } {
  let server: RunningServer;
  const clients: Redis[] = [];
  before(async () => {
    server = await startRedis();
  });
  after(async () => {
    for (const client of clients) client.disconnect();
    await server.stop();
  });
  const client = (): Redis => {
    const one = new Redis(server.url, { retryStrategy: () => 50 });
    one.on("error", () => undefined); // Its outages are what is tested.
    clients.push(one);
    return one;
  };
  return { server: () => server, client, connect: async () => client() };
}

export interface Store {
  readonly bus: Bus;
  readonly dataDir: string;
  ask(subject: "state.status" | "state.health_report" | "state.get" | "state.history", body?: object): Promise<Reply>;
  readiness(): ReturnType<ReturnType<typeof testKit>["readiness"]>;
  stop(): Promise<void>;
}

/** One state-store on a bus of its own. Asked directly, so that a cut bus does not stand between. */
export async function startStore(options: { bus: Bus; redisUrl: string; dataDir?: string; instance?: string }): Promise<Store> {
  const folder = options.dataDir === undefined ? await tempDir("mcpf-state-") : null;
  const dataDir = options.dataDir ?? folder?.path ?? "";
  const { bus, instance = "state-store-1" } = options;
  const kit = testKit({ service: "state-store", bus, instance, dataDir, config: { REDIS_URL: options.redisUrl } });
  const running = await startStateStore(kit);
  let stopping: Promise<void> | null = null;
  const end = async (): Promise<void> => {
    await running.stop?.();
    await bus.close();
    await folder?.remove();
  };
  return {
    bus,
    dataDir,
    async ask(subject, body = {}) {
      const handler = running.handlers?.[subject] as (body: object) => Promise<unknown>;
      return { ok: true, result: await handler(body) };
    },
    readiness: () => kit.readiness(),
    stop() {
      stopping ??= end();
      return stopping;
    },
  };
}

export const until = <T>(ask: () => T | Promise<T>, wanted: (value: T) => boolean, withinMs = 8000) => becomes(ask, wanted, { withinMs });
