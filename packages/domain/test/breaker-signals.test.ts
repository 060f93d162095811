import assert from "node:assert/strict";
import { test } from "node:test";
import { type DataOf, type EventType, makeEvent } from "@mcp-failover/contracts";
import {
  type BreakerSignals,
  defaultPolicy,
  evidenceOf,
  expireBreakerSignals,
  foldBreakerSignal,
  initialBreakerState,
  liveRouters,
  openBreakerSignals,
  openWindow,
} from "@mcp-failover/domain";
import { calls, probeOf, trafficOf } from "./signals.ts";

const t0 = 1_700_000_000_000;
const event = <T extends EventType>(type: T, key: string, data: DataOf<T>) =>
  makeEvent({ type, keys: [key], data, id: `${key}-1`, service: "router", instance: key, timeMs: t0 });
const folded = (...heard: readonly (readonly [Parameters<typeof foldBreakerSignal>[1], number])[]): BreakerSignals => {
  const signals = openBreakerSignals();
  for (const [said, atMs] of heard) foldBreakerSignal(signals, said, atMs);
  return signals;
};
const report = (router: string, endpoints = [trafficOf(calls("ok", 2))]) =>
  event("traffic.observed", router, { router, fromMs: t0 - 250, toMs: t0, endpoints, tools: [], routes: {}, rollbacks: {} });

test("probes and traffic of one endpoint are folded by observer, a prober and a router of one name apart", () => {
  const probed = event("probe.observed", "a", { observer: "a", observations: [probeOf("a", "ok")] });
  const signals = folded([report("a"), t0], [probed, t0]);
  assert.deepEqual([...signals.windows.keys()], ["pinecone/primary"]);
  const observers = signals.windows.get("pinecone/primary")?.observers ?? [];
  assert.deepEqual(observers.map(({ kind, observer }) => `${kind}:${observer}`).sort(), ["prober:a", "router:a"]);
});

test("a router is live as long as it reports, also without traffic", () => {
  const signals = folded([report("router-2", []), t0], [report("router-1", []), t0 + 5000]);
  assert.deepEqual(liveRouters(signals, t0 + 9999, defaultPolicy.breaker.routerLiveMs), ["router-1", "router-2"]);
  assert.deepEqual(liveRouters(signals, t0 + 10_000, defaultPolicy.breaker.routerLiveMs), ["router-1"]);
});

test("what is too old for any decision is dropped", () => {
  const signals = folded([report("router-1"), t0]);
  expireBreakerSignals(signals, t0 + defaultPolicy.breaker.baselineMs);
  assert.equal(signals.windows.size, 1);
  expireBreakerSignals(signals, t0 + 2 * defaultPolicy.breaker.baselineMs);
  assert.deepEqual([signals.windows.size, signals.routers.size], [0, 0]);
});

test("what was read of a window, and what a message holds, stay as they were when more is folded", () => {
  const said = report("router-1");
  const signals = folded([said, t0]);
  const read = evidenceOf(signals.windows.get("pinecone/primary") ?? openWindow(), initialBreakerState, defaultPolicy.breaker, t0 + 2000);
  const copy = structuredClone({ read, said });
  foldBreakerSignal(signals, report("router-1", [trafficOf(calls("hard", 9))]), t0 + 10);
  foldBreakerSignal(signals, report("router-1", [trafficOf(calls("hard", 9))]), t0 + 20);
  assert.deepEqual({ read, said }, copy);
});

test("endpoints and routers are bounded: those heard of longest ago go first", () => {
  const signals = openBreakerSignals();
  for (let index = 0; index < 1200; index += 1) foldBreakerSignal(signals, report(`router-${index}`, []), t0 + index);
  assert.equal(signals.routers.size, 1000);
  assert.equal(signals.routers.has("router-199"), false);
  assert.equal(signals.routers.has("router-1199"), true);
});

test("of 20,000 endpoints all have their windows; of more those heard of longest ago are forgotten, and it is counted", () => {
  const signals = openBreakerSignals();
  const told = (from: number, to: number) =>
    event("probe.observed", "a", {
      observer: "a",
      observations: Array.from({ length: to - from }, (_, index) => ({ ...probeOf("a", "ok"), endpoint: `e${from + index}` })),
    });
  for (let at = 0; at < 20_000; at += 1000) foldBreakerSignal(signals, told(at, at + 1000), t0);
  assert.deepEqual([signals.windows.size, signals.displaced], [20_000, 0]);
  foldBreakerSignal(signals, told(20_000, 20_003), t0 + 1);
  assert.deepEqual([signals.windows.size, signals.windows.has("pinecone/e2"), signals.displaced], [20_000, false, 3]);
});

test("a signal touches the endpoint that it is about and no other, however many are known", () => {
  const told = (endpoint: number) => report("router-1", [{ ...trafficOf(calls("ok", 2)), endpoint: `e${endpoint}` }]);
  const signals = openBreakerSignals();
  for (let index = 0; index < 1000; index += 1) foldBreakerSignal(signals, told(index), t0);
  const { windows, routers } = signals;
  const before = new Map(windows);
  const touched = watchMaps(windows, routers);
  foldBreakerSignal(signals, told(7), t0 + 1000);
  const folding = touched();
  expireBreakerSignals(signals, t0 + 1000);
  const expiring = touched() - folding;
  assert.ok(folding <= 12, `${folding} operations on the maps for a signal of one item`);
  assert.ok(expiring <= 4, `${expiring} operations where there is nothing to drop`);
  // The store and every window in it are the very objects that they were, so that nothing was copied.
  assert.equal(signals.windows, windows);
  for (const [key, window] of before) assert.equal(windows.get(key), window, key);
});

/** Counts entries that are read, written or gone through from now on. */
function watchMaps(...maps: readonly ReadonlyMap<string, unknown>[]): () => number {
  let count = 0;
  for (const map of maps) {
    for (const name of ["get", "set", "delete", "has"] as const) {
      const real = Map.prototype[name] as (...args: unknown[]) => unknown;
      Object.assign(map, {
        [name](...args: unknown[]) {
          count += 1;
          return real.apply(map, args);
        },
      });
    }
    const goThrough = function* (this: unknown) {
      for (const entry of Map.prototype.entries.call(map)) {
        count += 1;
        yield entry;
      }
    };
    Object.assign(map, { entries: goThrough, [Symbol.iterator]: goThrough });
  }
  return () => count;
}
