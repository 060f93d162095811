import { type Event, endpointKey } from "@mcp-failover/contracts";
import { defaultPolicy } from "./policy.ts";
import { isOfAnotherClock } from "./store-time.ts";
import { type EndpointWindow, foldProbe, foldTraffic, openWindow } from "./window.ts";

/**
 * All that the breakers know of SIGNALS. Folded without AUDIT, so it also holds endpoints that no configuration names (any more): their
 * number is bounded, and nothing is decided about them.
 *
 * The maps and the windows in them belong to who folds and are changed in place, because a copy a signal would cost as much as there are
 * endpoints. What is to stay as it was is read out of them ({@link evidenceOf}).
 */
export interface BreakerSignals {
  /** By `upstream/endpoint`; those heard of longest ago go first. */
  readonly windows: ReadonlyMap<string, EndpointWindow>;
  /** When each router last reported, longest ago first; routers report at least every 2 s, also without traffic. */
  readonly routers: ReadonlyMap<string, number>;
  /** How often an endpoint was forgotten for others though it was heard of lately. */
  readonly displaced: number;
}
interface OwnSignals extends BreakerSignals {
  readonly windows: Map<string, EndpointWindow>;
  readonly routers: Map<string, number>;
  readonly heardMs: Map<string, number>;
  displaced: number;
  lastMs: number;
}

/** An empty store, to be changed by {@link foldBreakerSignal} and {@link expireBreakerSignals} alone. */
export function openBreakerSignals(): BreakerSignals {
  const signals: OwnSignals = { windows: new Map(), routers: new Map(), heardMs: new Map(), displaced: 0, lastMs: 0 };
  return signals;
}

const endpointsMax = 20_000;
const routersMax = 1000;

/**
 * Folds one event of SIGNALS into `into`; others change nothing. `timeMs` is the store's. Costs as much as the event has items. Where its clock was
 * set back, all that was known is forgotten (ST1).
 */
export function foldBreakerSignal(into: BreakerSignals, event: Event, timeMs: number): void {
  const signals = into as OwnSignals;
  if (isOfAnotherClock(signals.lastMs, timeMs)) for (const known of [signals.windows, signals.routers, signals.heardMs]) known.clear();
  signals.lastMs = timeMs;
  switch (event.type) {
    case "probe.observed":
      for (const item of event.data.observations) {
        foldProbe(windowOf(signals, endpointKey(item.upstream, item.endpoint), timeMs), item, timeMs);
      }
      return;
    case "traffic.observed": {
      const { router, fromMs, toMs, endpoints } = event.data;
      const from = { router, atMs: timeMs, spanMs: toMs - fromMs };
      for (const item of endpoints) {
        foldTraffic(windowOf(signals, endpointKey(item.upstream, item.endpoint), timeMs), item, from);
      }
      setBounded(signals.routers, router, timeMs, routersMax);
      return;
    }
    default:
      return;
  }
}

/** Drops what is too old to matter to any decision. Looks at what is dropped and at one more, however much there is. */
export function expireBreakerSignals(from: BreakerSignals, nowMs: number): void {
  const { windows, routers, heardMs } = from as OwnSignals;
  const { baselineMs, windowMs } = defaultPolicy.breaker;
  for (const [key, atMs] of heardMs) {
    if (atMs > nowMs - baselineMs - 2 * windowMs) break;
    heardMs.delete(key);
    windows.delete(key);
  }
  for (const [router, atMs] of routers) {
    if (atMs > nowMs - baselineMs) break;
    routers.delete(router);
  }
}

/** Routers that have reported within `liveMs`, sorted. */
export function liveRouters(signals: BreakerSignals, nowMs: number, liveMs: number): readonly string[] {
  const live: string[] = [];
  for (const [router, atMs] of signals.routers) if (atMs > nowMs - liveMs) live.push(router);
  return live.sort();
}

/** The window of an endpoint that is heard of now. The order in which they were is kept once: to move a key costs more than all else here. */
function windowOf(signals: OwnSignals, key: string, timeMs: number): EndpointWindow {
  const { windows, heardMs } = signals;
  heardMs.delete(key);
  heardMs.set(key, timeMs);
  let window = windows.get(key);
  if (window === undefined) {
    window = openWindow();
    windows.set(key, window);
  }
  if (heardMs.size > endpointsMax) {
    const oldest = heardMs.keys().next().value as string;
    heardMs.delete(oldest);
    windows.delete(oldest);
    signals.displaced += 1;
  }
  return window;
}

/** The key heard of longest ago goes first. */
function setBounded<V>(map: Map<string, V>, key: string, value: V, max: number): void {
  map.delete(key);
  map.set(key, value);
  if (map.size > max) map.delete(map.keys().next().value as string);
}
