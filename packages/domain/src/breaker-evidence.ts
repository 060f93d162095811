import { type BreakerState, latencyBucketsMs } from "@mcp-failover/contracts";
import type { BreakerPolicy } from "./policy.ts";
import { timeOfThisClock } from "./store-time.ts";
import { callsOf, type EndpointWindow, type ObserverWindow, slotMs, type WindowBucket } from "./window.ts";

/** The window as it stood at the end of one second. */
export interface Evaluation {
  readonly atMs: number;
  readonly calls: number;
  readonly hard: number;
  /** Slow answers, and calls in flight for longer than slow. */
  readonly slow: number;
}
/** What one observer has to say on one endpoint, small enough to be kept in the certificate of a decision. */
export interface ObserverEvidence {
  readonly observer: string;
  readonly kind: "prober" | "router";
  /** Of the last seconds with calls, oldest first; at most as many as the policy asks for in a row. */
  readonly evaluations: readonly Evaluation[];
  /** Hard failures in a row, up to now. */
  readonly hardRun: number;
  readonly runSinceMs: number | null;
  readonly lastNotHardAtMs: number | null;
  readonly lastAtMs: number;
  /** Calls that the endpoint answered (also with an error of the caller's) since the breaker's last change. */
  readonly answered: number;
  /** A call is slow above this; null while not enough is known of what is usual. */
  readonly slowMs: number | null;
  /** Since when calls are overdue and a look had no answer either; absent: it does not hang. */
  readonly hungSinceMs?: number;
  /** Until when the endpoint asked to be left alone; absent: it did not. */
  readonly restUntilMs?: number;
}

/** The part of a breaker's state that says which evidence counts. */
export type EvidenceCut = Pick<BreakerState, "generation" | "sinceMs" | "renewed">;

/** What counts, oldest first: buckets, and before them slots where the window reaches back behind the buckets. */
interface Cells {
  readonly all: readonly WindowBucket[];
  /** So many of them, the first, are slots. */
  readonly slots: number;
}

/**
 * Reads the windows at a time: what each observer saw since the breaker's last change. Sorted by observer.
 * The window is `windowMs` long or, where the policy counts calls, holds the last `windowCalls` calls of the observer in whole seconds.
 */
export function evidenceOf(window: EndpointWindow, given: EvidenceCut, policy: BreakerPolicy, nowMs: number): readonly ObserverEvidence[] {
  const cut = cutOfThisClock(given, nowMs);
  const found: ObserverEvidence[] = [];
  for (const one of window.observers) {
    const evidence = evidenceOfObserver(one, cut, policy, nowMs);
    if (evidence !== null) found.push(evidence);
  }
  return found.length > 1 ? found.sort(byObserver) : found;
}

/** ST2: all that is in a window was said after the store's clock was set back. */
function cutOfThisClock(cut: EvidenceCut, nowMs: number): EvidenceCut {
  const sinceMs = timeOfThisClock(cut.sinceMs, nowMs);
  const renewedMs = timeOfThisClock(cut.renewed?.atMs ?? 0, nowMs);
  if (sinceMs === cut.sinceMs && renewedMs === (cut.renewed?.atMs ?? 0)) return cut;
  return { ...cut, sinceMs, ...(cut.renewed === undefined ? {} : { renewed: { ...cut.renewed, atMs: renewedMs } }) };
}

function byObserver(a: ObserverEvidence, b: ObserverEvidence): number {
  return a.observer === b.observer ? (a.kind < b.kind ? -1 : 1) : a.observer < b.observer ? -1 : 1;
}

function evidenceOfObserver(one: ObserverWindow, cut: EvidenceCut, policy: BreakerPolicy, nowMs: number): ObserverEvidence | null {
  const cells = countingCells(one, cut, policy, nowMs);
  const first = firstInWindow(cells, policy, nowMs);
  const last = cells.all.at(-1);
  if (last === undefined || first >= cells.all.length) return null;
  const slowMs = slowMsOf(one, policy, nowMs);
  let answered = 0;
  let hardRun = 0;
  let runSinceMs: number | null = null;
  let lastNotHardAtMs: number | null = null;
  let hungSinceMs: number | null = null;
  let restUntilMs: number | null = null;
  for (let index = first; index < cells.all.length; index += 1) {
    const bucket = cells.all[index] as WindowBucket;
    answered += bucket.ok + bucket.auth + bucket.caller;
    const allHard = callsOf(bucket) === bucket.hard;
    hardRun = allHard ? hardRun + bucket.hard : bucket.hardRunTail;
    runSinceMs = hardRun === 0 ? null : allHard ? (runSinceMs ?? bucket.tailSinceMs) : bucket.tailSinceMs;
    lastNotHardAtMs = bucket.lastNotHardAtMs ?? lastNotHardAtMs;
    hungSinceMs = bucket.hungSinceMs === null ? null : (hungSinceMs ?? bucket.hungSinceMs);
    restUntilMs = bucket.restUntilMs ?? restUntilMs;
  }
  return {
    observer: one.observer,
    kind: one.kind,
    evaluations: evaluate(cells, first, slowMs, policy, nowMs),
    hardRun,
    runSinceMs,
    lastNotHardAtMs,
    lastAtMs: last.lastAtMs,
    answered,
    slowMs,
    ...(hungSinceMs === null ? {} : { hungSinceMs }),
    ...(restUntilMs === null || restUntilMs <= nowMs ? {} : { restUntilMs }),
  };
}

function countingCells(one: ObserverWindow, cut: EvidenceCut, policy: BreakerPolicy, nowMs: number): Cells {
  const all: WindowBucket[] = [];
  const take = (bucket: WindowBucket): void => {
    if (bucket.lastAtMs <= nowMs && counts(bucket, cut)) all.push(bucket);
  };
  if (policy.windowCalls !== null) {
    const bucketsFromMs = Math.floor((one.buckets[0]?.atMs ?? Number.POSITIVE_INFINITY) / slotMs) * slotMs;
    for (const slot of one.slots) if (slot.atMs < bucketsFromMs && slot.atMs > nowMs - policy.baselineMs) take(slot);
  }
  const slots = all.length;
  let first = 0;
  if (policy.windowCalls === null) {
    // The oldest evaluation in the window looks back over a whole one; nothing reads what lies before.
    const fromMs = nowMs - 2 * policy.windowMs - policy.bucketMs;
    first = one.buckets.length;
    while (first > 0 && (one.buckets[first - 1] as WindowBucket).atMs >= fromMs) first -= 1;
  }
  for (let index = first; index < one.buckets.length; index += 1) take(one.buckets[index] as WindowBucket);
  return { all, slots };
}

function endMsOf(cells: Cells, index: number, policy: BreakerPolicy): number {
  return (cells.all[index] as WindowBucket).atMs + (index < cells.slots ? slotMs : policy.bucketMs);
}

/** Index of the first cell of the window that ends now. */
function firstInWindow(cells: Cells, policy: BreakerPolicy, nowMs: number): number {
  if (policy.windowCalls !== null) return firstOfCalls(cells, cells.all.length, policy.windowCalls);
  const first = cells.all.findIndex((bucket) => bucket.atMs > nowMs - policy.windowMs - policy.bucketMs);
  return first === -1 ? cells.all.length : first;
}

/** Index of the oldest of the newest cells before `end` that hold so many calls together; 0 where they do not. */
function firstOfCalls(cells: Cells, end: number, windowCalls: number): number {
  let index = end;
  for (let calls = 0; index > 0 && calls < windowCalls; index -= 1) calls += callsOf(cells.all[index - 1] as WindowBucket);
  return index;
}

/** Whether what is in a bucket came after the breaker's last change, and began after it. A bucket with one older call in it is left out whole. */
function counts(bucket: WindowBucket, cut: EvidenceCut): boolean {
  if (bucket.firstAtMs < (cut.renewed?.atMs ?? cut.sinceMs)) return false;
  if (bucket.generation === null) return bucket.startedAtMsMin >= cut.sinceMs;
  return bucket.generation <= cut.generation && bucket.generation >= cut.generation - (cut.renewed?.times ?? 0);
}

/**
 * The last evaluations: one at the end of each whole second that had calls. Seconds without anything new are none, because looking at the
 * same calls again would not be a second look.
 */
function evaluate(cells: Cells, first: number, slowMs: number | null, policy: BreakerPolicy, nowMs: number): readonly Evaluation[] {
  const evaluations: Evaluation[] = [];
  for (let index = cells.all.length - 1; index >= first && evaluations.length < policy.evaluations; index -= 1) {
    const bucket = cells.all[index] as WindowBucket;
    const endMs = endMsOf(cells, index, policy);
    if (endMs > nowMs || (bucket.inFlight === 0 && callsOf(bucket) === 0) || evaluations[0]?.atMs === endMs) continue;
    evaluations.unshift(evaluateAt(cells, index, endMs, slowMs, policy));
  }
  return evaluations;
}

/** The window that ends with the cell at `last`. */
function evaluateAt(cells: Cells, last: number, endMs: number, slowMs: number | null, policy: BreakerPolicy): Evaluation {
  const from = policy.windowCalls === null ? 0 : firstOfCalls(cells, last + 1, policy.windowCalls);
  const fromMs = policy.windowCalls === null ? endMs - policy.windowMs : Number.NEGATIVE_INFINITY;
  const slowIndex = slowMs === null ? latencyBucketsMs.length + 1 : firstSlowIndex(slowMs);
  let calls = 0;
  let hard = 0;
  let slow = 0;
  let index = last;
  for (; index >= from; index -= 1) {
    const bucket = cells.all[index] as WindowBucket;
    if (bucket.atMs < fromMs) break;
    calls += callsOf(bucket);
    hard += bucket.hard;
    for (let at = slowIndex; at < bucket.latency.length; at += 1) slow += bucket.latency[at] ?? 0;
  }
  const pending = slowMs === null ? 0 : slowInFlight(cells, index + 1, last, { slowMs, endMs, policy });
  return { atMs: endMs, calls: calls + pending, hard, slow: slow + pending };
}

/**
 * How many calls have certainly been in flight for longer than slow: those that were in flight that long ago less all that have ended
 * since, and the oldest one that the observer tells of.
 */
function slowInFlight(
  cells: Cells,
  first: number,
  last: number,
  { slowMs, endMs, policy }: { readonly slowMs: number; readonly endMs: number; readonly policy: BreakerPolicy },
): number {
  const latest = cells.all[last] as WindowBucket;
  if (latest.inFlight === 0) return 0;
  let ended = 0;
  let then = 0;
  for (let index = last; index >= first; index -= 1) {
    const bucket = cells.all[index] as WindowBucket;
    if (endMsOf(cells, index, policy) <= endMs - slowMs) {
      then = bucket.inFlight;
      break;
    }
    ended += callsOf(bucket);
  }
  return Math.min(latest.inFlight, Math.max(latest.oldestInFlightMs > slowMs ? 1 : 0, then - ended));
}

/** Only buckets of a histogram that lie wholly above the bound count: it must not make a fast call slow. */
function firstSlowIndex(slowMs: number): number {
  const index = latencyBucketsMs.findIndex((bound) => bound >= slowMs);
  return index === -1 ? latencyBucketsMs.length + 1 : index + 1;
}

/**
 * max(`slowMsMin`, `slowFactor` x the p95 of what is usual). Usual is what came before the window, so that a slow endpoint does not become
 * its own measure; where that is too little, the first calls known stand in. Null while even they are too few: unknown is not slow.
 */
function slowMsOf(one: ObserverWindow, policy: BreakerPolicy, nowMs: number): number | null {
  const beforeMs = nowMs - policy.windowMs;
  const { slots, buckets } = one;
  const histogram: number[] = [];
  for (let index = 0; index <= latencyBucketsMs.length; index += 1) histogram.push(0);
  let calls = 0;
  let coveredMs = Number.NEGATIVE_INFINITY;
  for (let index = 0; index < slots.length; index += 1) {
    const slot = slots[index] as WindowBucket;
    if (slot.atMs + slotMs > beforeMs || slot.atMs < beforeMs - policy.baselineMs) continue;
    calls += addTo(histogram, slot.latency);
    coveredMs = slot.atMs + slotMs;
  }
  for (let index = 0; index < buckets.length && calls < policy.minimumCalls; index += 1) {
    const bucket = buckets[index] as WindowBucket;
    if (bucket.atMs >= coveredMs) calls += addTo(histogram, bucket.latency);
  }
  if (calls < policy.minimumCalls) return null;
  let below = 0;
  let at = 0;
  for (; at < histogram.length; at += 1) {
    below += histogram[at] as number;
    if (below >= 0.95 * calls) break;
  }
  const p95 = latencyBucketsMs[at];
  return p95 === undefined ? null : Math.max(policy.slowMsMin, policy.slowFactor * p95);
}

/** How many were added. Most places of a histogram are empty. */
function addTo(histogram: number[], latency: readonly number[]): number {
  let calls = 0;
  const { length } = histogram;
  for (let index = 0; index < latency.length && index < length; index += 1) {
    const count = latency[index] as number;
    if (count === 0) continue;
    histogram[index] = (histogram[index] as number) + count;
    calls += count;
  }
  return calls;
}
