import { type RouterError, rpcCodes } from "../errors.ts";
import type { Principal } from "../identity/principal.ts";
import type { Era } from "../mcp/envelope.ts";
import { DiscoverRefused } from "../mcp/era.ts";
import type { McpContext } from "../mcp/inbound.ts";
import { discoverRefused } from "../mcp/refusals.ts";
import { UpstreamError } from "../upstream-client.ts";
import { InnerError } from "./inner-answer.ts";
import { InnerSession, urisOf } from "./inner-session.ts";
import type { LocalCall } from "./local-request.ts";
import { oldestOfMost } from "./shares.ts";

type Value = Record<string, unknown>;
type Heard = (upstream: string, value: Value) => void;

const version = "2025-11-25";
const linksMax = 1000;
const idleMs = 10 * 60_000;
const askMs = 1500;
const connectMs = 500;
const endpointsMax = 4;

/**
 * Sessions of the router with upstreams that know nothing else, for clients that have none (2026-07-28). All requests of one agent whose client
 * says the same of itself share them. Guarantees:
 * K1  Two agents, or clients that can do different things, never share a session.
 * K2  One that nobody used for `idleMs` is ended, but none in which a call runs or waits for its client.
 * K3  When there are too many, one goes of the agent that has the most.
 */
export class Links {
  readonly #mcp: McpContext;
  readonly #call: LocalCall;
  readonly #links = new Map<string, Link>();
  constructor(mcp: McpContext, call: LocalCall) {
    this.#mcp = mcp;
    this.#call = call;
  }

  of(principal: Principal, clientInfo: unknown, capabilities: unknown): Link {
    const key = JSON.stringify([principal.id, clientInfo, capabilities]);
    const clientParams = { protocolVersion: version, capabilities: capabilities ?? {}, clientInfo: clientInfo ?? unnamed };
    const link = this.#links.get(key) ?? new Link(this.#call, clientParams, principal, key);
    this.#links.delete(key);
    this.#links.set(key, link);
    link.principal = principal;
    link.usedAtMs = this.#mcp.nowMs();
    if (this.#links.size > linksMax) this.#drop(oldestOfMost(this.#links.values(), agentOf, (one) => one !== link && !one.busy));
    return link;
  }
  sweep(): void {
    const beforeMs = this.#mcp.nowMs() - idleMs;
    for (const link of this.#links.values()) if (!link.busy && link.usedAtMs < beforeMs) this.#drop(link);
  }
  close(): void {
    for (const link of this.#links.values()) link.close();
    this.#links.clear();
  }
  #drop(link: Link | undefined): void {
    if (link === undefined) return;
    this.#links.delete(link.key);
    link.end().catch((error: unknown) => this.#mcp.log.debug({ err: error }, "a session of /mcp could not be ended"));
  }
}

const agentOf = ({ principal }: Link): string => principal.id;

const unnamed = { name: "mcp-failover", version: "1" };

export class Link {
  readonly key: string;
  principal: Principal;
  usedAtMs = 0;
  /** Requests that run, or wait for their client. */
  running = 0;
  readonly #call: LocalCall;
  readonly #clientParams: Value;
  readonly #inner = new Map<string, InnerSession>();
  readonly #listeners = new Set<Heard>();
  /** Listeners of a resource, by `upstream uri`. */
  readonly #subscribed = new Map<string, number>();
  /** Those of them that the server was asked for. */
  readonly #confirmed = new Set<string>();
  #number = 0;

  constructor(call: LocalCall, clientParams: Value, principal: Principal, key: string) {
    this.#call = call;
    this.#clientParams = clientParams;
    this.principal = principal;
    this.key = key;
  }
  get busy(): boolean {
    return this.running > 0 || this.#listeners.size > 0;
  }

  with(upstream: string): InnerSession {
    let inner = this.#inner.get(upstream);
    if (inner === undefined) {
      inner = new InnerSession(upstream, {
        call: this.#call,
        principal: () => this.principal,
        clientParams: this.#clientParams,
        passed: {},
        known: () => Promise.resolve(null),
        learned: (_upstream, id) => Promise.resolve(id),
        heard: (name, _message, value) => {
          if (this.principal.mayUse(name)) for (const heard of this.#listeners) heard(name, value);
        },
        wanted: () => this.#listeners.size > 0,
        level: () => Promise.resolve(undefined),
        subscriptions: async (name) => urisOf(name, this.#subscribed.keys()),
      });
      this.#inner.set(upstream, inner);
    }
    return inner;
  }

  /** What the servers say by themselves, as long as somebody listens. Returns how to stop. */
  listen(heard: Heard): () => void {
    this.#listeners.add(heard);
    return () => {
      this.#listeners.delete(heard);
      if (this.#listeners.size === 0) for (const inner of this.#inner.values()) inner.stopListening();
    };
  }

  /** The first listener of a resource subscribes to it, the last one ends that. One that could not be asked for is not counted, and asked for again. */
  async subscribe(upstream: string, uri: string, by: 1 | -1): Promise<void> {
    const key = `${upstream} ${uri}`;
    const left = this.#count(key, by);
    const inner = this.with(upstream);
    if (left <= 0) this.#confirmed.delete(key);
    // A session that is begun later subscribes to all of them itself.
    if (!inner.begun || (by === 1 ? this.#confirmed.has(key) : left > 0)) return;
    const method = by === 1 ? "resources/subscribe" : "resources/unsubscribe";
    this.#number += 1;
    try {
      await inner.request({ jsonrpc: "2.0", id: `mcpl-${this.#number}`, method, params: { uri } }, {}, () => undefined);
    } catch (error) {
      if (by === 1) this.#count(key, -1);
      throw error;
    }
    if (by === 1) this.#confirmed.add(key);
  }

  #count(key: string, by: 1 | -1): number {
    const left = (this.#subscribed.get(key) ?? 0) + by;
    if (left > 0) this.#subscribed.set(key, left);
    else this.#subscribed.delete(key);
    return left;
  }

  close(): void {
    for (const inner of this.#inner.values()) inner.close();
  }
  async end(): Promise<void> {
    await Promise.allSettled([...this.#inner.values()].map((inner) => inner.end()));
  }
}

/**
 * The era of whatever serves the upstream now: its active endpoint, or the first other one that can be asked. `otherwise`: where one of them takes no
 * question. Throws {@link InnerError} without that.
 */
export async function eraOf({ control, eras }: McpContext, upstream: string, otherwise?: Era): Promise<Era> {
  const view = control.upstream(upstream);
  const endpoints = [...(view?.endpoints ?? [])].sort((a, b) => Number(b.name === view?.active) - Number(a.name === view?.active));
  let refused: RouterError | null = null;
  for (const endpoint of endpoints.slice(0, endpointsMax)) {
    try {
      return eras.known(endpoint) ?? (await eras.ask(endpoint, connectMs, AbortSignal.timeout(askMs)));
    } catch (error) {
      if (error instanceof DiscoverRefused) refused ??= discoverRefused(error, endpoint.name);
      else if (!(error instanceof UpstreamError)) throw error;
    }
  }
  if (refused !== null) {
    if (otherwise !== undefined) return otherwise;
    const { code, message, retriable, retryAfterMs } = refused;
    const data = { code, upstream, retriable, ...(retryAfterMs === undefined ? {} : { retryAfterMs }) };
    throw new InnerError({ code: rpcCodes[code], message, data });
  }
  // Nobody is there: the call itself finds that out, and gets the typed error.
  return "modern";
}
