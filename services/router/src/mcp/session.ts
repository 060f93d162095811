import { createHash } from "node:crypto";
import { LogBudget } from "./log-budget.ts";
import { nowhere, type SealedSession, type Sealer } from "./seal.ts";
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
  /** Requests that a client's `cancelled` may name, with where they run. */
  readonly running = new RunningCalls();
  /** Of these, the reads that were made at a second endpoint too. */
  readonly hedged = new RunningCalls();
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
  lastUsedAtMs: number;
  /** When it was put at the end of the table. */
  orderedAtMs: number;

  constructor(id: string, sealed: SealedSession, nowMs: number, budget: LogBudget = new LogBudget()) {
    this.logs = new StreamLogs(budget.of(sealed.principal ?? ""));
    this.id = id;
    this.sealed = sealed;
    this.home = sealed.endpoint;
    this.lastUsedAtMs = nowMs;
    this.orderedAtMs = nowMs;
    if (sealed.endpoint !== nowhere) this.holds.set(sealed.endpoint, newHold(sealed.endpoint, sealed.upstreamSession, nowMs));
  }

  /** The hold that an event id or a rewritten request id names, while the session is still there. */
  holdByTag(tag: string): Hold | null {
    for (const hold of this.holds.values()) if (hold.tag === tag) return hold;
    return null;
  }
  get busy(): boolean {
    return this.stream !== null || this.running.size > 0 || this.hedged.size > 0 || this.replays.size > 0;
  }
}

/**
 * Where the requests of a session run, by their ids: mostly one or two. A `Map` makes a new table with each that comes and goes, and keeps
 * them alive for the collector (`in-order.ts` says how).
 */
export class RunningCalls {
  readonly #ids: (string | number)[] = [];
  readonly #holds: Hold[] = [];

  get size(): number {
    return this.#ids.length;
  }
  get(id: string | number): Hold | undefined {
    return this.#holds[this.#ids.indexOf(id)];
  }
  set(id: string | number, hold: Hold): void {
    const at = this.#ids.indexOf(id);
    this.#ids[at === -1 ? this.#ids.length : at] = id;
    this.#holds[at === -1 ? this.#holds.length : at] = hold;
  }
  delete(id: string | number): void {
    const at = this.#ids.indexOf(id);
    const [lastId, lastHold] = [this.#ids.at(-1), this.#holds.at(-1)];
    if (at === -1 || lastId === undefined || lastHold === undefined) return;
    this.#ids[at] = lastId;
    this.#holds[at] = lastHold;
    this.#ids.pop();
    this.#holds.pop();
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

const orderMs = 1000;
export const subscriptionsMax = 256;
export const runningMax = 1024;
export const parkedMax = 256;

export interface SessionTableOptions {
  readonly sealer: Sealer;
  readonly sessionsMax: number;
  readonly idleMs: number;
  readonly nowMs: () => number;
}

/** The sessions that this process has in memory. */
export interface SessionTable {
  readonly size: number;
  /** Opens a session id. Null: not one of ours, of another upstream, of another principal, or ended; they all look the same from outside. */
  open(id: string, upstream: string, principal?: string): Session | null;
  /** Starts a session; throws when its content is too large for an id. */
  start(sealed: SealedSession): Session;
  end(session: Session): void;
  /** Drops idle sessions and old marks of ended ones. */
  sweep(): void;
  all(): Iterable<Session>;
}

export function createSessionTable(options: SessionTableOptions): SessionTable {
  const { sealer, nowMs } = options;
  const sessions = new Map<string, Session>();
  const endedIds = new Map<string, number>();
  const budget = new LogBudget();
  const drop = (session: Session): void => {
    session.logs.clear();
    sessions.delete(session.id);
  };

  const keep = (session: Session): Session => {
    sessions.set(session.id, session);
    if (sessions.size > options.sessionsMax) dropOldest();
    return session;
  };
  // The map is in order of last use; a busy session is passed over.
  const dropOldest = (): void => {
    let looked = 0;
    for (const session of sessions.values()) {
      if (!session.busy) {
        drop(session);
        return;
      }
      if (++looked >= 100) return;
    }
  };

  return {
    get size() {
      return sessions.size;
    },
    open(id, upstream, principal = "") {
      const known = sessions.get(id);
      if (known !== undefined) {
        if (known.sealed.upstream !== upstream || (known.sealed.principal ?? "") !== principal || known.ended) return null;
        const atMs = nowMs();
        // In order of last use to within a second: each move costs more than finding it.
        if (atMs - known.orderedAtMs >= orderMs || atMs < known.orderedAtMs) {
          known.orderedAtMs = atMs;
          sessions.delete(id);
          sessions.set(id, known);
        }
        known.lastUsedAtMs = atMs;
        return known;
      }
      if (endedIds.has(id)) return null;
      const sealed = sealer.open(id);
      if (sealed === null || sealed.upstream !== upstream || (sealed.principal ?? "") !== principal) return null;
      return keep(new Session(id, sealed, nowMs(), budget));
    },
    start: (sealed) => keep(new Session(sealer.seal(sealed), sealed, nowMs(), budget)),
    end(session) {
      session.ended = true;
      drop(session);
      endedIds.set(session.id, nowMs());
      if (endedIds.size > options.sessionsMax) endedIds.delete(endedIds.keys().next().value as string);
    },
    sweep() {
      const before = nowMs() - options.idleMs;
      for (const session of sessions.values()) {
        if (session.lastUsedAtMs < before && !session.busy) drop(session);
        else session.logs.sweep(nowMs());
      }
      for (const [id, atMs] of endedIds) if (atMs < nowMs() - 24 * 3_600_000) endedIds.delete(id);
    },
    all: () => sessions.values(),
  };
}
