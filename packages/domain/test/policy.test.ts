import assert from "node:assert/strict";
import { test } from "node:test";
import { defaultPolicy } from "@mcp-failover/domain";

/**
 * What the design promises to whoever sets nothing, group by group. A change of one of these is a change of the design, of its documents and of what
 * the simulation proves.
 */
const { health, breaker, failover, rollback, router } = defaultPolicy;
const seconds = (count: number): number => count * 1000;
const minutes = (count: number): number => count * 60_000;

test("by default an endpoint is probed every 5 s for at most 5 s; 3 failures down, 2 successes up, quick looks after 250 ms for at most 500 ms", () => {
  assert.deepEqual([health.intervalMs, health.timeoutMs], [seconds(5), seconds(5)]);
  assert.deepEqual([health.failuresDown, health.successesUp], [3, 2]);
  assert.deepEqual([health.fastRetryMs, health.confirmTimeoutMs, router.lookMs], [250, 500, 500]);
  assert.equal(health.monitored, true);
});

test("by default 4 changes in 10 min hold an endpoint down for 5 min, and nothing is said to be down in the first 5 s", () => {
  assert.deepEqual([health.flapChanges, health.flapWindowMs, health.holdDownMs], [4, minutes(10), minutes(5)]);
  assert.deepEqual([health.graceMs, failover.graceMs], [seconds(5), seconds(5)]);
  // No fresh result is unknown: two intervals and a time-out.
  assert.equal(health.freshMs, 2 * health.intervalMs + health.timeoutMs);
});

test("by default a breaker looks at 30 s by the second, and trips on 5 failures in a row, or on a ratio of 20 calls in 3 evaluations", () => {
  assert.deepEqual([breaker.windowMs, breaker.bucketMs, breaker.windowCalls], [seconds(30), seconds(1), null]);
  assert.deepEqual([breaker.consecutiveFailures, breaker.minimumCalls, breaker.evaluations], [5, 20, 3]);
});

test("by default slow is over 1 s and over 4 times the p95 of 10 min, of calls that are out, too", () => {
  assert.deepEqual([breaker.slowMsMin, breaker.slowFactor, breaker.baselineMs], [seconds(1), 4, minutes(10)]);
  assert.deepEqual([router.hungMsMin, router.hungFactor], [seconds(1), 4]);
});

test("by default a breaker stays open for 5 s, doubling up to 300 s, and as long at most does a router heed Retry-After", () => {
  assert.deepEqual([breaker.openMs, breaker.openFactor, breaker.openMsMax], [seconds(5), 2, seconds(300)]);
  assert.equal(router.restMsMax, seconds(300));
});

test("by default an upstream moves by itself at most 3 times an hour, a minute apart, judged by those seen in 10 min; failback is manual, or after 300 s", () => {
  assert.deepEqual([failover.automatic, failover.dryRun], [true, false]);
  assert.deepEqual([failover.cooldownMs, failover.movesPerHour], [seconds(60), 3]);
  assert.equal(failover.observerWindowMs, minutes(10));
  assert.deepEqual([failover.failback, failover.failbackAfterMs], ["manual", seconds(300)]);
});

test("by default an endpoint under a score of 0.3 gets nothing unless under half are well, starts slowly for 60 s, and 20 % of the calls may be sent again", () => {
  assert.deepEqual([router.scoreMin, router.panicRatio, router.slowStartMs, router.retryBudget], [0.3, 0.5, seconds(60), 0.2]);
  assert.equal(router.staleMsMax, minutes(10));
  assert.equal(router.windowMs, 250);
});

test("by default a rollback is for an error rate of 0.1 or a p95 of 5 s in 3 of 5 samples, and a recovery takes 1, 5, 25, 50, 100 %", () => {
  assert.deepEqual([rollback.enabled, rollback.automatic], [true, true]);
  assert.deepEqual([rollback.errorRate, rollback.responseMsMax], [0.1, seconds(5)]);
  assert.deepEqual([rollback.samples, rollback.samplesOver, rollback.minimumCalls], [5, 3, breaker.minimumCalls]);
  assert.deepEqual(rollback.rampPercent, [1, 5, 25, 50, 100]);
});

test("by default a switch takes at most 30 s and a call with its fallback 60 s, and a call is answered before the 60 s in which clients give up", () => {
  assert.deepEqual([rollback.switchMs, router.fallbackMs], [seconds(30), seconds(60)]);
  assert.ok(router.callMs < seconds(60));
  assert.ok(router.deadlineMarginMs > 0);
});
