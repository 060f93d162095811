import { type Event, latencyBucketsMs, type TrafficTool } from "@mcp-failover/contracts";

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
  /** When each router was heard last, and the epoch of each `scope/name` that it has applied. */
  readonly routers: ReadonlyMap<string, { readonly atMs: number; readonly rollbacks: Readonly<Record<string, number>> }>;
  readonly lastSeq: number;
}
interface ScopeTraffic {
  readonly mcp: Buckets;
  readonly legacy: Buckets;
  /** When an MCP call last failed or took longer than {@link slowAtLeastMs}; 0: never. */
  readonly badMs: number;
}
interface Buckets {
  readonly seconds: readonly Bucket[];
  readonly tens: readonly Bucket[];
}
interface Bucket {
  readonly startMs: number;
  readonly calls: number;
  readonly errors: number;
  readonly latency: readonly number[];
}

/** Calls of a window; `slow` ones took longer than was asked for. */
export type CallCounts = { calls: number; errors: number; slow: number };

const secondMs = 1000;
const tenMs = 10 * secondMs;
const secondsKeptMs = 60 * secondMs;
const tensKeptMs = 600 * secondMs;
const scopesMax = 2000;
const routersMax = 500;
const noBuckets: Buckets = { seconds: [], tens: [] };
const slowAtLeastMs = 250;

export const noToolTraffic: ToolTraffic = { scopes: new Map(), routers: new Map(), lastSeq: 0 };

interface ToolWindow {
  readonly seq: number;
  readonly timeMs: number;
  readonly event: Event<"traffic.observed">;
}
interface OwnToolTraffic extends ToolTraffic {
  scopes: Map<string, ScopeTraffic>;
  routers: Map<string, { readonly atMs: number; readonly rollbacks: Readonly<Record<string, number>> }>;
  lastSeq: number;
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

function copyOf({ scopes, routers, lastSeq }: ToolTraffic): OwnToolTraffic {
  return { scopes: new Map(scopes), routers: new Map(routers), lastSeq };
}

/** Takes one router's window into traffic from {@link openToolTraffic} (T1 to T3). */
export function takeToolTraffic(into: ToolTraffic, { seq, timeMs, event }: ToolWindow): void {
  const traffic = into as OwnToolTraffic;
  const { scopes, routers } = traffic;
  for (const row of event.data.tools) {
    for (const key of keysOf(row)) {
      const before = scopes.get(key) ?? { mcp: noBuckets, legacy: noBuckets, badMs: 0 };
      scopes.delete(key);
      const badMs = isBad(row) ? timeMs : before.badMs;
      const { implementation } = row;
      const after = addTo(before[implementation], row, timeMs);
      scopes.set(key, implementation === "mcp" ? { mcp: after, legacy: before.legacy, badMs } : { mcp: before.mcp, legacy: after, badMs });
    }
  }
  while (scopes.size > scopesMax) scopes.delete(scopes.keys().next().value as string);
  routers.delete(event.data.router);
  routers.set(event.data.router, { atMs: timeMs, rollbacks: event.data.rollbacks });
  while (routers.size > routersMax) routers.delete(routers.keys().next().value as string);
  traffic.lastSeq = seq;
}

function keysOf({ upstream, tool, agent }: TrafficTool): string[] {
  const key = `tool/${upstream}/${tool}`;
  return agent === null ? [key, "system/system"] : [key, `agent/${agent}`, "system/system"];
}

function addTo({ seconds, tens }: Buckets, row: TrafficTool, timeMs: number): Buckets {
  return { seconds: add(seconds, row, timeMs, secondMs, secondsKeptMs), tens: add(tens, row, timeMs, tenMs, tensKeptMs) };
}

/** Store time does not go back, so the newest bucket is the last: what comes goes into it or behind it. */
function add(buckets: readonly Bucket[], row: TrafficTool, timeMs: number, widthMs: number, keptMs: number): readonly Bucket[] {
  const startMs = Math.floor(timeMs / widthMs) * widthMs;
  const last = buckets.at(-1);
  const goesOn = last !== undefined && last.startMs >= startMs;
  const errors = Math.min(row.errors, row.calls);
  const after: Bucket = goesOn
    ? {
        startMs: last.startMs,
        calls: last.calls + row.calls,
        errors: last.errors + errors,
        latency: sumOf(last.latency, row.latency),
      }
    : { startMs, calls: row.calls, errors, latency: row.latency };
  if (goesOn) return buckets.with(-1, after);
  let first = 0;
  while (first < buckets.length && (buckets[first] as Bucket).startMs <= startMs - keptMs) first += 1;
  return [...(first === 0 ? buckets : buckets.slice(first)), after];
}

function sumOf(counts: readonly number[], more: readonly number[]): readonly number[] {
  const sums = counts.slice();
  for (let index = 0; index < sums.length; index += 1) sums[index] = (sums[index] as number) + (more[index] ?? 0);
  return sums;
}

/** Calls of one scope in [fromMs, toMs), over both edges rounded to whole seconds (or tens, for longer than a minute ago). */
export function countCalls(
  traffic: ToolTraffic,
  scope: string,
  implementation: "mcp" | "legacy",
  window: { readonly fromMs: number; readonly toMs: number; readonly slowMs: number },
): CallCounts {
  const buckets = traffic.scopes.get(scope)?.[implementation] ?? noBuckets;
  const fine = window.toMs - window.fromMs <= secondsKeptMs - 10 * secondMs;
  const counts = { calls: 0, errors: 0, slow: 0 };
  for (const bucket of fine ? buckets.seconds : buckets.tens) {
    if (bucket.startMs < window.fromMs || bucket.startMs >= window.toMs) continue;
    counts.calls += bucket.calls;
    counts.errors += bucket.errors;
    counts.slow += Math.min(bucket.calls, slowOf(bucket, window.slowMs));
  }
  return counts;
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

/** Calls in the buckets that lie wholly above a limit; one that straddles it is not counted against anybody. */
function slowOf({ latency }: Bucket, slowMs: number): number {
  let slow = 0;
  for (let index = 0; index < latency.length; index += 1) {
    const lowerMs = index === 0 ? 0 : (latencyBucketsMs[index - 1] ?? Number.POSITIVE_INFINITY);
    if (lowerMs >= slowMs) slow += latency[index] as number;
  }
  return slow;
}
