import assert from "node:assert/strict";
import { test } from "node:test";
import { StoreClock } from "../src/index.ts";

test("the store's clock is what its newest message says and what has passed here since, whatever comes late", () => {
  let monotonicMs = 1000;
  const clock = new StoreClock(() => monotonicMs);
  assert.equal(clock.nowMs(), null);
  clock.hear(5_000_000);
  monotonicMs += 250;
  assert.equal(clock.nowMs(), 5_000_250);
  // 200 ms late: the one before says more.
  clock.hear(5_000_050);
  assert.equal(clock.nowMs(), 5_000_250);
  clock.hear(5_000_300);
  assert.equal(clock.nowMs(), 5_000_300);
  monotonicMs += 60_000;
  assert.equal(clock.nowMs(), 5_060_300);
});

test("the store's clock is followed within ten seconds when it was set, and when ours runs fast or slow", () => {
  let monotonicMs = 0;
  let storeMs = 9_000_000;
  const clock = new StoreClock(() => monotonicMs);
  const live = (seconds: number, rate: number): void => {
    for (let tick = 0; tick < seconds * 2; tick += 1) {
      monotonicMs += 500 * rate;
      storeMs += 500;
      clock.hear(storeMs);
    }
  };
  live(20, 1);
  assert.equal(clock.nowMs(), storeMs);
  storeMs -= 3_600_000;
  live(11, 1);
  assert.equal(clock.nowMs(), storeMs);
  storeMs += 3_600_000;
  live(1, 1);
  assert.equal(clock.nowMs(), storeMs);
  live(60, 1.05);
  assert.ok(Math.abs((clock.nowMs() ?? 0) - storeMs) <= 600);
});
