import { latencyBucketsMs, type Observation, type TrafficEndpoint } from "@mcp-failover/contracts";
import { defaultPolicy } from "./policy.ts";

/**
 * What each observer saw of one endpoint lately, folded from `probe.observed` and `traffic.observed`. `breaker-evidence.ts` reads it;
 * nothing in here knows of the breaker's state, so that SIGNALS folds without AUDIT.
 *
 * Invariants, cited by the tests:
 * W1  Times are the store's. What is older than the time kept is gone at every look, whether or not anything arrives.
 * W2  A run of hard failures goes on over merged items exactly as if the calls had come one by one.
 * W3  Memory is bounded: observers an endpoint, buckets and slots an observer.
 * W4  Merging loses no call: the counts of the buckets are the sums of the items inside the time kept; slots and the buckets that they do
 *     not cover together hold each call of the last 10 minutes once.
 */
export interface WindowBucket {
  /** Beginning of its second (of its 30 s, in a slot). */
  readonly atMs: number;
  /**
   * Generation of the fleet's breaker under which a router let the calls through, the lowest in a slot; null where the observer did not
   * say (probes).
   */
  readonly generation: number | null;
  /** When the first of what ended in here had begun, as far as the observer says. */
  readonly startedAtMsMin: number;
  /** Times of the first and the last item in here. */
  readonly firstAtMs: number;
  readonly lastAtMs: number;
  readonly ok: number;
  readonly hard: number;
  readonly soft: number;
  readonly auth: number;
  readonly caller: number;
  /** Hard failures after the last result that was not one. Only the run that still stands matters, so heads are not kept. */
  readonly hardRunTail: number;
  /** Time of the item in which the run at the end began; null without one. */
  readonly tailSinceMs: number | null;
  readonly lastNotHardAtMs: number | null;
  /** As last reported in this second. */
  readonly inFlight: number;
  readonly oldestInFlightMs: number;
  readonly latency: readonly number[];
  /** Since when the observer has said that the endpoint hangs; null: as last reported it does not. */
  readonly hungSinceMs: number | null;
  /** Until when the endpoint asked to be left alone, as last reported. */
  readonly restUntilMs: number | null;
}
export interface ObserverWindow {
  readonly observer: string;
  readonly kind: "prober" | "router";
  /** Oldest first. */
  readonly buckets: readonly WindowBucket[];
  /** The last 10 minutes in longer stretches, oldest first: for what is usual, and for windows that are counted in calls. */
  readonly slots: readonly WindowBucket[];
  readonly lastAtMs: number;
}
/** By kind and observer: `router:router-1`. */
export type EndpointWindow = { readonly [observer: string]: ObserverWindow };

const { bucketMs, windowMs, windowMsMax, baselineMs } = defaultPolicy.breaker;
/** Each of the last evaluations inside the longest window that can be set looks back over a whole one. */
const keptMs = 2 * windowMsMax;
export const slotMs = windowMs;
const slotsMax = Math.ceil(baselineMs / slotMs) + 2;
/** Two generations in every second. */
const bucketsMax = 2 * Math.ceil((keptMs + slotMs) / bucketMs);
export const observersMax = 64;

export const emptyWindow: EndpointWindow = {};

/** Folds what one router saw in one of its windows. `atMs` is the store's time of the message, `spanMs` how long the window was. */
export function foldTraffic(
  window: EndpointWindow,
  item: TrafficEndpoint,
  from: { readonly router: string; readonly atMs: number; readonly spanMs: number },
): EndpointWindow {
  const { atMs } = from;
  const calls = item.ok + item.hard + item.soft + item.auth + item.caller;
  const notHard = calls - item.hard;
  return fold(window, from.router, "router", {
    atMs,
    generation: item.breakerGeneration ?? null,
    // None of the calls that ended in this window can have begun before.
    startedAtMsMin: Math.floor(atMs - Math.max(0, from.spanMs) - item.latencyMsMax),
    firstAtMs: atMs,
    lastAtMs: atMs,
    ok: item.ok,
    hard: item.hard,
    soft: item.soft,
    auth: item.auth,
    caller: item.caller,
    // A router that miscounts must not make a run out of calls that it did not have.
    hardRunTail: notHard === 0 ? item.hard : Math.min(item.hardRunTail, item.hard),
    tailSinceMs: (notHard === 0 ? item.hard : item.hardRunTail) > 0 ? atMs : null,
    lastNotHardAtMs: notHard > 0 ? atMs : null,
    inFlight: item.inFlight,
    oldestInFlightMs: item.oldestInFlightMs,
    latency: item.latency,
    hungSinceMs: item.hung === true ? atMs : null,
    restUntilMs: item.retryAfterMs === undefined ? null : Math.ceil(atMs + item.retryAfterMs),
  });
}

/** Folds one probe. `atMs` is the store's time of the message. */
export function foldProbe(window: EndpointWindow, item: Observation, atMs: number): EndpointWindow {
  const hard = item.outcome === "hard" ? 1 : 0;
  const of = (outcome: Observation["outcome"]): number => (item.outcome === outcome ? 1 : 0);
  return fold(window, item.observer, "prober", {
    atMs,
    generation: null,
    startedAtMsMin: Math.floor(atMs - item.responseTimeMs),
    firstAtMs: atMs,
    lastAtMs: atMs,
    ok: of("ok"),
    hard,
    soft: of("soft"),
    auth: of("auth"),
    caller: of("caller"),
    hardRunTail: hard,
    tailSinceMs: hard === 1 ? atMs : null,
    lastNotHardAtMs: hard === 1 ? null : atMs,
    inFlight: 0,
    oldestInFlightMs: 0,
    latency: histogramOf(item.responseTimeMs),
    hungSinceMs: null,
    restUntilMs: null,
  });
}

/** Drops what is older than the time kept (W1), and observers of whom nothing is left. */
export function expireWindow(window: EndpointWindow, nowMs: number): EndpointWindow {
  let next: Record<string, ObserverWindow> | null = null;
  for (const key in window) {
    const one = window[key] as ObserverWindow;
    const kept = expireObserver(one, nowMs);
    if (isEmpty(kept)) return withoutEmpty(window, nowMs);
    if (kept === one) continue;
    next ??= { ...window };
    next[key] = kept;
  }
  return next ?? window;
}

function isEmpty(one: ObserverWindow): boolean {
  return one.buckets.length === 0 && one.slots.length === 0;
}

function withoutEmpty(window: EndpointWindow, nowMs: number): EndpointWindow {
  const kept = Object.entries(window).map(([key, one]) => [key, expireObserver(one, nowMs)] as const);
  return Object.fromEntries(kept.filter(([, one]) => !isEmpty(one)));
}

export function callsOf(bucket: WindowBucket): number {
  return bucket.ok + bucket.hard + bucket.soft + bucket.auth + bucket.caller;
}

function fold(window: EndpointWindow, observer: string, kind: ObserverWindow["kind"], item: WindowBucket): EndpointWindow {
  const key = `${kind}:${observer}`;
  const before = window[key];
  // Should the store's clock step back, the item counts as of the newest time known: order is the log's.
  const atMs = Math.max(item.atMs, before?.lastAtMs ?? 0);
  const slots = addSlot(before?.slots ?? [], item, floorTo(atMs, slotMs));
  const merged: ObserverWindow = {
    observer,
    kind,
    buckets: addBucket(before?.buckets ?? [], item, floorTo(atMs, bucketMs)),
    slots,
    lastAtMs: atMs,
  };
  // The copy first and then the key: to do both at once takes the engine several times as long.
  const next: Record<string, ObserverWindow> = { ...window };
  next[key] = expireObserver(merged, atMs);
  if (before === undefined && Object.keys(next).length > observersMax) return withoutStalest(next);
  // Observers that say nothing any more are let go when a slot begins: seldom enough to cost nothing, often enough to be bounded.
  return slots.length === before?.slots.length && slots.at(-1)?.atMs === before.slots.at(-1)?.atMs ? next : expireWindow(next, atMs);
}

/** Buckets of one second differ by generation. The newest of each is merged, so that the order inside a generation is kept. */
function addBucket(buckets: readonly WindowBucket[], item: WindowBucket, atMs: number): readonly WindowBucket[] {
  for (let index = buckets.length - 1; index >= 0; index -= 1) {
    const bucket = buckets[index] as WindowBucket;
    if (bucket.atMs !== atMs) break;
    if (bucket.generation === item.generation) return buckets.with(index, mergeBuckets(bucket, item));
  }
  const next = [...buckets, { ...item, atMs }];
  return next.length > bucketsMax ? next.slice(-bucketsMax) : next;
}

function mergeBuckets(a: WindowBucket, b: WindowBucket): WindowBucket {
  const bAllHard = callsOf(b) === b.hard;
  return {
    atMs: a.atMs,
    generation: a.generation,
    startedAtMsMin: Math.min(a.startedAtMsMin, b.startedAtMsMin),
    firstAtMs: Math.min(a.firstAtMs, b.firstAtMs),
    lastAtMs: Math.max(a.lastAtMs, b.lastAtMs),
    ok: a.ok + b.ok,
    hard: a.hard + b.hard,
    soft: a.soft + b.soft,
    auth: a.auth + b.auth,
    caller: a.caller + b.caller,
    hardRunTail: bAllHard ? a.hardRunTail + b.hard : b.hardRunTail,
    tailSinceMs: bAllHard ? (a.tailSinceMs ?? b.tailSinceMs) : b.tailSinceMs,
    lastNotHardAtMs: b.lastNotHardAtMs ?? a.lastNotHardAtMs,
    inFlight: b.inFlight,
    oldestInFlightMs: b.oldestInFlightMs,
    latency: sumHistograms(a.latency, b.latency),
    hungSinceMs: b.hungSinceMs === null ? null : (a.hungSinceMs ?? b.hungSinceMs),
    restUntilMs: b.restUntilMs ?? a.restUntilMs,
  };
}

function addSlot(slots: readonly WindowBucket[], item: WindowBucket, atMs: number): readonly WindowBucket[] {
  const last = slots.at(-1);
  if (last?.atMs !== atMs) return [...(slots.length < slotsMax ? slots : slots.slice(1 - slotsMax)), { ...item, atMs }];
  const merged = mergeBuckets(last, item);
  const generation = last.generation === null || item.generation === null ? null : Math.min(last.generation, item.generation);
  return slots.with(-1, generation === merged.generation ? merged : { ...merged, generation });
}

/** Where the buckets begin: at the beginning of a slot, so that the slots before it and the buckets share no call. */
function bucketsFromMs(lastAtMs: number): number {
  return floorTo(lastAtMs - keptMs, slotMs);
}

function expireObserver(one: ObserverWindow, nowMs: number): ObserverWindow {
  const fromMs = bucketsFromMs(nowMs);
  const slotsFromMs = nowMs - baselineMs - slotMs;
  // Both are in order of time, so the first tells whether anything has expired.
  const bucketsStay = (one.buckets[0]?.atMs ?? fromMs) >= fromMs;
  const slotsStay = (one.slots[0]?.atMs ?? Number.POSITIVE_INFINITY) > slotsFromMs;
  if (bucketsStay && slotsStay) return one;
  return {
    observer: one.observer,
    kind: one.kind,
    buckets: bucketsStay ? one.buckets : since(one.buckets, fromMs),
    slots: slotsStay ? one.slots : since(one.slots, slotsFromMs + 1),
    lastAtMs: one.lastAtMs,
  };
}

/** What begins at a time or later, of what is in order. */
function since(buckets: readonly WindowBucket[], fromMs: number): readonly WindowBucket[] {
  let first = 0;
  while (first < buckets.length && (buckets[first] as WindowBucket).atMs < fromMs) first += 1;
  return buckets.slice(first);
}

function withoutStalest(window: EndpointWindow): EndpointWindow {
  const stalest = Object.values(window).reduce((a, b) => (b.lastAtMs < a.lastAtMs ? b : a));
  return Object.fromEntries(Object.entries(window).filter(([, one]) => one !== stalest));
}

function floorTo(value: number, step: number): number {
  return Math.floor(value / step) * step;
}

const bucketCount = latencyBucketsMs.length + 1;
/** A probe's histogram is one of these: shared, because there are many. */
const singleCounts: readonly (readonly number[])[] = Array.from({ length: bucketCount }, (_, at) =>
  Array.from({ length: bucketCount }, (_, index) => (index === at ? 1 : 0)),
);

function histogramOf(latencyMs: number): readonly number[] {
  const index = latencyBucketsMs.findIndex((bound) => latencyMs <= bound);
  return singleCounts[index === -1 ? latencyBucketsMs.length : index] as readonly number[];
}

function sumHistograms(a: readonly number[], b: readonly number[]): readonly number[] {
  const sums = new Array<number>(bucketCount);
  for (let index = 0; index < bucketCount; index += 1) sums[index] = (a[index] ?? 0) + (b[index] ?? 0);
  return sums;
}
