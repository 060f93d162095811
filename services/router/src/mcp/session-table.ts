import { RefusedRequest, type RouterError, rpcCodes } from "../errors.ts";
import type { Principal } from "../identity/principal.ts";
import { LogBudget } from "./log-budget.ts";
import type { SealedSession, Sealer } from "./seal.ts";
import { Session } from "./session.ts";

/**
 * The sessions that a process has in memory (requirement R25). Guarantees:
 * T1  There are never more than `sessionsMax`, nor more than `agentSessionsMax` of one agent (of one address, where nobody has to say who
 *     he is).
 * T2  One that is in use stays. An agent for which none can leave begins no further one, and none of its own comes back: it is told so.
 * T3  What leaves is idle, and the one of its agent that was unused for longest: the same agent's where that has its share, else that of
 *     the agent that has most. An agent never loses one to another that has as many.
 */
export interface SessionTable {
  readonly size: number;
  /**
   * Opens a session id. Null: not one of ours, of another upstream, of another principal, or ended; they all look the same from outside.
   * Throws {@link SessionsFullError}.
   */
  open(id: string, upstream: string, principal: Pick<Principal, "id" | "holder">): Session | null;
  /** Throws {@link SessionsFullError} where {@link start} would find no place, so that no server is asked in vain. */
  admit(holder: string): void;
  /**
   * Starts a session; throws when its content is too large for an id. One that finds no place, because others were faster since `admit`, is
   * in its id alone.
   */
  start(sealed: SealedSession, holder: string): Session;
  end(session: Session): void;
  /** Drops idle sessions and old marks of ended ones. */
  sweep(): void;
  all(): Iterable<Session>;
  /** One that is in memory, by the key that other router processes know it by. */
  byKey(key: string): Session | null;
}

export interface SessionTableOptions {
  readonly sealer: Sealer;
  readonly sessionsMax: number;
  readonly agentSessionsMax: number;
  readonly idleMs: number;
  readonly nowMs: () => number;
}

const orderMs = 1000;
const againMs = 1000;

/** No session of the agent, or of all, can leave the memory for another one. */
export class SessionsFullError extends RefusedRequest {
  override readonly retriable = true;
  readonly problem: RouterError;
  constructor(message: string) {
    super(429, rpcCodes.overloaded, message, { "retry-after": String(againMs / 1000) });
    this.problem = { code: "overloaded", message, retriable: true, retryAfterMs: againMs };
  }
}

export function createSessionTable(options: SessionTableOptions): SessionTable {
  const { sealer, nowMs, sessionsMax, agentSessionsMax } = options;
  const sessions = new Map<string, Session>();
  const keyed = new Map<string, Session>();
  /** Of each agent, in order of last use. */
  const held = new Map<string, Set<Session>>();
  const endedIds = new Map<string, number>();
  const budget = new LogBudget();

  const keep = (session: Session): Session => {
    sessions.set(session.id, session);
    keyed.set(session.sealed.key, session);
    const its = held.get(session.holder);
    if (its === undefined) held.set(session.holder, new Set([session]));
    else its.add(session);
    return session;
  };
  const drop = (session: Session): void => {
    session.logs.clear();
    sessions.delete(session.id);
    keyed.delete(session.sealed.key);
    const its = held.get(session.holder);
    its?.delete(session);
    if (its?.size === 0) held.delete(session.holder);
  };

  /** What leaves for one more of this agent (T3); null: nothing has to, undefined: nothing can. */
  const leavingFor = (holder: string): Session | null | undefined => {
    const its = held.get(holder);
    const count = its?.size ?? 0;
    if (count >= agentSessionsMax) return idleOf(its);
    if (sessions.size < sessionsMax) return null;
    let most = count;
    let leaving: Session | undefined;
    for (const others of held.values()) {
      if (others.size <= most) continue;
      const idle = idleOf(others);
      if (idle === undefined) continue;
      most = others.size;
      leaving = idle;
    }
    return leaving ?? idleOf(its);
  };
  const full = (holder: string): SessionsFullError => {
    const count = held.get(holder)?.size ?? 0;
    return new SessionsFullError(
      count >= agentSessionsMax
        ? `all ${count} sessions that one agent may have here are in use: end some, or have MCPF_ROUTER_AGENT_SESSIONS_MAX raised`
        : `all ${sessions.size} sessions that this process may have are in use: try again later, or have more router processes started`,
    );
  };

  return {
    get size() {
      return sessions.size;
    },
    open(id, upstream, principal) {
      const known = sessions.get(id);
      if (known !== undefined) {
        if (known.sealed.upstream !== upstream || (known.sealed.principal ?? "") !== principal.id || known.ended) return null;
        const atMs = nowMs();
        // In order of last use to within a second: each move costs more than finding it.
        if (atMs - known.orderedAtMs >= orderMs || atMs < known.orderedAtMs) {
          known.orderedAtMs = atMs;
          const its = held.get(known.holder);
          its?.delete(known);
          its?.add(known);
        }
        known.lastUsedAtMs = atMs;
        return known;
      }
      if (endedIds.has(id)) return null;
      const sealed = sealer.open(id);
      if (sealed === null || sealed.upstream !== upstream || (sealed.principal ?? "") !== principal.id) return null;
      const leaving = leavingFor(principal.holder);
      if (leaving === undefined) throw full(principal.holder);
      if (leaving !== null) drop(leaving);
      return keep(new Session(id, sealed, nowMs(), principal.holder, budget));
    },
    admit(holder) {
      if (leavingFor(holder) === undefined) throw full(holder);
    },
    start(sealed, holder) {
      const session = new Session(sealer.seal(sealed), sealed, nowMs(), holder, budget);
      const leaving = leavingFor(holder);
      if (leaving === undefined) return session;
      if (leaving !== null) drop(leaving);
      return keep(session);
    },
    end(session) {
      session.ended = true;
      drop(session);
      endedIds.set(session.id, nowMs());
      if (endedIds.size > sessionsMax) endedIds.delete(endedIds.keys().next().value as string);
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
    byKey: (key) => keyed.get(key) ?? null,
  };
}

/** Unused for longest; undefined: all are in use. */
function idleOf(sessions: ReadonlySet<Session> = new Set()): Session | undefined {
  for (const session of sessions) if (!session.busy) return session;
  return undefined;
}
