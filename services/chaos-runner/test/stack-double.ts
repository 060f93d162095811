import { randomUUID } from "node:crypto";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { type Bus, RefusedError, type ServiceDefinition } from "@mcp-failover/bus";
import { type Event, type EventType, makeEvent, type NewEvent, type StatusView } from "@mcp-failover/contracts";
import { becomes } from "@mcp-failover/testkit";
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import { z } from "zod";

type Endpoint = "primary" | "secondary";
type Upstream = StatusView["upstreams"][number];
const endpoints: readonly Endpoint[] = ["primary", "secondary"];
const folded = { AUDIT: null, SIGNALS: null };
const certificate = { decider: "decideFailover", rule: "test", policyHash: "p", nowMs: 0, folded, input: {}, rejected: [] };

/**
 * What the runner meets: launcher, fault proxy and state-store on the bus, and a real MCP server in the router's place. The upstream
 * `shop` has two processes; the double notices a dead active one after `noticeMs` and moves, unless it is held.
 */
export class StackDouble {
  readonly bus: Bus;
  readonly down = new Set<Endpoint>();
  readonly delayMs = new Map<Endpoint, number>();
  /** What was asked of launcher and fault proxy, in order. */
  readonly asked: string[] = [];
  active: Endpoint = "primary";
  epoch = 0;
  held = false;
  /** What the status says beside that: a hold, other upstreams, that it is a backup. */
  shown: { hold?: Upstream["held"]; others?: readonly Upstream[]; backupUpToSeq?: number } = {};
  /** What the failover-controller says once, the next time that it is needed. */
  refusal: { readonly rule: string; readonly reason: string } | null = null;
  noticeMs = 150;
  /** Called by the tool; throws or answers otherwise where a test wants that. */
  answer: (served: Endpoint) => string = () => "stock: 7";
  /** The launcher kills and says that it did not. */
  losesKill = false;
  /** The next so many requests of the runner to the launcher are refused. */
  launcherRefuses = 0;
  routerUrl = "";
  readonly #leases = new Map<string, NodeJS.Timeout>();
  readonly #served: { stop(): Promise<void> }[] = [];
  #http: Server | null = null;
  #timer: NodeJS.Timeout | null = null;
  #noticed = new Set<Endpoint>();

  constructor(bus: Bus) {
    this.bus = bus;
  }

  /** `shop` and `topology`: what of the configuration is otherwise. */
  async start(more: { tools?: object; shop?: object; topology?: object } = {}): Promise<void> {
    const tools = more.tools ?? { write: {}, stock: { read_only: true } };
    const topology = {
      version: 1,
      upstreams: {
        shop: {
          kind: "mcp",
          endpoints: [
            { name: "primary", tier: 0, url: "http://127.0.0.1:1/mcp" },
            { name: "secondary", tier: 1, url: "http://127.0.0.1:2/mcp" },
          ],
          tools,
          ...more.shop,
        },
      },
      ...more.topology,
    };
    const applied = { version: 1, hash: "h", fileHash: null, by: operator, reason: "test", environment: "development", topology } as const;
    await this.bus.append(eventOf("config.applied", [], { ...applied, timestamp: new Date().toISOString() }));
    await this.#serve("state-store", { "state.status": async () => this.status() });
    await this.#serve("launcher", {
      "launcher.processes": async () => ({ processes: endpoints.map((endpoint) => this.#process(endpoint)) }),
      "launcher.kill": async ({ process, restartAfterMs }) => this.#kill(process, restartAfterMs ?? 0),
      "launcher.start": async ({ process }) => this.#start(process),
    });
    await this.#serve("fault-proxy", {
      "fault.set": async ({ proxy, latencyMs, ttlMs }) => this.#slow(proxy, latencyMs, ttlMs),
      "fault.clear": async ({ proxy }) => this.#clear(proxy),
      "fault.list": async () => ({
        proxies: endpoints.map((endpoint) => ({ proxy: `shop-${endpoint}`, fault: this.delayMs.has(endpoint) ? {} : null })),
      }),
    });
    await this.#listen();
    this.#timer = setInterval(() => this.#notice(), 20);
  }

  async stop(): Promise<void> {
    if (this.#timer !== null) clearInterval(this.#timer);
    for (const lease of this.#leases.values()) clearTimeout(lease);
    for (const served of this.#served) await served.stop();
    this.#http?.closeAllConnections();
    await new Promise<void>((resolve) => (this.#http === null ? resolve() : this.#http.close(() => resolve())));
    await this.bus.close();
  }

  status(): StatusView {
    const view = (name: Endpoint) => ({
      name,
      tier: name === "primary" ? 0 : 1,
      health: this.#noticed.has(name) ? ("unhealthy" as const) : ("healthy" as const),
      score: 1,
      breaker: "closed" as const,
      responseTime: 1,
      reason: null,
    });
    const since = new Date(0).toISOString();
    const shop = {
      name: "shop",
      critical: true,
      active: this.active,
      epoch: this.epoch,
      since,
      mode: "active_standby" as const,
      held: this.shown.hold ?? null,
      endpoints: endpoints.map(view),
    };
    const { others = [], backupUpToSeq } = this.shown;
    const status = { upstreams: [shop, ...others], rollback: { system: "mcp" as const, agents: {}, tools: {} }, services: [] };
    return backupUpToSeq === undefined ? status : { ...status, backupUpToSeq };
  }

  /** Chaos events and accepted commands in AUDIT, in its order. */
  async said(...types: EventType[]): Promise<Event[]> {
    const events: Event[] = [];
    for await (const { content } of this.bus.read("AUDIT")) {
      if (content.kind !== "event") continue;
      const { event } = content;
      const wanted = types.length === 0 ? event.type.startsWith("chaos.") || event.type === "command.accepted" : types.includes(event.type);
      if (wanted) events.push(event);
    }
    return events;
  }

  /** A decision as the failover-controller writes it. */
  async decide(epoch: number): Promise<void> {
    const state = { generation: 1, epoch, active: this.active, tier: 0, sinceMs: Date.now(), held: null, moves: [] };
    await this.bus.append(
      eventOf("failover.decided", ["shop"], {
        service: "shop",
        action: "moved",
        previousEndpoint: "primary",
        currentEndpoint: this.active,
        timestamp: new Date().toISOString(),
        automatic: true,
        by: { kind: "service", id: "failover-controller" },
        reason: "test",
        commandId: null,
        overrode: [],
        state,
        certificate,
      }),
    );
  }

  /** A refusal as the failover-controller writes it. */
  async refuse(rule: string, reason: string): Promise<void> {
    const by = { kind: "service", id: "failover-controller" } as const;
    const timestamp = new Date().toISOString();
    const refused = { service: "shop", timestamp, epoch: this.epoch, rule, reason, automatic: true, by, commandId: null };
    await this.bus.append(eventOf("failover.rejected", ["shop"], { ...refused, certificate }));
  }

  async #serve(name: string, handlers: ServiceDefinition["handlers"]): Promise<void> {
    this.#served.push(await this.bus.serve({ name, instance: `${name}-1`, version: "0.1.0", description: "double", handlers }));
  }

  #process(endpoint: Endpoint) {
    const isDown = this.down.has(endpoint);
    const name = `shop-${endpoint}`;
    const state = isDown ? ("backing_off" as const) : ("running" as const);
    return {
      name,
      kind: "upstream" as const,
      pid: isDown ? null : 4711,
      state,
      restarts: 0,
      endpoint: `shop/${endpoint}`,
      faultProxy: name,
    };
  }

  #kill(process: string, restartAfterMs: number) {
    const endpoint = endpointOf(process);
    this.asked.push(`kill ${process} ${restartAfterMs}`);
    this.down.add(endpoint);
    this.#lease(process, restartAfterMs, () => this.down.delete(endpoint));
    if (this.losesKill) throw new RefusedError("internal", "something failed after it", true);
    return { killed: process };
  }

  #start(process: string) {
    this.asked.push(`start ${process}`);
    if (this.launcherRefuses > 0) {
      this.launcherRefuses -= 1;
      throw new RefusedError("busy", "not now", true);
    }
    clearTimeout(this.#leases.get(process));
    this.down.delete(endpointOf(process));
    return this.#process(endpointOf(process));
  }

  #slow(proxy: string, latencyMs: number, ttlMs: number) {
    this.asked.push(`slow ${proxy} ${latencyMs} ${ttlMs}`);
    this.delayMs.set(endpointOf(proxy), latencyMs);
    this.#lease(proxy, ttlMs, () => this.delayMs.delete(endpointOf(proxy)));
    return {};
  }

  #clear(proxy: string) {
    this.asked.push(`clear ${proxy}`);
    clearTimeout(this.#leases.get(proxy));
    this.delayMs.delete(endpointOf(proxy));
    return {};
  }

  #lease(key: string, ms: number, end: () => void): void {
    clearTimeout(this.#leases.get(key));
    this.#leases.set(key, setTimeout(end, ms));
  }

  /** Health lags behind the truth by `noticeMs`. */
  #notice(): void {
    for (const endpoint of endpoints) {
      if (this.down.has(endpoint) === this.#noticed.has(endpoint)) continue;
      setTimeout(() => {
        if (this.down.has(endpoint)) this.#noticed.add(endpoint);
        else this.#noticed.delete(endpoint);
      }, this.noticeMs).unref();
    }
    const other = this.active === "primary" ? "secondary" : "primary";
    if (this.refusal !== null && this.#noticed.has(this.active)) {
      const { rule, reason } = this.refusal;
      this.refusal = null;
      void this.refuse(rule, reason);
    }
    if (this.held || !this.#noticed.has(this.active) || this.#noticed.has(other)) return;
    this.active = other;
    this.epoch += 1;
    void this.decide(this.epoch);
  }

  async #listen(): Promise<void> {
    const sessions = new Map<string, StreamableHTTPServerTransport>();
    const http = createServer((request, response) => {
      const known = sessions.get(String(request.headers["mcp-session-id"]));
      const open = async (): Promise<StreamableHTTPServerTransport> => {
        const onsessioninitialized = (id: string): void => void sessions.set(id, transport);
        const transport: StreamableHTTPServerTransport = new StreamableHTTPServerTransport({
          sessionIdGenerator: () => randomUUID(),
          enableJsonResponse: true,
          onsessioninitialized,
        });
        await this.#tools().connect(transport as never);
        return transport;
      };
      (known === undefined ? open() : Promise.resolve(known))
        .then((transport) => transport.handleRequest(request, response))
        .catch(() => response.destroy());
    });
    await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
    this.#http = http;
    this.routerUrl = `http://127.0.0.1:${(http.address() as AddressInfo).port}`;
  }

  #tools(): McpServer {
    const mcp = new McpServer({ name: "router double", version: "1" });
    const annotations = { readOnlyHint: true };
    mcp.registerTool("write", { description: "a write", inputSchema: { key: z.string() } }, async () => text("written"));
    mcp.registerTool(
      "stock",
      { description: "a read", inputSchema: { sku: z.string(), below: z.number().optional() }, annotations },
      async () => {
        // As the router does with reads: any endpoint that lives.
        const served = this.down.has(this.active) ? (this.active === "primary" ? "secondary" : "primary") : this.active;
        await sleep(usualMs + (this.delayMs.get(served) ?? 0));
        return text(this.answer(served));
      },
    );
    mcp.registerTool("objects", { description: "needs too much", inputSchema: { what: z.object({}) }, annotations }, async () =>
      text("never"),
    );
    return mcp;
  }
}

/** So slow that the noise of a busy test machine stays within the threshold of twice that. */
const usualMs = 200;
const operator = { kind: "operator", id: "ann" } as const;

function eventOf<T extends EventType>(type: T, keys: readonly string[], data: NewEvent<T>["data"]): Event<T> {
  return makeEvent({ type, keys, data, id: randomUUID(), service: "cli", instance: "test", timeMs: Date.now() } as NewEvent<T>);
}

function endpointOf(process: string): Endpoint {
  const endpoint = endpoints.find((name) => process === `shop-${name}`);
  if (endpoint === undefined) throw new RefusedError("unknown_process", `no process ${process}`);
  return endpoint;
}

function text(words: string) {
  return { content: [{ type: "text" as const, text: words }] };
}

/** Waits until a question has the answer that is wanted. */
export const until = <T>(ask: () => T | Promise<T>, wanted: (value: T) => boolean, withinMs = 8000) => becomes(ask, wanted, { withinMs });
