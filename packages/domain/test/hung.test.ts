import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type HungQuestion, judgeHung, overdueMs } from "../src/hung.ts";
import { defaultPolicy } from "../src/index.ts";

const policy = defaultPolicy.router;
const out = { oldestBegunMs: 10_000, heardAtMs: 9990, silentLookAtMs: null, hung: false, p95Ms: 20, nowMs: 10_000 } as const;

test("an endpoint hangs after a second in which neither the call nor a look was answered, and is looked at half-way (N1, N2)", () => {
  const at = (ms: number, silentLookAtMs: number | null = null) => judgeHung({ ...out, nowMs: 10_000 + ms, silentLookAtMs });
  assert.equal(at(499), "well");
  assert.equal(at(500), "look");
  assert.equal(at(60_000), "look", "a slow tool alone is no hang, however slow");
  assert.equal(at(1000, 10_500), "hung");
  assert.equal(at(1000, 9000), "look", "a look before the silence says nothing on it");
  assert.equal(judgeHung({ ...out, nowMs: 11_200, silentLookAtMs: 10_500, heardAtMs: 11_100 }), "well", "heard since");
});

test("slow is four times the usual p95, and five seconds while nobody knows what is usual (N1)", () => {
  assert.deepEqual(
    [20, 250, 500, 2500, null].map((p95Ms) => overdueMs(p95Ms)),
    [1000, 1000, 2000, 10_000, 5000],
  );
  assert.equal(judgeHung({ ...out, p95Ms: 500, nowMs: 11_900, silentLookAtMs: 11_000 }), "look");
  assert.equal(judgeHung({ ...out, p95Ms: 500, nowMs: 12_000, silentLookAtMs: 11_000 }), "hung");
});

test("an endpoint that hung and was not heard since is judged by the next look alone (N1)", () => {
  assert.equal(judgeHung({ ...out, hung: true, nowMs: 10_001 }), "look");
  assert.equal(judgeHung({ ...out, hung: true, nowMs: 10_500, silentLookAtMs: 10_001 }), "hung");
});

test("N1 and N2 hold for any history", () => {
  const ms = fc.integer({ min: 0, max: 30_000 });
  const question: fc.Arbitrary<HungQuestion> = fc.record({
    oldestBegunMs: fc.option(ms),
    heardAtMs: fc.option(ms),
    silentLookAtMs: fc.option(ms),
    hung: fc.boolean(),
    p95Ms: fc.option(fc.integer({ min: 1, max: 10_000 })),
    nowMs: fc.constant(30_000),
  });
  fc.assert(
    fc.property(question, (asked) => {
      if (judgeHung(asked, policy) !== "hung") return;
      assert.ok(asked.oldestBegunMs !== null && asked.silentLookAtMs !== null);
      const sinceMs = Math.max(asked.oldestBegunMs, asked.heardAtMs ?? 0);
      assert.ok(asked.silentLookAtMs >= sinceMs, "the look fell into the silence");
      assert.ok(asked.hung || asked.nowMs - sinceMs >= overdueMs(asked.p95Ms, policy));
    }),
  );
});
