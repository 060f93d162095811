import assert from "node:assert/strict";
import { test } from "node:test";
import type { OutcomeClass } from "@mcp-failover/contracts";
import {
  callsOf,
  defaultPolicy,
  type EndpointWindow,
  evidenceOf,
  expireWindow,
  initialBreakerState,
  observersMax,
  openWindow,
} from "@mcp-failover/domain";
import fc from "fast-check";
import { type Call, calls, probeOf, seenBy, trafficOf, withProbe, withTraffic } from "./signals.ts";

const policy = defaultPolicy.breaker;
const t0 = 1_700_000_000_000;
const see = (window: EndpointWindow, nowMs: number) => evidenceOf(window, initialBreakerState, policy, nowMs);
const router = (window: EndpointWindow, ended: readonly Call[], atMs: number, rest: Parameters<typeof trafficOf>[1] = {}) =>
  withTraffic(window, trafficOf(ended, rest), { router: "router-1", atMs, spanMs: 250 });

const outcome = fc.constantFrom<OutcomeClass>("ok", "hard", "hard", "hard", "soft", "auth", "caller");

test("W2, W4: whatever windows a router cuts its calls into, run and counts are those of the single calls", () => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.array(outcome, { maxLength: 8 }), fc.integer({ min: 0, max: 900 })), {
        minLength: 1,
        maxLength: 30,
        size: "max",
      }),
      (cuts) => {
        let window = openWindow();
        let atMs = t0;
        const all: OutcomeClass[] = [];
        const times: number[] = [];
        for (const [some, waitMs] of cuts) {
          atMs += waitMs;
          window = router(
            window,
            some.map((one) => ({ outcome: one })),
            atMs,
          );
          all.push(...some);
          times.push(...some.map(() => atMs));
        }
        const [evidence] = see(window, atMs);
        assert.ok(evidence);
        const expected = all.length - 1 - all.findLastIndex((one) => one !== "hard");
        assert.equal(evidence.hardRun, expected, "the run");
        assert.equal(evidence.runSinceMs, times[all.length - expected] ?? null, "since the window in which the run began");
        const counted = (seenBy(window, "router:router-1")?.buckets ?? []).reduce((sum, bucket) => sum + callsOf(bucket), 0);
        assert.equal(counted, all.length);
        assert.equal(evidence.answered, all.filter((one) => one === "ok" || one === "auth" || one === "caller").length);
      },
    ),
  );
});

test("the last answer is the newest one, also inside one second", () => {
  let window = withProbe(openWindow(), probeOf("prober-1", "ok"), t0 + 100);
  window = withProbe(window, probeOf("prober-1", "caller"), t0 + 600);
  window = withProbe(window, probeOf("prober-1", "hard"), t0 + 900);
  assert.equal(see(window, t0 + 1000)[0]?.lastNotHardAtMs, t0 + 600);
});

test("W1: four old failures, idle longer than the window, one new failure are one failure", () => {
  let window = router(openWindow(), calls("hard", 4), t0);
  window = router(window, calls("hard", 1), t0 + policy.windowMs + 2000);
  assert.equal(see(window, t0 + policy.windowMs + 2000)[0]?.hardRun, 1);
});

test("W1: failures are gone when their time is over, although nothing arrives", () => {
  const window = router(openWindow(), calls("hard", 9), t0);
  assert.equal(see(window, t0 + policy.windowMs - 1000)[0]?.hardRun, 9);
  assert.deepEqual(see(window, t0 + policy.windowMs + policy.bucketMs), []);
  expireWindow(window, t0 + 2 * policy.baselineMs);
  assert.deepEqual(window.observers, []);
});

test("W3: observers, buckets and slots have limits, and the stalest observer goes first", () => {
  let window = openWindow();
  for (let index = 0; index < 3 * observersMax; index += 1) window = withProbe(window, probeOf(`prober-${index}`, "ok"), t0 + index);
  assert.equal(window.observers.length, observersMax);
  assert.ok(seenBy(window, `prober:prober-${3 * observersMax - 1}`));
  for (let second = 0; second < 2000; second += 1) {
    window = router(window, calls("ok", 1), t0 + second * 1000, { breakerGeneration: second % 3 });
  }
  assert.ok((seenBy(window, "router:router-1")?.buckets.length ?? 999) <= 300);
  assert.ok((seenBy(window, "router:router-1")?.slots.length ?? 999) <= 22);
});

test("an evaluation needs a second with calls: looking at the same calls again is none", () => {
  const window = router(router(openWindow(), calls("ok", 30), t0), calls("ok", 10), t0 + 1000);
  const evaluations = see(window, t0 + 20_000)[0]?.evaluations;
  assert.deepEqual(evaluations, [
    { atMs: t0 + 1000, calls: 30, hard: 0, slow: 0 },
    { atMs: t0 + 2000, calls: 40, hard: 0, slow: 0 },
  ]);
});

function secondsOf(from: EndpointWindow, fromMs: number, seconds: number, latencyMs: number): EndpointWindow {
  let window = from;
  for (let second = 0; second < seconds; second += 1) window = router(window, calls("ok", 10, latencyMs), fromMs + second * 1000);
  return window;
}

test("slow is four times the usual p95 and at least 1 s; an upstream that always takes 3 s is not slow", () => {
  const usual = secondsOf(openWindow(), t0, 120, 3000);
  const [evidence] = see(usual, t0 + 120_000);
  assert.equal(evidence?.slowMs, 20_000, "4 x the bound 5000 of the bucket that 3000 falls into");
  assert.equal(evidence?.evaluations.at(-1)?.slow, 0);
  const fast = see(secondsOf(openWindow(), t0, 120, 40), t0 + 120_000);
  assert.equal(fast[0]?.slowMs, 1000);
});

test("an endpoint that turned slow does not become its own measure, not even soon after the start", () => {
  for (const fastSeconds of [10, 60, 300]) {
    const window = secondsOf(secondsOf(openWindow(), t0, fastSeconds, 40), t0 + fastSeconds * 1000, 20, 6000);
    const [evidence] = see(window, t0 + (fastSeconds + 20) * 1000);
    assert.equal(evidence?.slowMs, 1000, `${fastSeconds} s of fast calls before`);
    assert.equal(evidence?.evaluations.at(-1)?.slow, 200);
  }
});

test("with too few calls nothing is slow: unknown is not slow", () => {
  const [evidence] = see(router(openWindow(), calls("ok", 15, 9000), t0), t0 + 1000);
  assert.equal(evidence?.slowMs, null);
  assert.equal(evidence?.evaluations.at(-1)?.slow, 0);
});

test("calls that hang count as slow by their age, before any of them has ended", () => {
  let window = secondsOf(openWindow(), t0, 60, 40);
  const from = t0 + 60_000;
  for (let second = 0; second < 6; second += 1) {
    window = router(window, [], from + second * 1000, { inFlight: 30, oldestInFlightMs: second * 1000 });
  }
  const last = see(window, from + 6000)[0]?.evaluations.at(-1);
  assert.equal(last?.slow, 30, "all 30 have been in flight for more than 1 s");
  const young = router(secondsOf(openWindow(), t0, 60, 40), [], from, { inFlight: 30, oldestInFlightMs: 500 });
  assert.equal(see(young, from + 1000)[0]?.evaluations.at(-1)?.slow, 0);
});

test("one call that hangs among many that are answered counts as slow, once, by the age of the oldest", () => {
  const slowOf = (oldestInFlightMs: number): number | undefined => {
    const window = router(secondsOf(openWindow(), t0, 60, 40), calls("ok", 40), t0 + 60_000, { inFlight: 3, oldestInFlightMs });
    return see(window, t0 + 61_000)[0]?.evaluations.at(-1)?.slow;
  };
  assert.deepEqual([slowOf(999), slowOf(5000)], [0, 1]);
});

test("the same signals give the same windows", () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(outcome, fc.integer({ min: 0, max: 3000 }), fc.constantFrom("a", "b"))), (script) => {
      const run = (): EndpointWindow => {
        let atMs = t0;
        return script.reduce((window, [one, waitMs, who]) => {
          atMs += waitMs;
          return withProbe(window, probeOf(who, one), atMs);
        }, openWindow());
      };
      assert.deepEqual(run(), run());
    }),
  );
});
