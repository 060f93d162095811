import { type Event, latencyBucketsMs, type TrafficTool } from "@mcp-failover/contracts";
import type { RollbacksHeld } from "./evidence-routers.ts";
import { isOfAnotherClock } from "./store-time.ts";
import { bucketOf, type CallCounts, type CountWindow, countBuckets, mergedBucket, type ToolBucket } from "./tool-buckets.ts";
import { copyOfCallers, openToolCallers, type ToolCallers, takeCalls } from "./tool-callers.ts";

/**
 * How tools answer, as the routers count it: windows of calls of each tool, agent and the system, by implementation.
 *
 * T1  A call is counted once, in the second in which the store took the router's window.
 * T2  Seconds are kept for `secondsKeptMs`, tens of seconds for `tensKeptMs`; the tools heard longest ago go first over `scopesMax`.
 * T3  Folding reads nothing but its arguments. {@link foldToolTraffic} alters none of them; {@link takeToolTraffic} alters only the traffic that
 *     it is given, at the cost of the window's rows.
 */
export interface ToolTraffic {
  /** By `tool/<upstream>/<tool>`, `agent/<agent>` or `system/system`, then by implementation. */
  readonly scopes: ReadonlyMap<string, ScopeTraffic>;
  /** When each router was heard last, and the decision of each `scope/name` that it has applied. */
  readonly routers: ReadonlyMap<string, RollbacksHeld>;
  /** Who made the MCP calls of each scope lately. */
  readonly callers: ToolCallers;
  readonly lastSeq: number;
  readonly lastTimeMs: number;
}
interface ScopeTraffic {
  readonly mcp: Buckets;
  readonly legacy: Buckets;
  /** When an MCP call last failed or took longer than {@link slowAtLeastMs}; 0: never. */
  readonly badMs: number;
}
interface Buckets {
  readonly seconds: readonly ToolBucket[];
  readonly tens: readonly ToolBucket[];
}

const secondMs = 1000;
export const tenMs = 10 * secondMs;
const secondsKeptMs = 60 * secondMs;
export const tensKeptMs = 600 * secondMs;
const scopesMax = 2000;
const routersMax = 500;
const noBuckets: Buckets = { seconds: [], tens: [] };
const slowAtLeastMs = 250;

export const noToolTraffic: ToolTraffic = { scopes: new Map(), routers: new Map(), callers: openToolCallers(), lastSeq: 0, lastTimeMs: 0 };

interface ToolWindow {
  readonly seq: number;
  readonly timeMs: number;
  readonly event: Event<"traffic.observed">;
}
interface OwnToolTraffic extends ToolTraffic {
  scopes: Map<string, ScopeTraffic>;
  routers: Map<string, RollbacksHeld>;
  callers: ToolCallers;
  lastSeq: number;
  lastTimeMs: number;
}

/** No traffic yet, to be changed by {@link takeToolTraffic} alone. */
export function openToolTraffic(): ToolTraffic {
  return copyOf(noToolTraffic);
}

/** The traffic with one router's window more; what was given stays as it was (T3). For whoever keeps both. */
export function foldToolTraffic(traffic: ToolTraffic, window: ToolWindow): ToolTraffic {
  const next = copyOf(traffic);
  takeToolTraffic(next, window);
  return next;
}

function copyOf(traffic: ToolTraffic): OwnToolTraffic {
  const { scopes, routers, callers } = traffic;
  return { ...traffic, scopes: new Map(scopes), routers: new Map(routers), callers: copyOfCallers(callers) };
}

/** Takes one router's window into traffic from {@link openToolTraffic} (T1 to T3); where the store's clock was set back, all else is forgotten (ST1). */
export function takeToolTraffic(into: ToolTraffic, { seq, timeMs, event }: ToolWindow): void {
  const traffic = into as OwnToolTraffic;
  if (isOfAnotherClock(traffic.lastTimeMs, timeMs)) Object.assign(traffic, openToolTraffic());
  const { scopes, routers, callers } = traffic;
  for (const row of event.data.tools) {
    for (const key of keysOf(row)) {
      const before = scopes.get(key) ?? { mcp: noBuckets, legacy: noBuckets, badMs: 0 };
      scopes.delete(key);
      const badMs = isBad(row) ? timeMs : before.badMs;
      const { implementation } = row;
      const after = addTo(before[implementation], row, timeMs);
      scopes.set(key, implementation === "mcp" ? { mcp: after, legacy: before.legacy, badMs } : { mcp: before.mcp, legacy: after, badMs });
      if (implementation === "mcp") takeCalls(callers.routers, key, event.data.router, row, timeMs);
    }
    if (row.implementation === "mcp" && row.agent !== null) takeCalls(callers.agents, toolKey(row), row.agent, row, timeMs);
  }
  while (scopes.size > scopesMax) scopes.delete(scopes.keys().next().value as string);
  routers.delete(event.data.router);
  const { rollbacks, rollbackIds } = event.data;
  routers.set(event.data.router, { atMs: timeMs, rollbacks, rollbackIds });
  while (routers.size > routersMax) routers.delete(routers.keys().next().value as string);
  traffic.lastSeq = seq;
  traffic.lastTimeMs = timeMs;
}

function toolKey({ upstream, tool }: TrafficTool): string {
  return `tool/${upstream}/${tool}`;
}

function keysOf(row: TrafficTool): string[] {
  return row.agent === null ? [toolKey(row), "system/system"] : [toolKey(row), `agent/${row.agent}`, "system/system"];
}

function addTo({ seconds, tens }: Buckets, row: TrafficTool, timeMs: number): Buckets {
  return { seconds: add(seconds, row, timeMs, secondMs, secondsKeptMs), tens: add(tens, row, timeMs, tenMs, tensKeptMs) };
}

/** Store time does not go back, so the newest bucket is the last: what comes goes into it or behind it. */
function add(buckets: readonly ToolBucket[], row: TrafficTool, timeMs: number, widthMs: number, keptMs: number): readonly ToolBucket[] {
  const bucket = bucketOf(row, Math.floor(timeMs / widthMs) * widthMs);
  const last = buckets.at(-1);
  if (last !== undefined && last.startMs >= bucket.startMs) return buckets.with(-1, mergedBucket(last, bucket));
  let first = 0;
  while (first < buckets.length && (buckets[first] as ToolBucket).startMs <= bucket.startMs - keptMs) first += 1;
  return [...(first === 0 ? buckets : buckets.slice(first)), bucket];
}

/** Calls of one scope in [fromMs, toMs), over both edges rounded to whole seconds (or tens, for longer than a minute ago). */
export function countCalls(traffic: ToolTraffic, scope: string, implementation: "mcp" | "legacy", window: CountWindow): CallCounts {
  const buckets = traffic.scopes.get(scope)?.[implementation] ?? noBuckets;
  const fine = window.toMs - window.fromMs <= secondsKeptMs - 10 * secondMs;
  return countBuckets(fine ? buckets.seconds : buckets.tens, window);
}

/** The same over tens of seconds alone, whatever the length: as far back as anything is kept. */
export function countByTens(traffic: ToolTraffic, scope: string, implementation: "mcp" | "legacy", window: CountWindow): CallCounts {
  return countBuckets(traffic.scopes.get(scope)?.[implementation].tens ?? noBuckets.tens, window);
}

/**
 * When an MCP call of a scope last failed or took longer than `slowMs`, in store time; null: it cannot be told, because less is noted than was
 * asked for. 0: never.
 */
export function lastBadMs(traffic: ToolTraffic, scope: string, slowMs: number): number | null {
  return slowMs < slowAtLeastMs ? null : (traffic.scopes.get(scope)?.badMs ?? 0);
}

function isBad({ implementation, errors, latency }: TrafficTool): boolean {
  if (implementation !== "mcp") return false;
  if (errors > 0) return true;
  for (let index = 1; index < latency.length; index += 1) {
    if ((latency[index] as number) > 0 && (latencyBucketsMs[index - 1] ?? 0) >= slowAtLeastMs) return true;
  }
  return false;
}
