import assert from "node:assert/strict";
import { test } from "node:test";
import { type DataOf, type EventType, makeEvent } from "@mcp-failover/contracts";
import { defaultPolicy, emptyBreakerSignals, expireBreakerSignals, foldBreakerSignal, liveRouters } from "@mcp-failover/domain";
import { calls, probeOf, trafficOf } from "./signals.ts";

const t0 = 1_700_000_000_000;
const event = <T extends EventType>(type: T, key: string, data: DataOf<T>) =>
  makeEvent({ type, keys: [key], data, id: `${key}-1`, service: "router", instance: key, timeMs: t0 });
const report = (router: string, endpoints = [trafficOf(calls("ok", 2))]) =>
  event("traffic.observed", router, { router, fromMs: t0 - 250, toMs: t0, endpoints, tools: [], routes: {}, rollbacks: {} });

test("probes and traffic of one endpoint are folded by observer, a prober and a router of one name apart", () => {
  let signals = foldBreakerSignal(emptyBreakerSignals, report("a"), t0);
  signals = foldBreakerSignal(signals, event("probe.observed", "a", { observer: "a", observations: [probeOf("a", "ok")] }), t0);
  assert.deepEqual([...signals.windows.keys()], ["pinecone/primary"]);
  assert.deepEqual(Object.keys(signals.windows.get("pinecone/primary") ?? {}).sort(), ["prober:a", "router:a"]);
});

test("a router is live as long as it reports, also without traffic", () => {
  let signals = foldBreakerSignal(emptyBreakerSignals, report("router-2", []), t0);
  signals = foldBreakerSignal(signals, report("router-1", []), t0 + 5000);
  assert.deepEqual(liveRouters(signals, t0 + 9999, defaultPolicy.breaker.routerLiveMs), ["router-1", "router-2"]);
  assert.deepEqual(liveRouters(signals, t0 + 10_000, defaultPolicy.breaker.routerLiveMs), ["router-1"]);
});

test("what is too old for any decision is dropped, and folding alters nothing that it was given", () => {
  const before = foldBreakerSignal(emptyBreakerSignals, report("router-1"), t0);
  const frozen = structuredClone(before.windows.get("pinecone/primary"));
  foldBreakerSignal(before, report("router-1"), t0 + 10);
  assert.deepEqual(before.windows.get("pinecone/primary"), frozen);
  assert.equal(emptyBreakerSignals.windows.size, 0);
  const later = expireBreakerSignals(before, t0 + 2 * defaultPolicy.breaker.baselineMs);
  assert.deepEqual([later.windows.size, later.routers.size], [0, 0]);
});

test("endpoints and routers are bounded: those heard of longest ago go first", () => {
  let signals = emptyBreakerSignals;
  for (let index = 0; index < 1200; index += 1) signals = foldBreakerSignal(signals, report(`router-${index}`, []), t0 + index);
  assert.equal(signals.routers.size, 1000);
  assert.equal(signals.routers.has("router-199"), false);
  assert.equal(signals.routers.has("router-1199"), true);
});
