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

test("a message that comes late after a long silence does not put the store's clock back", () => {
  let monotonicMs = 1000;
  const clock = new StoreClock(() => monotonicMs);
  clock.hear(5_000_000);
  monotonicMs += 3_600_000;
  // This process stood still for 30 s meanwhile.
  clock.hear(8_570_000);
  assert.equal(clock.nowMs(), 8_600_000);
});

test("what was stored while the connection was gone says nothing of the store's clock when it comes", () => {
  let monotonicMs = 1000;
  const clock = new StoreClock(() => monotonicMs);
  for (const knownMs of [null, 5_600_000]) {
    clock.reconnected();
    clock.hear(5_060_000);
    assert.equal(clock.nowMs(), knownMs);
    monotonicMs += 100;
    clock.hear(5_070_000);
    assert.equal(clock.nowMs(), knownMs === null ? null : knownMs + 100);
    monotonicMs = 601_000;
    if (knownMs === null) clock.hear(5_600_000);
  }
  // This machine slept: its clock that nobody sets stood still, and nothing comes early.
  clock.reconnected();
  clock.hear(9_000_000);
  assert.equal(clock.nowMs(), 9_000_000);
});
