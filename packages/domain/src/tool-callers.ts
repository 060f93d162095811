import type { TrafficTool } from "@mcp-failover/contracts";
import { defaultPolicy } from "./policy.ts";
import { bucketOf, type CallCounts, type CountWindow, countBuckets, mergedBucket, type ToolBucket } from "./tool-buckets.ts";

/**
 * Who made the MCP calls of a scope lately: by router, and of a tool by agent too.
 *
 * TC1  A call is counted once a router and once an agent, in the second in which the store took it, and forgotten after {@link keptMs}.
 * TC2  So many pairs of a scope and a router, and of a tool and an agent, are told apart; what is over that is counted in `leftOut` and in
 *      nobody's name, so that whoever is known keeps his place however many names clients make up.
 * TC3  {@link takeCalls} alters only the callers that it is given.
 */
export interface ToolCallers {
  readonly routers: Callers;
  readonly agents: Callers;
}
export interface Callers {
  /** By scope as in `ToolTraffic`, then by name: seconds, oldest first. */
  readonly byScope: ReadonlyMap<string, ReadonlyMap<string, readonly ToolBucket[]>>;
  /** Pairs in `byScope`. */
  readonly pairs: number;
  /** Rows of windows that found no place. */
  readonly leftOut: number;
  readonly sweptMs: number;
}
interface OwnCallers extends Callers {
  byScope: Map<string, Map<string, ToolBucket[]>>;
  pairs: number;
  leftOut: number;
  sweptMs: number;
}

const secondMs = 1000;
/** All that a decision looks at, and what it is late. */
const keptMs = defaultPolicy.rollback.windowMs + 5 * secondMs;
const sweepEveryMs = 10 * secondMs;
/** 500 routers and 20 tools, or 20 routers and 500 tools; some 80 MB when all of them call all the time. */
export const callerPairsMax = 10_000;

export function openToolCallers(): ToolCallers {
  return { routers: openCallers(), agents: openCallers() };
}
function openCallers(): OwnCallers {
  return { byScope: new Map(), pairs: 0, leftOut: 0, sweptMs: 0 };
}

/** A copy that can be given to {@link takeCalls} while the other stays as it is. */
export function copyOfCallers({ routers, agents }: ToolCallers): ToolCallers {
  const copyOf = (callers: Callers): Callers => ({
    ...callers,
    byScope: new Map([...callers.byScope].map(([scope, all]) => [scope, new Map([...all].map(([name, seconds]) => [name, [...seconds]]))])),
  });
  return { routers: copyOf(routers), agents: copyOf(agents) };
}

/** Takes a row of a router's window, stored at `timeMs`, into what one router or agent has called (TC1 to TC3). */
export function takeCalls(into: Callers, scope: string, name: string, row: TrafficTool, timeMs: number): void {
  const callers = into as OwnCallers;
  if (timeMs - callers.sweptMs >= sweepEveryMs) sweep(callers, timeMs);
  let ofScope = callers.byScope.get(scope);
  const known = ofScope?.get(name);
  if (known === undefined && callers.pairs >= callerPairsMax) {
    callers.leftOut += 1;
    return;
  }
  const bucket = bucketOf(row, Math.floor(timeMs / secondMs) * secondMs);
  if (known === undefined) {
    if (ofScope === undefined) {
      ofScope = new Map();
      callers.byScope.set(scope, ofScope);
    }
    ofScope.set(name, [bucket]);
    callers.pairs += 1;
    return;
  }
  const last = known.at(-1);
  if (last !== undefined && last.startMs >= bucket.startMs) known[known.length - 1] = mergedBucket(last, bucket);
  else known.push(bucket);
  while ((known[0] as ToolBucket).startMs <= timeMs - keptMs - secondMs) known.shift();
}

function sweep(callers: OwnCallers, nowMs: number): void {
  callers.sweptMs = nowMs;
  for (const [scope, all] of callers.byScope) {
    for (const [name, seconds] of all) {
      if ((seconds.at(-1)?.startMs ?? 0) > nowMs - keptMs) continue;
      all.delete(name);
      callers.pairs -= 1;
    }
    if (all.size === 0) callers.byScope.delete(scope);
  }
}

/** Who called in a window, what came of it, and in which second his first call of it ended; those who called most first. */
export function callsBy(callers: Callers, scope: string, window: CountWindow): ({ name: string; fromMs: number } & CallCounts)[] {
  const found = [...(callers.byScope.get(scope) ?? [])].map(([name, seconds]) => {
    const fromMs = seconds.find(({ startMs }) => startMs >= window.fromMs)?.startMs ?? 0;
    return { name, fromMs, ...countBuckets(seconds, window) };
  });
  return found.filter(({ calls }) => calls > 0).sort((a, b) => b.calls - a.calls || (a.name < b.name ? -1 : 1));
}
