import { type Event, endpointKey } from "@mcp-failover/contracts";
import { defaultPolicy } from "./policy.ts";
import { type EndpointWindow, emptyWindow, expireWindow, foldProbe, foldTraffic } from "./window.ts";

/**
 * All that the breakers know of SIGNALS. Folded without AUDIT, so it also holds endpoints that no configuration names (any more): their
 * number is bounded, and nothing is decided about them.
 */
export interface BreakerSignals {
  /** By `upstream/endpoint`. */
  readonly windows: ReadonlyMap<string, EndpointWindow>;
  /** When each router last reported; routers report at least every 2 s, also without traffic. */
  readonly routers: ReadonlyMap<string, number>;
}

export const emptyBreakerSignals: BreakerSignals = { windows: new Map(), routers: new Map() };

const endpointsMax = 20_000;
const routersMax = 1000;

/** Folds one event of SIGNALS; others change nothing. `timeMs` is the store's. */
export function foldBreakerSignal(signals: BreakerSignals, event: Event, timeMs: number): BreakerSignals {
  switch (event.type) {
    case "probe.observed": {
      const windows = new Map(signals.windows);
      for (const item of event.data.observations) {
        const key = endpointKey(item.upstream, item.endpoint);
        setBounded(windows, key, foldProbe(windows.get(key) ?? emptyWindow, item, timeMs), endpointsMax);
      }
      return { ...signals, windows };
    }
    case "traffic.observed": {
      const { router, fromMs, toMs, endpoints } = event.data;
      const windows = new Map(signals.windows);
      for (const item of endpoints) {
        const key = endpointKey(item.upstream, item.endpoint);
        const from = { router, atMs: timeMs, spanMs: toMs - fromMs };
        setBounded(windows, key, foldTraffic(windows.get(key) ?? emptyWindow, item, from), endpointsMax);
      }
      const routers = new Map(signals.routers);
      setBounded(routers, router, timeMs, routersMax);
      return { windows, routers };
    }
    default:
      return signals;
  }
}

/** Drops what is too old to matter to any decision. */
export function expireBreakerSignals(signals: BreakerSignals, nowMs: number): BreakerSignals {
  const windows = [...signals.windows]
    .map(([key, window]) => [key, expireWindow(window, nowMs)] as const)
    .filter(([, window]) => Object.keys(window).length > 0);
  const routers = [...signals.routers].filter(([, atMs]) => atMs > nowMs - defaultPolicy.breaker.baselineMs);
  return { windows: new Map(windows), routers: new Map(routers) };
}

/** Routers that have reported within `liveMs`, sorted. */
export function liveRouters(signals: BreakerSignals, nowMs: number, liveMs: number): readonly string[] {
  return [...signals.routers]
    .filter(([, atMs]) => atMs > nowMs - liveMs)
    .map(([router]) => router)
    .sort();
}

/** The key heard of longest ago goes first. */
function setBounded<V>(map: Map<string, V>, key: string, value: V, max: number): void {
  map.delete(key);
  map.set(key, value);
  if (map.size > max) map.delete(map.keys().next().value as string);
}
