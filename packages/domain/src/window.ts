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
 * W4  Merging loses no call: the counts of the buckets are the sums of the items inside the time kept.
 */
export interface WindowBucket {
  /** Beginning of its second. */
  readonly atMs: number;
  /** Generation of the fleet's breaker under which a router let the calls through; null where the observer did not say (probes). */
  readonly generation: number | null;
  /** When the first of what ended in here had begun, as far as the observer says. */
  readonly startedAtMsMin: number;
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
}
/** Latencies of a longer stretch, for what is usual. */
export interface BaselineSlot {
  readonly atMs: number;
  readonly latency: readonly number[];
}
export interface ObserverWindow {
  readonly observer: string;
  readonly kind: "prober" | "router";
  /** Oldest first. */
  readonly buckets: readonly WindowBucket[];
  /** Oldest first. */
  readonly slots: readonly BaselineSlot[];
  readonly lastAtMs: number;
}
/** By kind and observer: `router:router-1`. */
export type EndpointWindow = { readonly [observer: string]: ObserverWindow };

const { bucketMs, windowMs, baselineMs } = defaultPolicy.breaker;
/** Each of the last evaluations inside the window looks back over a whole window. */
const keptMs = 2 * windowMs;
const slotMs = windowMs;
const slotsMax = Math.ceil(baselineMs / slotMs) + 2;
const bucketsMax = 2 * Math.ceil(keptMs / bucketMs);
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
  });
}

/** Drops what is older than the time kept (W1), and observers of whom nothing is left. */
export function expireWindow(window: EndpointWindow, nowMs: number): EndpointWindow {
  return Object.fromEntries(
    Object.entries(window)
      .map(([key, one]) => [key, expireObserver(one, nowMs)] as const)
      .filter(([, one]) => one.buckets.length > 0 || one.slots.length > 0),
  );
}

export function callsOf(bucket: WindowBucket): number {
  return bucket.ok + bucket.hard + bucket.soft + bucket.auth + bucket.caller;
}

function fold(window: EndpointWindow, observer: string, kind: ObserverWindow["kind"], item: WindowBucket): EndpointWindow {
  const key = `${kind}:${observer}`;
  const before = window[key];
  // Should the store's clock step back, the item counts as of the newest time known: order is the log's.
  const atMs = Math.max(item.atMs, before?.lastAtMs ?? 0);
  const bucket = { ...item, atMs: floorTo(atMs, bucketMs) };
  const merged: ObserverWindow = {
    observer,
    kind,
    buckets: addBucket(before?.buckets ?? [], bucket),
    slots: addSlot(before?.slots ?? [], { atMs: floorTo(atMs, slotMs), latency: item.latency }),
    lastAtMs: atMs,
  };
  const next = { ...window, [key]: expireObserver(merged, atMs) };
  return before === undefined && Object.keys(next).length > observersMax ? withoutStalest(next) : next;
}

/** Buckets of one second differ by generation only; the one with the same generation as the newest is merged, so that order is kept. */
function addBucket(buckets: readonly WindowBucket[], item: WindowBucket): readonly WindowBucket[] {
  const last = buckets.at(-1);
  if (last === undefined || last.atMs !== item.atMs || last.generation !== item.generation) return [...buckets, item].slice(-bucketsMax);
  return [...buckets.slice(0, -1), mergeBuckets(last, item)];
}

function mergeBuckets(a: WindowBucket, b: WindowBucket): WindowBucket {
  const bAllHard = callsOf(b) === b.hard;
  return {
    atMs: a.atMs,
    generation: a.generation,
    startedAtMsMin: Math.min(a.startedAtMsMin, b.startedAtMsMin),
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
  };
}

function addSlot(slots: readonly BaselineSlot[], item: BaselineSlot): readonly BaselineSlot[] {
  const last = slots.at(-1);
  if (last?.atMs !== item.atMs) return [...slots, item].slice(-slotsMax);
  return [...slots.slice(0, -1), { atMs: last.atMs, latency: sumHistograms(last.latency, item.latency) }];
}

function expireObserver(one: ObserverWindow, nowMs: number): ObserverWindow {
  const buckets = one.buckets.filter((bucket) => bucket.atMs > nowMs - keptMs - bucketMs);
  const slots = one.slots.filter((slot) => slot.atMs > nowMs - baselineMs - slotMs);
  return buckets.length === one.buckets.length && slots.length === one.slots.length ? one : { ...one, buckets, slots };
}

function withoutStalest(window: EndpointWindow): EndpointWindow {
  const stalest = Object.values(window).reduce((a, b) => (b.lastAtMs < a.lastAtMs ? b : a));
  return Object.fromEntries(Object.entries(window).filter(([, one]) => one !== stalest));
}

function floorTo(value: number, step: number): number {
  return Math.floor(value / step) * step;
}

const emptyHistogram: readonly number[] = new Array<number>(latencyBucketsMs.length + 1).fill(0);

function histogramOf(latencyMs: number): readonly number[] {
  const index = latencyBucketsMs.findIndex((bound) => latencyMs <= bound);
  return emptyHistogram.with(index === -1 ? latencyBucketsMs.length : index, 1);
}

export function sumHistograms(a: readonly number[], b: readonly number[]): readonly number[] {
  return a.map((count, index) => count + (b[index] ?? 0));
}
