import { type BreakerState, latencyBucketsMs } from "@mcp-failover/contracts";
import type { BreakerPolicy } from "./policy.ts";
import { callsOf, type EndpointWindow, type ObserverWindow, sumHistograms, type WindowBucket } from "./window.ts";

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
}

/** The part of a breaker's state that says which evidence counts. */
export type EvidenceCut = Pick<BreakerState, "generation" | "sinceMs" | "renewed">;

/** Reads the windows at a time: what each observer saw since the breaker's last change. Sorted by observer. */
export function evidenceOf(window: EndpointWindow, cut: EvidenceCut, policy: BreakerPolicy, nowMs: number): readonly ObserverEvidence[] {
  return Object.values(window)
    .map((one) => evidenceOfObserver(one, cut, policy, nowMs))
    .filter((evidence) => evidence !== null)
    .sort((a, b) => (a.observer === b.observer ? (a.kind < b.kind ? -1 : 1) : a.observer < b.observer ? -1 : 1));
}

function evidenceOfObserver(one: ObserverWindow, cut: EvidenceCut, policy: BreakerPolicy, nowMs: number): ObserverEvidence | null {
  const counting = one.buckets.filter((bucket) => bucket.lastAtMs <= nowMs && counts(bucket, cut));
  const inWindow = counting.filter((bucket) => bucket.atMs > nowMs - policy.windowMs - policy.bucketMs);
  const last = inWindow.at(-1);
  if (last === undefined) return null;
  const slowMs = slowMsOf(one, policy, nowMs);
  const run = standingRun(inWindow);
  return {
    observer: one.observer,
    kind: one.kind,
    evaluations: evaluate(counting, inWindow, slowMs, policy, nowMs),
    hardRun: run.length,
    runSinceMs: run.sinceMs,
    lastNotHardAtMs: inWindow.reduce<number | null>((latest, bucket) => bucket.lastNotHardAtMs ?? latest, null),
    lastAtMs: last.lastAtMs,
    answered: sum(inWindow, (bucket) => bucket.ok + bucket.auth + bucket.caller),
    slowMs,
  };
}

/** Whether what is in a bucket began after the breaker's last change. A bucket with one older call in it is left out whole. */
function counts(bucket: WindowBucket, cut: EvidenceCut): boolean {
  if (bucket.atMs < (cut.renewed?.atMs ?? cut.sinceMs)) return false;
  if (bucket.generation === null) return bucket.startedAtMsMin >= cut.sinceMs;
  return bucket.generation <= cut.generation && bucket.generation >= cut.generation - (cut.renewed?.times ?? 0);
}

function standingRun(buckets: readonly WindowBucket[]): { length: number; sinceMs: number | null } {
  let length = 0;
  let sinceMs: number | null = null;
  for (const bucket of buckets) {
    const allHard = callsOf(bucket) === bucket.hard;
    length = allHard ? length + bucket.hard : bucket.hardRunTail;
    sinceMs = length === 0 ? null : allHard ? (sinceMs ?? bucket.tailSinceMs) : bucket.tailSinceMs;
  }
  return { length, sinceMs };
}

/**
 * The last evaluations: one at the end of each whole second that had calls. Seconds without anything new are none, because looking at the
 * same calls again would not be a second look.
 */
function evaluate(
  counting: readonly WindowBucket[],
  inWindow: readonly WindowBucket[],
  slowMs: number | null,
  policy: BreakerPolicy,
  nowMs: number,
): readonly Evaluation[] {
  const ends = inWindow
    .filter((bucket) => callsOf(bucket) > 0 || bucket.inFlight > 0)
    .map((bucket) => bucket.atMs + policy.bucketMs)
    .filter((endMs) => endMs <= nowMs);
  return [...new Set(ends)].slice(-policy.evaluations).map((endMs) => {
    const seen = counting.filter((bucket) => bucket.atMs < endMs && bucket.atMs >= endMs - policy.windowMs);
    const pending = slowMs === null ? 0 : slowInFlight(seen, slowMs, endMs, policy.bucketMs);
    return {
      atMs: endMs,
      calls: sum(seen, callsOf) + pending,
      hard: sum(seen, (bucket) => bucket.hard),
      slow: (slowMs === null ? 0 : sum(seen, (bucket) => slowAnswers(bucket.latency, slowMs))) + pending,
    };
  });
}

/**
 * How many calls have certainly been in flight for longer than slow: those that were in flight that long ago less all that have ended
 * since, and the oldest one that the observer tells of.
 */
function slowInFlight(seen: readonly WindowBucket[], slowMs: number, endMs: number, bucketMs: number): number {
  const latest = seen.at(-1);
  if (latest === undefined || latest.inFlight === 0) return 0;
  const then = seen.findLast((bucket) => bucket.atMs + bucketMs <= endMs - slowMs);
  const ended = then === undefined ? 0 : sum(seen.slice(seen.indexOf(then) + 1), callsOf);
  return Math.min(latest.inFlight, Math.max(latest.oldestInFlightMs > slowMs ? 1 : 0, (then?.inFlight ?? 0) - ended));
}

/** Only buckets that lie wholly above the bound count: a histogram must not make a fast call slow. */
function slowAnswers(latency: readonly number[], slowMs: number): number {
  return latency.reduce((all, count, index) => ((latencyBucketsMs[index - 1] ?? 0) >= slowMs ? all + count : all), 0);
}

/**
 * max(`slowMsMin`, `slowFactor` x the p95 of what is usual). Usual is what came before the window, so that a slow endpoint does not become
 * its own measure; where that is too little, the first calls known stand in. Null while even they are too few: unknown is not slow.
 */
function slowMsOf(one: ObserverWindow, policy: BreakerPolicy, nowMs: number): number | null {
  const beforeMs = nowMs - policy.windowMs;
  const slotMs = policy.windowMs;
  const usual = one.slots.filter((slot) => slot.atMs + slotMs <= beforeMs && slot.atMs >= beforeMs - policy.baselineMs);
  let histogram = usual.reduce<readonly number[]>((all, slot) => (all.length === 0 ? slot.latency : sumHistograms(all, slot.latency)), []);
  const coveredMs = (usual.at(-1)?.atMs ?? Number.NEGATIVE_INFINITY) + slotMs;
  for (const bucket of one.buckets) {
    if (total(histogram) >= policy.minimumCalls) break;
    if (bucket.atMs < coveredMs) continue;
    histogram = histogram.length === 0 ? bucket.latency : sumHistograms(histogram, bucket.latency);
  }
  const calls = total(histogram);
  if (calls < policy.minimumCalls) return null;
  let below = 0;
  const index = histogram.findIndex((count) => {
    below += count;
    return below >= 0.95 * calls;
  });
  const p95 = latencyBucketsMs[index];
  return p95 === undefined ? null : Math.max(policy.slowMsMin, policy.slowFactor * p95);
}

function total(histogram: readonly number[]): number {
  return histogram.reduce((all, count) => all + count, 0);
}

function sum(buckets: readonly WindowBucket[], of: (bucket: WindowBucket) => number): number {
  return buckets.reduce((all, bucket) => all + of(bucket), 0);
}
