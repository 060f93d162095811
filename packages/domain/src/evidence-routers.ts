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

/** The same for a rollback decision of one `scope/name`. */
export function routersApplying(
  heard: { readonly routers: ReadonlyMap<string, Pick<RouterSeen, "atMs" | "rollbacks">> },
  scopeAndName: string,
  epoch: number,
  liveMs: number,
  nowMs: number,
): { appliedBy: string[]; notAppliedBy: string[] } {
  return splitRouters(heard.routers, ({ rollbacks }) => (rollbacks[scopeAndName] ?? -1) >= epoch, liveMs, nowMs);
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
