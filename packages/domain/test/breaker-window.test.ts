import assert from "node:assert/strict";
import { test } from "node:test";
import type { OutcomeClass, Topology } from "@mcp-failover/contracts";
import { parseTopology } from "@mcp-failover/contracts";
import { type BreakerPolicy, type EndpointWindow, evidenceOf, initialBreakerState, openWindow, policyFor } from "@mcp-failover/domain";
import fc from "fast-check";
import { decide, halfOpen, policy, t0 } from "./breaker-fixture.ts";
import { calls, probeOf, trafficOf, withProbe, withTraffic } from "./signals.ts";

const start = Math.floor(t0 / 30_000) * 30_000;
const counted = (windowCalls: number, more: Partial<BreakerPolicy> = {}): BreakerPolicy => ({
  ...policy,
  windowCalls,
  minimumCalls: Math.min(policy.minimumCalls, windowCalls),
  ...more,
});
const lastOf = (window: EndpointWindow, nowMs: number, by: BreakerPolicy) =>
  evidenceOf(window, initialBreakerState, by, nowMs)[0]?.evaluations.at(-1);

test("a window in calls holds the last N in whole seconds, however long they took to come: at least N, and not N without its oldest second", () => {
  const script = fc.array(
    fc.tuple(fc.constantFrom<OutcomeClass>("ok", "hard"), fc.integer({ min: 1, max: 9 }), fc.integer({ min: 0, max: 12_000 })),
    {
      minLength: 1,
      maxLength: 40,
      size: "max",
    },
  );
  fc.assert(
    fc.property(script, fc.integer({ min: 5, max: 60 }), (arrivals, windowCalls) => {
      let window = openWindow();
      let nowMs = start;
      const said: { atMs: number; calls: number; hard: number }[] = [];
      for (const [outcome, count, waitMs] of arrivals) {
        nowMs += waitMs;
        window = withTraffic(window, trafficOf(calls(outcome, count)), { router: "r", atMs: nowMs, spanMs: 250 });
        said.push({ atMs: nowMs, calls: count, hard: outcome === "hard" ? count : 0 });
      }
      const readMs = Math.floor(nowMs / 1000) * 1000 + 1000;
      const last = lastOf(window, readMs, counted(windowCalls));
      // What lies behind the seconds that are kept is known by the half minute.
      const fineMs = Math.floor((nowMs - 120_000) / 30_000) * 30_000;
      const cellOf = (atMs: number): number => (atMs >= fineMs ? Math.floor(atMs / 1000) * 1000 : Math.floor(atMs / 30_000) * 30_000);
      const cells = new Map<number, { calls: number; hard: number }>();
      for (const one of said) {
        const cell = cells.get(cellOf(one.atMs)) ?? { calls: 0, hard: 0 };
        cells.set(cellOf(one.atMs), { calls: cell.calls + one.calls, hard: cell.hard + one.hard });
      }
      let [expectedCalls, expectedHard] = [0, 0];
      for (const [, cell] of [...cells].sort(([a], [b]) => b - a)) {
        if (expectedCalls >= windowCalls) break;
        expectedCalls += cell.calls;
        expectedHard += cell.hard;
      }
      assert.deepEqual([last?.calls, last?.hard], [expectedCalls, expectedHard]);
    }),
    { numRuns: 300 },
  );
});

test("a few calls a minute open it by their ratio when the window is given in calls, and never when it is given in time", () => {
  const run = (by: BreakerPolicy): number | null => {
    let window: EndpointWindow = openWindow();
    for (let call = 1; call <= 60; call += 1) {
      const nowMs = start + call * 6000;
      // Two failures, one answer: no run of five.
      window = withTraffic(window, trafficOf(calls(call % 3 === 0 ? "ok" : "hard", 1)), { router: "r", atMs: nowMs, spanMs: 250 });
      if (decide(evidenceOf(window, initialBreakerState, by, nowMs + 1000), { nowMs: nowMs + 1000, policy: by }).changed) return call;
    }
    return null;
  };
  const opensAt = run(counted(20));
  assert.ok(opensAt !== null && opensAt >= 20 && opensAt <= 25, `${opensAt}`);
  assert.equal(run(policy), null, "never 20 calls in 30 s");
});

test("in a window of calls old failures go by new calls, and after 10 minutes by time", () => {
  let window = withTraffic(openWindow(), trafficOf(calls("hard", 20)), { router: "r", atMs: start, spanMs: 250 });
  window = withTraffic(window, trafficOf(calls("ok", 10)), { router: "r", atMs: start + 300_000, spanMs: 250 });
  assert.deepEqual(lastOf(window, start + 301_000, counted(30)), { atMs: start + 301_000, calls: 30, hard: 20, slow: 0 });
  assert.equal(lastOf(window, start + 301_000, counted(10))?.hard, 0);
  assert.equal(lastOf(window, start + 601_000, counted(30))?.hard, 0, "forgotten");
});

test("C4 holds in a window of calls: a stretch with a call from before the last change is left out whole", () => {
  let window = withTraffic(openWindow(), trafficOf(calls("hard", 9), { breakerGeneration: 1 }), { router: "r", atMs: start, spanMs: 250 });
  window = withTraffic(window, trafficOf(calls("ok", 4), { breakerGeneration: 2 }), { router: "r", atMs: start + 2000, spanMs: 250 });
  window = withTraffic(window, trafficOf(calls("ok", 3), { breakerGeneration: 2 }), { router: "r", atMs: start + 400_000, spanMs: 250 });
  const [evidence] = evidenceOf(window, { ...halfOpen, sinceMs: start - 1000 }, counted(30), start + 401_000);
  assert.deepEqual([evidence?.answered, evidence?.hardRun], [3, 0]);
});

test("a window in time can be shorter or longer than the default, up to a minute", () => {
  let window: EndpointWindow = openWindow();
  for (let second = 0; second < 120; second += 1) window = withProbe(window, probeOf("p", "ok"), start + second * 1000);
  for (const windowMs of [1000, 10_000, 30_000, 60_000]) {
    const evaluations = evidenceOf(window, initialBreakerState, { ...policy, windowMs }, start + 120_000)[0]?.evaluations ?? [];
    assert.deepEqual(
      evaluations.map((one) => one.calls),
      windowMs === 1000 ? [1] : [windowMs / 1000, windowMs / 1000, windowMs / 1000].slice(0, evaluations.length),
    );
  }
});

test("the configuration sets the window, and a window of fewer calls than the minimum sample is a sample itself", () => {
  const of = (breaker: string): BreakerPolicy => {
    const text = `upstreams:\n  docs:\n    kind: http\n    breaker: ${breaker}\n    endpoints: [{ name: a, url: "http://127.0.0.1:1", tier: 0 }]\n`;
    const topology: Topology = parseTopology(text, { file: "failover.yaml", env: {} }).topology;
    return policyFor(topology, "docs", "production").breaker;
  };
  const pick = ({ windowMs, windowCalls, minimumCalls }: BreakerPolicy) => ({ windowMs, windowCalls, minimumCalls });
  assert.deepEqual(pick(of("{}")), { windowMs: 30_000, windowCalls: null, minimumCalls: 20 });
  assert.deepEqual(pick(of("{ window_ms: 10000 }")), { windowMs: 10_000, windowCalls: null, minimumCalls: 20 });
  assert.deepEqual(pick(of("{ window: { type: count, calls: 100 } }")), { windowMs: 30_000, windowCalls: 100, minimumCalls: 20 });
  assert.deepEqual(pick(of("{ window: { type: count, calls: 8 }, minimum_calls: 50 }")), {
    windowMs: 30_000,
    windowCalls: 8,
    minimumCalls: 8,
  });
});

test("W4: a window of more calls than there are holds each of the last minutes' calls once, at whatever second it is read", () => {
  let window: EndpointWindow = openWindow();
  for (let second = 0; second < 400; second += 1) {
    window = withTraffic(window, trafficOf(calls("ok", 1)), { router: "r", atMs: start + second * 1000, spanMs: 250 });
    if (second < 340) continue;
    const nowMs = start + (second + 1) * 1000;
    assert.equal(lastOf(window, nowMs, counted(10_000))?.calls, second + 1);
  }
});

test("C7: a second in which permits were renewed is left out whole: what came before is among the successes that were kept", () => {
  const renewedAtMs = start + 31_500;
  const cut = { generation: 3, sinceMs: start, renewed: { times: 1, atMs: renewedAtMs, successes: 2 } };
  let window = withTraffic(openWindow(), trafficOf(calls("ok", 2), { breakerGeneration: 2 }), {
    router: "r",
    atMs: start + 31_200,
    spanMs: 250,
  });
  window = withTraffic(window, trafficOf(calls("ok", 1), { breakerGeneration: 2 }), { router: "r", atMs: start + 31_700, spanMs: 250 });
  assert.deepEqual(evidenceOf(window, cut, policy, start + 33_000), []);
  window = withTraffic(window, trafficOf(calls("ok", 1), { breakerGeneration: 3 }), { router: "r", atMs: start + 31_800, spanMs: 250 });
  assert.equal(evidenceOf(window, cut, policy, start + 33_000)[0]?.answered, 1, "another generation is apart, also in the same second");
});

test("C1: evaluations are of whole seconds that are over, one each, and only of those with something in them", () => {
  let window = openWindow();
  const say = (atMs: number, generation: number, count: number): void => {
    const item = trafficOf(calls("hard", count), { breakerGeneration: generation });
    window = withTraffic(window, item, { router: "r", atMs, spanMs: 250 });
  };
  const evaluated = (nowMs: number, generation = 0) =>
    (evidenceOf(window, { ...initialBreakerState, generation }, policy, nowMs)[0]?.evaluations ?? []).map((one) => [
      one.atMs - start,
      one.calls,
    ]);
  say(start + 100, 0, 10);
  say(start + 300, 0, 10);
  assert.deepEqual(evidenceOf(window, initialBreakerState, policy, start), [], "it is still to come");
  assert.deepEqual(evaluated(start + 999), [], "the first second is not over");
  assert.deepEqual(evaluated(start + 1000), [[1000, 20]]);
  say(start + 1500, 0, 0);
  say(start + 2500, 0, 10);
  assert.deepEqual(
    evaluated(start + 3000),
    [
      [1000, 20],
      [3000, 30],
    ],
    "nothing was said in the second one",
  );
  const renewed = { ...initialBreakerState, generation: 1, renewed: { times: 1, atMs: 0, successes: 0 } };
  say(start + 2700, 1, 10);
  const both = evidenceOf(window, renewed, policy, start + 3000)[0]?.evaluations ?? [];
  assert.deepEqual(
    both.map(({ atMs }) => atMs - start).filter((atMs) => atMs === 3000).length,
    1,
    "two generations in a second are one look",
  );
  assert.deepEqual(evaluated(start + 3000).at(-1), [3000, 30], "C4: a newer generation's calls are not of this one");
});

test("calls that come and go are not slow because others were in flight before them, nor those that take as long as is allowed", () => {
  const seen = (latencyMs: number, oldestInFlightMs: number) => {
    let window = openWindow();
    for (let second = 0; second < 40; second += 1) {
      const usual = second < 30 ? 20 : latencyMs;
      const item = trafficOf(calls("ok", 30, usual), { inFlight: 10, oldestInFlightMs });
      window = withTraffic(window, item, { router: "r", atMs: start + second * 1000 + 500, spanMs: 1000 });
    }
    const [one] = evidenceOf(window, initialBreakerState, { ...policy, windowMs: 10_000 }, start + 40_000);
    return [one?.slowMs, one?.evaluations.at(-1)?.slow];
  };
  assert.deepEqual(seen(20, 15), [policy.slowMsMin, 0]);
  assert.deepEqual(seen(policy.slowMsMin, 15), [policy.slowMsMin, 0]);
  assert.deepEqual(seen(20, policy.slowMsMin + 1), [policy.slowMsMin, 1], "the oldest one is");
});
