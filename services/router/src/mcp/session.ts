import { createHash } from "node:crypto";
import type { LogBudget } from "./log-budget.ts";
import { nowhere, type SealedSession } from "./seal.ts";
import type { SessionStream } from "./session-stream.ts";
import { StreamLogs } from "./stream-log.ts";

/**
 * A client's session as one router process knows it. All of it can be made anew from the sealed id and the directory, so that idle
 * sessions are dropped from memory without harm.
 */
export class Session {
  readonly id: string;
  readonly sealed: SealedSession;
  /** The session's places: one upstream session an endpoint. */
  readonly holds = new Map<string, Hold>();
  /** Replays that are under way, by endpoint: concurrent requests share one. */
  readonly replays = new Map<string, Promise<Hold>>();
  /** Requests that a client's `cancelled` may name, with what ends each (C5), wherever it waits or runs. */
  readonly calls = new RunningCalls<() => void>();
  /** Those that run at an endpoint, with where. */
  readonly running = new RunningCalls<Hold>();
  /** Of these, the reads that were made at a second endpoint too. */
  readonly hedged = new RunningCalls<Hold>();
  /** Requests whose stream the upstream closed before the answer, to be fetched with an event id; with the error for when it is lost. */
  readonly parked = new Map<string | number, { readonly tag: string; readonly error: object }>();
  readonly subscriptions = new Set<string>();
  /** What its streams have said, for a client that comes back. */
  readonly logs: StreamLogs;
  level: unknown;
  /** The endpoint whose tool list the client knows. */
  listedOn: string | null = null;
  /** Where the last call went; streams and answers of the client follow it. */
  home: string;
  ended = false;
  /** Lost for good: `sticky` and its endpoint is gone. */
  lost = false;
  stream: SessionStream | null = null;
  /** When a new connection took its stream from one that was open (`performance.now()`, T3 of `take-over.ts`). */
  takenOverAtMs = Number.NEGATIVE_INFINITY;
  /** `/mcp` has the client's stream open, or a call under way: it stays in memory. */
  isPinned = false;
  lastUsedAtMs: number;
  /** When it was put at the end of its agent's. */
  orderedAtMs: number;
  /** The agent whose share of the process's memory it takes. */
  readonly holder: string;

  constructor(id: string, sealed: SealedSession, nowMs: number, holder: string, budget: LogBudget) {
    this.logs = new StreamLogs(budget.of(holder));
    this.id = id;
    this.sealed = sealed;
    this.holder = holder;
    this.home = sealed.endpoint;
    this.lastUsedAtMs = nowMs;
    this.orderedAtMs = nowMs;
    if (sealed.endpoint !== nowhere) this.holds.set(sealed.endpoint, newHold(sealed.endpoint, sealed.upstreamSession, nowMs));
  }

  /** The endpoint that it lives on; null: it was begun while no server was there, and no server has it yet. */
  get place(): string | null {
    return this.home === nowhere ? null : this.home;
  }

  /** The hold that an event id or a rewritten request id names, while the session is still there. */
  holdByTag(tag: string): Hold | null {
    for (const hold of this.holds.values()) if (hold.tag === tag) return hold;
    return null;
  }
  get busy(): boolean {
    return (
      this.isPinned || this.stream !== null || this.calls.size > 0 || this.running.size > 0 || this.hedged.size > 0 || this.replays.size > 0
    );
  }
}

/**
 * The requests of a session that are under way, by their ids: mostly one or two. A `Map` makes a new table with each that comes and goes, and keeps
 * them alive for the collector (`in-order.ts` says how).
 */
export class RunningCalls<T> {
  readonly #ids: (string | number)[] = [];
  readonly #values: T[] = [];

  get size(): number {
    return this.#ids.length;
  }
  get(id: string | number): T | undefined {
    return this.#values[this.#ids.indexOf(id)];
  }
  set(id: string | number, value: T): void {
    const at = this.#ids.indexOf(id);
    this.#ids[at === -1 ? this.#ids.length : at] = id;
    this.#values[at === -1 ? this.#values.length : at] = value;
  }
  /** `value`: only where it is still this one, and not that of a later request with the same id. */
  delete(id: string | number, value?: T): void {
    const at = this.#ids.indexOf(id);
    const [lastId, last] = [this.#ids.at(-1), this.#values.at(-1)];
    if (at === -1 || lastId === undefined || last === undefined) return;
    if (value !== undefined && this.#values[at] !== value) return;
    this.#ids[at] = lastId;
    this.#values[at] = last;
    this.#ids.pop();
    this.#values.pop();
  }
}

/** One upstream session of a client's session. */
export interface Hold {
  readonly endpoint: string;
  readonly upstreamSession: string | null;
  /** Short name, the same in every router process; in event ids and in ids of the server's requests. */
  readonly tag: string;
  usedAtMs: number;
  inFlight: number;
}

export function newHold(endpoint: string, upstreamSession: string | null, nowMs: number): Hold {
  const tag = createHash("sha256").update(`${endpoint}\n${upstreamSession}`).digest("base64url").slice(0, 8);
  return { endpoint, upstreamSession, tag, usedAtMs: nowMs, inFlight: 0 };
}

export const subscriptionsMax = 256;
export const runningMax = 1024;
export const parkedMax = 256;
