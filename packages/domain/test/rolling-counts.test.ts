import assert from "node:assert/strict";
import { test } from "node:test";
import { CallBreaker, defaultCallBreakerPolicy } from "@mcp-failover/domain";
import fc from "fast-check";

const windowMs = 1000;
const bucketMs = 100;
const make = () => new CallBreaker("test", { ...defaultCallBreakerPolicy, windowMs, bucketMs, tallies: 2 });

test("W1: totals are the sum of the buckets that are not over, however long it was idle", () => {
  const addition = fc.record({
    waitMs: fc.integer({ min: 0, max: 1500 }),
    index: fc.constantFrom(0, 1),
    amount: fc.integer({ min: 1, max: 9 }),
  });
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 1e9 }), fc.array(addition, { maxLength: 60, size: "max" }), (startMs, additions) => {
      const breaker = make();
      const added: { atMs: number; index: number; amount: number }[] = [];
      let nowMs = startMs;
      for (const { waitMs, index, amount } of additions) {
        nowMs += waitMs;
        breaker.tally(index, amount, nowMs);
        added.push({ atMs: nowMs, index, amount });
        const oldest = Math.floor(nowMs / bucketMs) - windowMs / bucketMs + 1;
        const expected = [0, 1].map((of) =>
          added.filter((one) => one.index === of && Math.floor(one.atMs / bucketMs) >= oldest).reduce((sum, one) => sum + one.amount, 0),
        );
        assert.deepEqual(breaker.tallies(nowMs), expected);
      }
    }),
  );
});

test("W2: a clock that goes back adds to the newest bucket and brings nothing back", () => {
  const breaker = make();
  breaker.tally(0, 1, 5000);
  breaker.tally(0, 1, 100);
  assert.deepEqual(breaker.tallies(100), [2, 0]);
  assert.deepEqual(breaker.tallies(5999), [2, 0]);
  assert.deepEqual(breaker.tallies(6000), [0, 0]);
});
