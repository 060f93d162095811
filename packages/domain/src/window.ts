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
/** What each observer saw of one endpoint. It belongs to who folds and is changed in place: a copy a signal would cost more than all else. */
export interface EndpointWindow {
  readonly observers: readonly ObserverWindow[];
}
type OwnBucket = { -readonly [Key in keyof WindowBucket]: WindowBucket[Key] } & {
  /** Null: `latency` is somebody else's, a message's or a constant. */
  ownLatency: number[] | null;
};
interface OwnObserver extends ObserverWindow {
  readonly buckets: OwnBucket[];
  readonly slots: OwnBucket[];
  lastAtMs: number;
}
interface OwnWindow extends EndpointWindow {
  readonly observers: OwnObserver[];
}

const { bucketMs, windowMs, windowMsMax, baselineMs } = defaultPolicy.breaker;
/** Each of the last evaluations inside the longest window that can be set looks back over a whole one. */
const keptMs = 2 * windowMsMax;
export const slotMs = windowMs;
const slotsMax = Math.ceil(baselineMs / slotMs) + 2;
/** Two generations in every second. */
const bucketsMax = 2 * Math.ceil((keptMs + slotMs) / bucketMs);
export const observersMax = 64;

/** Nothing seen yet, to be changed by {@link foldTraffic}, {@link foldProbe} and {@link expireWindow} alone. */
export function openWindow(): EndpointWindow {
  return { observers: [] };
}

/** Folds what one router saw in one of its windows. `atMs` is the store's time of the message, `spanMs` how long the window was. */
export function foldTraffic(
  into: EndpointWindow,
  item: TrafficEndpoint,
  from: { readonly router: string; readonly atMs: number; readonly spanMs: number },
): void {
  const { atMs } = from;
  const calls = item.ok + item.hard + item.soft + item.auth + item.caller;
  const notHard = calls - item.hard;
  fold(into, from.router, "router", {
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
export function foldProbe(into: EndpointWindow, item: Observation, atMs: number): void {
  const hard = item.outcome === "hard" ? 1 : 0;
  const of = (outcome: Observation["outcome"]): number => (item.outcome === outcome ? 1 : 0);
  fold(into, item.observer, "prober", {
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
export function expireWindow(from: EndpointWindow, nowMs: number): void {
  const { observers } = from as OwnWindow;
  for (let index = observers.length - 1; index >= 0; index -= 1) {
    const one = observers[index] as OwnObserver;
    expireObserver(one, nowMs);
    if (one.buckets.length === 0 && one.slots.length === 0) observers.splice(index, 1);
  }
}

export function callsOf(bucket: WindowBucket): number {
  return bucket.ok + bucket.hard + bucket.soft + bucket.auth + bucket.caller;
}

function fold(into: EndpointWindow, observer: string, kind: ObserverWindow["kind"], item: WindowBucket): void {
  const window = into as OwnWindow;
  const one = observerIn(window, observer, kind);
  // Should the store's clock step back, the item counts as of the newest time known: order is the log's.
  const atMs = Math.max(item.atMs, one.lastAtMs);
  one.lastAtMs = atMs;
  addBucket(one.buckets, item, floorTo(atMs, bucketMs));
  const begun = addSlot(one.slots, item, floorTo(atMs, slotMs));
  // Observers that say nothing any more are let go when a slot begins: seldom enough to cost nothing, often enough to be bounded.
  if (begun) expireWindow(window, atMs);
  else expireObserver(one, atMs);
}

function observerIn({ observers }: OwnWindow, observer: string, kind: ObserverWindow["kind"]): OwnObserver {
  for (const one of observers) if (one.observer === observer && one.kind === kind) return one;
  if (observers.length >= observersMax) {
    const stalest = observers.reduce((a, b) => (b.lastAtMs < a.lastAtMs ? b : a));
    observers.splice(observers.indexOf(stalest), 1);
  }
  const one: OwnObserver = { observer, kind, buckets: [], slots: [], lastAtMs: 0 };
  observers.push(one);
  return one;
}

/** Buckets of one second differ by generation. The newest of each is merged, so that the order inside a generation is kept. */
function addBucket(buckets: OwnBucket[], item: WindowBucket, atMs: number): void {
  for (let index = buckets.length - 1; index >= 0; index -= 1) {
    const bucket = buckets[index] as OwnBucket;
    if (bucket.atMs !== atMs) break;
    if (bucket.generation !== item.generation) continue;
    merge(bucket, item);
    return;
  }
  buckets.push(bucketOf(item, atMs));
  if (buckets.length > bucketsMax) buckets.shift();
}

function bucketOf(item: WindowBucket, atMs: number): OwnBucket {
  return { ...item, atMs, ownLatency: null };
}

/** `b` came after `a`, whose time and generation stay. */
function merge(a: OwnBucket, b: WindowBucket): void {
  const bAllHard = callsOf(b) === b.hard;
  a.startedAtMsMin = Math.min(a.startedAtMsMin, b.startedAtMsMin);
  a.firstAtMs = Math.min(a.firstAtMs, b.firstAtMs);
  a.lastAtMs = Math.max(a.lastAtMs, b.lastAtMs);
  a.ok += b.ok;
  a.hard += b.hard;
  a.soft += b.soft;
  a.auth += b.auth;
  a.caller += b.caller;
  a.hardRunTail = bAllHard ? a.hardRunTail + b.hard : b.hardRunTail;
  a.tailSinceMs = bAllHard ? (a.tailSinceMs ?? b.tailSinceMs) : b.tailSinceMs;
  a.lastNotHardAtMs = b.lastNotHardAtMs ?? a.lastNotHardAtMs;
  a.inFlight = b.inFlight;
  a.oldestInFlightMs = b.oldestInFlightMs;
  addLatency(a, b.latency);
  a.hungSinceMs = b.hungSinceMs === null ? null : (a.hungSinceMs ?? b.hungSinceMs);
  a.restUntilMs = b.restUntilMs ?? a.restUntilMs;
}

/** Returns whether a slot begins with it. */
function addSlot(slots: OwnBucket[], item: WindowBucket, atMs: number): boolean {
  const last = slots.at(-1);
  if (last?.atMs !== atMs) {
    slots.push(bucketOf(item, atMs));
    if (slots.length > slotsMax) slots.shift();
    return true;
  }
  merge(last, item);
  last.generation = last.generation === null || item.generation === null ? null : Math.min(last.generation, item.generation);
  return false;
}

/** Where the buckets begin: at the beginning of a slot, so that the slots before it and the buckets share no call. */
function bucketsFromMs(lastAtMs: number): number {
  return floorTo(lastAtMs - keptMs, slotMs);
}

function expireObserver({ buckets, slots }: OwnObserver, nowMs: number): void {
  dropBefore(buckets, bucketsFromMs(nowMs));
  dropBefore(slots, nowMs - baselineMs - slotMs + 1);
}

/** Drops what begins before a time, of what is in order. */
function dropBefore(buckets: OwnBucket[], fromMs: number): void {
  let count = 0;
  while (count < buckets.length && (buckets[count] as OwnBucket).atMs < fromMs) count += 1;
  if (count > 0) buckets.splice(0, count);
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

function addLatency(to: OwnBucket, latency: readonly number[]): void {
  let own = to.ownLatency;
  if (own === null) {
    own = [];
    for (let index = 0; index < bucketCount; index += 1) own.push(to.latency[index] ?? 0);
    to.ownLatency = own;
    to.latency = own;
  }
  // Most places of a histogram are empty.
  for (let index = 0; index < latency.length && index < bucketCount; index += 1) {
    const count = latency[index] as number;
    if (count !== 0) own[index] = (own[index] as number) + count;
  }
}
