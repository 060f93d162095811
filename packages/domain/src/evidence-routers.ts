import type { Evidence, RouterSeen } from "./evidence.ts";

/** Which live routers hold a route at least as new, and which do not, sorted. */
export function routersHolding(
  evidence: Evidence,
  upstream: string,
  route: { readonly generation: number; readonly epoch: number },
  liveMs: number,
  nowMs: number,
): { appliedBy: string[]; notAppliedBy: string[] } {
  const holds = ({ routes }: RouterSeen): boolean => {
    const held = routes[upstream];
    return (
      held !== undefined && (held.generation > route.generation || (held.generation === route.generation && held.epoch >= route.epoch))
    );
  };
  return splitRouters(evidence.routers, holds, liveMs, nowMs);
}

/** Which rollback decisions a router holds, by `scope/name`: their epochs, and their events' ids as far as they are known. */
export interface RollbacksHeld {
  readonly atMs: number;
  readonly rollbacks: Readonly<Record<string, number>>;
  readonly rollbackIds?: Readonly<Record<string, string>> | undefined;
}
type RouterRollbacks = { readonly routers: ReadonlyMap<string, RollbacksHeld> };
/** A decision of the log about one scope. */
export interface DecisionPlace {
  readonly epoch: number;
  /** Of its event. */
  readonly id: string;
  /** The log was adopted since: whatever else a router holds, at whatever epoch, is of another log. */
  readonly adopted?: boolean;
}

/**
 * The same for a rollback decision of one `scope/name`: who holds it, or the log's newest one after it. A higher epoch alone says nothing,
 * because it may be that of a log that was lost.
 */
export function routersApplying(
  heard: RouterRollbacks,
  scopeAndName: string,
  { decision, newest }: { readonly decision: DecisionPlace; readonly newest: DecisionPlace | null },
  liveMs: number,
  nowMs: number,
): { appliedBy: string[]; notAppliedBy: string[] } {
  const goneOn = newest !== null && newest.epoch > decision.epoch ? newest : decision;
  const applied = (held: RollbacksHeld): boolean => holds(held, scopeAndName, decision) || holds(held, scopeAndName, goneOn);
  return splitRouters(heard.routers, applied, liveMs, nowMs);
}

/** Whether a router holds a decision; by the epoch alone where it does not say which event that was. */
function holds({ rollbacks, rollbackIds }: RollbacksHeld, scopeAndName: string, { epoch, id }: DecisionPlace): boolean {
  return rollbacks[scopeAndName] === epoch && (rollbackIds?.[scopeAndName] ?? id) === id;
}

/** The epoch of a decision of one `scope/name` that a router holds, and that neither the log knows nor its next epoch would replace; null: none. */
function unknownEpoch(held: RollbacksHeld, scopeAndName: string, newest: DecisionPlace | null): number | null {
  const epoch = held.rollbacks[scopeAndName];
  const from = newest === null || newest.adopted === true ? 1 : newest.epoch;
  if (epoch === undefined || epoch < from) return null;
  return newest !== null && holds(held, scopeAndName, newest) ? null : epoch;
}

/**
 * The highest epoch of a decision of one `scope/name` that a router holds and that the log does not know, or does not know yet; null: none.
 * After a loss of the log it is at the log's own or above it (design, "When the log is lost or restored"). `newest`: the log's.
 */
export function seenRollback({ routers }: RouterRollbacks, scopeAndName: string, newest: DecisionPlace | null): number | null {
  const unknown = [...routers.values()].flatMap((held) => unknownEpoch(held, scopeAndName, newest) ?? []);
  return unknown.length === 0 ? null : Math.max(...unknown);
}

/** The scopes that {@link seenRollback} finds something of, by one look at what routers hold. */
export function rollbacksAhead({ routers }: RouterRollbacks, newest: ReadonlyMap<string, DecisionPlace>): Set<string> {
  const ahead = new Set<string>();
  for (const held of routers.values()) {
    for (const key of Object.keys(held.rollbacks)) if (unknownEpoch(held, key, newest.get(key) ?? null) !== null) ahead.add(key);
  }
  return ahead;
}

function splitRouters<S extends { readonly atMs: number }>(
  routers: ReadonlyMap<string, S>,
  applied: (seen: S) => boolean,
  liveMs: number,
  nowMs: number,
) {
  const live = [...routers].filter(([, seen]) => nowMs - seen.atMs <= liveMs).sort(([a], [b]) => (a < b ? -1 : 1));
  return {
    appliedBy: live.filter(([, seen]) => applied(seen)).map(([router]) => router),
    notAppliedBy: live.filter(([, seen]) => !applied(seen)).map(([router]) => router),
  };
}

/** The highest epoch of an upstream that a router says it holds, in this generation of the log; 0: none. After a loss of the log it is above the log's own. */
export function seenEpoch(evidence: Evidence, upstream: string, generation: number): number {
  let highest = 0;
  for (const { routes } of evidence.routers.values()) {
    const held = routes[upstream];
    if (held?.generation === generation) highest = Math.max(highest, held.epoch);
  }
  return highest;
}
