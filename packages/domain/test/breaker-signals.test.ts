import assert from "node:assert/strict";
import { test } from "node:test";
import { type DataOf, type EventType, makeEvent } from "@mcp-failover/contracts";
import {
  type BreakerSignals,
  defaultPolicy,
  expireBreakerSignals,
  foldBreakerSignal,
  liveRouters,
  openBreakerSignals,
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
  assert.deepEqual(Object.keys(signals.windows.get("pinecone/primary") ?? {}).sort(), ["prober:a", "router:a"]);
});

test("a router is live as long as it reports, also without traffic", () => {
  const signals = folded([report("router-2", []), t0], [report("router-1", []), t0 + 5000]);
  assert.deepEqual(liveRouters(signals, t0 + 9999, defaultPolicy.breaker.routerLiveMs), ["router-1", "router-2"]);
  assert.deepEqual(liveRouters(signals, t0 + 10_000, defaultPolicy.breaker.routerLiveMs), ["router-1"]);
});

test("what is too old for any decision is dropped, and a window that was read stays as it was", () => {
  const signals = folded([report("router-1"), t0]);
  const read = signals.windows.get("pinecone/primary");
  const copy = structuredClone(read);
  foldBreakerSignal(signals, report("router-1"), t0 + 10);
  assert.deepEqual(read, copy);
  expireBreakerSignals(signals, t0 + defaultPolicy.breaker.baselineMs);
  assert.equal(signals.windows.size, 1);
  expireBreakerSignals(signals, t0 + 2 * defaultPolicy.breaker.baselineMs);
  assert.deepEqual([signals.windows.size, signals.routers.size], [0, 0]);
});

test("endpoints and routers are bounded: those heard of longest ago go first", () => {
  const signals = openBreakerSignals();
  for (let index = 0; index < 1200; index += 1) foldBreakerSignal(signals, report(`router-${index}`, []), t0 + index);
  assert.equal(signals.routers.size, 1000);
  assert.equal(signals.routers.has("router-199"), false);
  assert.equal(signals.routers.has("router-1199"), true);
});

test("a signal costs the same with 10,000 endpoints known as with 10", () => {
  const costMs = (known: number): number => {
    const signals = openBreakerSignals();
    for (let index = 0; index < known; index += 1) {
      foldBreakerSignal(signals, report("router-1", [{ ...trafficOf(calls("ok", 2)), endpoint: `e${index}` }]), t0);
    }
    const best: number[] = [];
    for (let round = 0; round < 5; round += 1) {
      const beganMs = performance.now();
      for (let index = 0; index < 500; index += 1) {
        foldBreakerSignal(
          signals,
          report("router-1", [{ ...trafficOf(calls("ok", 2)), endpoint: `e${index % 10}` }]),
          t0 + round * 500 + index,
        );
      }
      best.push(performance.now() - beganMs);
    }
    return Math.min(...best);
  };
  costMs(10);
  const [few, many] = [costMs(10), costMs(10_000)];
  // A copy of the map for each signal would make it hundreds of times as much.
  assert.ok(many < 5 * few + 5, `${many.toFixed(1)} ms against ${few.toFixed(1)} ms for 500 signals`);
});
