import { randomUUID } from "node:crypto";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import type { TestContext } from "node:test";
import { type Bus, memoryBroker } from "@mcp-failover/bus";
import { type Event, type EventType, type HealthStatus, makeEvent, type NewEvent } from "@mcp-failover/contracts";
import type { Kit } from "@mcp-failover/service-kit";
import { testKit } from "@mcp-failover/service-kit/testing";
import { becomes } from "@mcp-failover/testkit";
import { startNotifier } from "../src/wiring.ts";

export const token = "hunter2-planted-token";
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
const operator = { kind: "operator", id: "ann" } as const;

interface Received {
  readonly kind: string;
  readonly title: string;
  readonly severity: string;
  readonly text: string;
  readonly id: string;
  readonly status: number;
  readonly authorization: string | undefined;
  readonly path: string;
}

const ofMemory = (): (() => Bus) => {
  const broker = memoryBroker();
  return () => broker.connect();
};

/** A webhook receiver, AUDIT to write to, and notifiers that a test starts and stops. */
export class World {
  readonly #connect: () => Bus;
  readonly bus: Bus;
  readonly received: Received[] = [];
  /** Statuses of the next answers; 200 when there are none. */
  statuses: number[] = [];
  /** Until then, by {@link performance}, each request is refused with 429 and the seconds that are left. */
  limitedUntilMs = 0;
  /** Requests to the path `/silent`: it takes them and never answers. */
  unanswered = 0;
  /** What its notifiers find by name. */
  readonly secrets: Record<string, string> = { HOOK_TOKEN: token };
  /** Bytes in the body of each answer. */
  answerBytes = 2;
  readonly logged: string[] = [];
  #http: Server | null = null;
  url = "";

  /** `connect`: to where the streams are; by itself to a broker of its own. */
  constructor(connect: () => Bus = ofMemory()) {
    this.#connect = connect;
    this.bus = connect();
  }

  get taken(): string[] {
    return this.received.filter(({ status }) => status === 200).map(({ kind, title }) => `${kind} ${title}`);
  }

  async open(t: TestContext): Promise<this> {
    const http = createServer((request, response) => {
      const chunks: Buffer[] = [];
      request.on("data", (chunk: Buffer) => chunks.push(chunk));
      request.on("end", () => {
        if (request.url === "/silent") {
          this.unanswered += 1;
          return;
        }
        const leftMs = this.limitedUntilMs - performance.now();
        const status = leftMs > 0 ? 429 : (this.statuses.shift() ?? 200);
        if (leftMs > 0) response.setHeader("retry-after", String(Math.ceil(leftMs / 1000)));
        const body = JSON.parse(Buffer.concat(chunks).toString()) as Received;
        this.received.push({ ...body, status, authorization: request.headers.authorization, path: request.url ?? "" });
        response.writeHead(status, { "content-type": "text/plain" }).end("x".repeat(this.answerBytes));
      });
    });
    await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
    this.#http = http;
    this.url = `http://127.0.0.1:${(http.address() as AddressInfo).port}`;
    t.after(async () => {
      await this.bus.close();
      http.closeAllConnections();
      await new Promise((resolve) => http.close(resolve));
    });
    return this;
  }

  /** The receiver's port refuses from now on. */
  shut(): void {
    this.#http?.close();
    this.#http?.closeAllConnections();
  }

  /** `clockAheadMs`: by how much its machine's clock is wrong. */
  async start(t: TestContext, instance = "notifier-1", clockAheadMs = 0): Promise<{ bus: Bus; stop(): Promise<void> }> {
    const bus = this.#connect();
    const note =
      (level: string) =>
      (...words: unknown[]): void =>
        void this.logged.push(`${level} ${JSON.stringify(words)}`);
    const log = { debug: note("debug"), info: note("info"), warn: note("warn"), error: note("error") } as unknown as Kit["log"];
    const kit: Kit = {
      ...testKit({ service: "notifier", bus, instance, secrets: this.secrets, nowMs: () => Date.now() + clockAheadMs }),
      log,
    };
    const running = await startNotifier(kit as Kit);
    const served = await bus.serve({ name: "notifier", instance, version: "0.1.0", description: "", handlers: running.handlers ?? {} });
    await until(
      () => kit.readiness().status,
      (status) => status === "ready",
    );
    let stopping: Promise<void> | null = null;
    const end = async (): Promise<void> => {
      await running.stop?.();
      await served.stop();
      await bus.close();
    };
    const stop = (): Promise<void> => {
      stopping ??= end();
      return stopping;
    };
    t.after(stop);
    return { bus, stop };
  }

  async say<T extends EventType>(type: T, keys: readonly string[], data: NewEvent<T>["data"]): Promise<number> {
    const event = makeEvent({ type, keys, data, id: randomUUID(), service: "cli", instance: "test", timeMs: Date.now() } as NewEvent<T>);
    return (await this.bus.append(event as Event)).seq;
  }

  #version = 0;
  async configure(channels: readonly object[] = [this.webhook()], shop: object = {}, more: object = {}): Promise<void> {
    const endpoints = ["primary", "secondary"].map((name, tier) => ({ name, tier, url: `http://127.0.0.1:${tier + 1}/` }));
    const topology = { upstreams: { shop: { kind: "http", endpoints, ...shop } }, notifications: { channels }, ...more };
    this.#version += 1;
    const timestamp = now();
    const version = this.#version;
    const environment = "development" as const;
    await this.say("config.applied", [], {
      version,
      hash: `h${version}`,
      fileHash: null,
      timestamp,
      by: operator,
      reason: "test",
      environment,
      topology,
    });
  }

  webhook(more: object = {}): object {
    const headers = { authorization: { secret: "HOOK_TOKEN", prefix: "Bearer " } };
    return { name: "ops", type: "webhook", url: `${this.url}/hook`, headers, ...more };
  }

  health(endpoint: string, status: HealthStatus): Promise<number> {
    const state = { status, score: 1, sinceMs: 0, okRun: 0, failRun: 0, changesAtMs: [], heldDownUntilMs: null, lastObservedAtMs: null };
    const previousStatus = status === "healthy" ? ("unhealthy" as const) : ("healthy" as const);
    const known = { service: "shop", endpoint, status, responseTime: 1, error: null, timestamp: now(), critical: true, previousStatus };
    return this.say("health.changed", ["shop", endpoint], { ...known, reason: "test", prober: "prober-1", votes: [], state, certificate });
  }

  async healthy(): Promise<void> {
    await this.health("primary", "healthy");
    await this.health("secondary", "healthy");
  }

  executed(to: "primary" | "secondary", automatic = true): Promise<number> {
    return this.say("failover.executed", ["shop"], {
      service: "shop",
      epoch: 1,
      decisionId: "d",
      timestamp: now(),
      reason: "test",
      by: automatic ? service : operator,
      previousEndpoint: to === "primary" ? "secondary" : "primary",
      currentEndpoint: to,
      automatic,
      appliedBy: [],
      notAppliedBy: [],
    });
  }

  rolledBack(tool: string): Promise<number> {
    return this.rollback("executed", tool);
  }

  rollback(step: "executed" | "advanced" | "paused", tool: string): Promise<number> {
    return this.say(`rollback.${step}`, ["tool", tool], {
      scope: "tool",
      name: tool,
      epoch: 1,
      decisionId: "d",
      implementation: "legacy",
      timestamp: now(),
      reason: "test",
      by: { kind: "service", id: "rollback-controller" },
      appliedBy: [],
      notAppliedBy: [],
    });
  }

  failing(is: boolean): Promise<number> {
    return this.say("failover.failed", ["shop"], {
      service: "shop",
      timestamp: now(),
      rule: "no_candidate",
      reason: "test",
      failing: is,
      certificate,
    });
  }

  async events(...types: EventType[]): Promise<Event[]> {
    const found: Event[] = [];
    for await (const { content } of this.bus.read("AUDIT")) {
      if (content.kind === "event" && types.includes(content.event.type)) found.push(content.event);
    }
    return found;
  }
}

const now = (): string => new Date().toISOString();

export const until = <T>(ask: () => T | Promise<T>, wanted: (value: T) => boolean, withinMs = 10_000) => becomes(ask, wanted, { withinMs });
