import { createHash, randomUUID } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before } from "node:test";
import type { Bus } from "@mcp-failover/bus";
import {
  type Event,
  type EventType,
  type HealthStatus,
  makeEvent,
  type NewEvent,
  type Reply,
  redisAcl,
  redisCredentialFiles,
} from "@mcp-failover/contracts";
import { testKit } from "@mcp-failover/service-kit/testing";
import { becomes, type RunningServer, selfSigned, startRedis, tempDir } from "@mcp-failover/testkit";
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
    return this.apply({ upstreams: Object.fromEntries(upstreams.map((name) => [name, { kind: "http", endpoints }])) });
  }

  apply(topology: object): Promise<number> {
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

/** The user of the tests themselves, who may do anything. */
const tester = { username: "tester", password: "the-password-of-the-tests" };

/**
 * A redis-server and a client for a test file; the database is emptied by the tests themselves. Guarded, it speaks TLS alone, and the state-store
 * has exactly the rights of the table in `contracts`: whatever a test sees it do, it may.
 */
export function redisForTests(how: "open" | "guarded"): { server: () => RunningServer; store: () => RedisOfStore; client: () => Redis } {
  let server: RunningServer;
  let credentials: { folder: string; tls: { ca: string; cert: string; key: string }; remove(): Promise<void> } | null = null;
  const clients: Redis[] = [];
  before(async () => {
    if (how === "open") {
      server = await startRedis();
      return;
    }
    const { path, remove } = await tempDir("mcpf-redis-");
    const made = selfSigned({ untilMs: Date.now() + 3_600_000 });
    // It signs itself, so that the one certificate is server, client and authority.
    const tls = { ca: made.cert, ...made };
    const folder = join(path, "state-store");
    const password = randomUUID();
    mkdirSync(folder);
    for (const [name, text] of Object.entries({ ...tls, user: "state-store", password }))
      writeFileSync(join(folder, redisCredentialFiles[name as keyof typeof redisCredentialFiles]), text);
    const hashes = { "state-store": [hashOf(password)], "redis-health": [], "redis-reader": [], "redis-reload": [] } satisfies Parameters<
      typeof redisAcl
    >[0];
    writeFileSync(join(path, "users.acl"), `${redisAcl(hashes)}user ${tester.username} on #${hashOf(tester.password)} ~* &* +@all\n`);
    credentials = { folder, tls, remove };
    const file = (name: "ca" | "cert" | "key"): string => join(folder, redisCredentialFiles[name]);
    const guard = {
      aclFile: join(path, "users.acl"),
      caFile: file("ca"),
      certFile: file("cert"),
      keyFile: file("key"),
      user: tester.username,
      passwordFile: join(path, "tester.password"),
    };
    writeFileSync(guard.passwordFile, tester.password);
    server = await startRedis({ guard });
  });
  after(async () => {
    for (const client of clients) client.disconnect();
    await server.stop();
    await credentials?.remove();
  });
  const client = (): Redis => {
    const guarded = credentials === null ? {} : { ...tester, tls: credentials.tls };
    const one = new Redis(server.url, { retryStrategy: () => 50, ...guarded });
    one.on("error", () => undefined); // Its outages are what is tested.
    clients.push(one);
    return one;
  };
  const store = (): RedisOfStore => ({
    REDIS_URL: server.url,
    ...(credentials === null ? {} : { REDIS_CREDENTIALS_DIR: credentials.folder }),
  });
  return { server: () => server, store, client };
}
type RedisOfStore = Parameters<typeof startStateStore>[0]["config"];

function hashOf(password: string): string {
  return createHash("sha256").update(password).digest("hex");
}

export interface Store {
  readonly bus: Bus;
  readonly dataDir: string;
  ask(subject: "state.status" | "state.health_report" | "state.get" | "state.history", body?: object): Promise<Reply>;
  /** From now on it answers on the bus, too. */
  serve(): Promise<void>;
  readiness(): ReturnType<ReturnType<typeof testKit>["readiness"]>;
  stop(): Promise<void>;
}

/** One state-store on a bus of its own. Asked directly, so that a cut bus does not stand between. */
export async function startStore(options: { bus: Bus; redis: RedisOfStore; dataDir?: string; instance?: string }): Promise<Store> {
  const folder = options.dataDir === undefined ? await tempDir("mcpf-state-") : null;
  const dataDir = options.dataDir ?? folder?.path ?? "";
  const { bus, instance = "state-store-1" } = options;
  const kit = testKit({ service: "state-store", bus, instance, dataDir, config: options.redis });
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
    async serve() {
      const handlers = running.handlers ?? {};
      await bus.serve({ name: "state-store", instance, version: "0.1.0", description: "answers", handlers });
    },
    readiness: () => kit.readiness(),
    stop() {
      stopping ??= end();
      return stopping;
    },
  };
}

export const until = <T>(ask: () => T | Promise<T>, wanted: (value: T) => boolean, withinMs = 8000) => becomes(ask, wanted, { withinMs });
