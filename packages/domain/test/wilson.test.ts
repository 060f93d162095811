import assert from "node:assert/strict";
import { test } from "node:test";
import { wilsonLowerBound, wilsonUpperBound } from "@mcp-failover/domain";
import fc from "fast-check";

test("the bounds are those of the Wilson interval", () => {
  // By hand from Wilson's formula with z = 1.64485: 10 of 100, 0 of 20 (z²/(n + z²) above), 20 of 20.
  assert.ok(Math.abs(wilsonLowerBound(10, 100) - 0.0606) < 0.0005);
  assert.ok(Math.abs(wilsonUpperBound(10, 100) - 0.1606) < 0.0005);
  assert.ok(Math.abs(wilsonUpperBound(0, 20) - 2.70554 / (20 + 2.70554)) < 1e-5);
  assert.ok(Math.abs(wilsonLowerBound(20, 20) - 20 / (20 + 2.70554)) < 1e-5);
});

test("the bounds enclose the ratio, stay in 0 to 1, and close in as calls grow", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 5000 }), fc.double({ min: 0, max: 1, noNaN: true }), (calls, share) => {
      const events = Math.round(calls * share);
      const [low, high] = [wilsonLowerBound(events, calls), wilsonUpperBound(events, calls)];
      assert.ok(0 <= low && low <= events / calls + 1e-12 && events / calls <= high + 1e-12 && high <= 1);
      assert.ok(wilsonLowerBound(10 * events, 10 * calls) >= low - 1e-12);
    }),
  );
  for (let calls = 0; calls < 1000; calls += 1) assert.equal(wilsonLowerBound(0, calls), 0, `0 of ${calls}`);
  assert.equal(wilsonUpperBound(0, 0), 1);
  assert.throws(() => wilsonLowerBound(3, 2), RangeError);
});
