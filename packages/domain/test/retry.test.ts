import assert from "node:assert/strict";
import { test } from "node:test";
import { budgetTokens, chargeRetry, creditCall, initialRetryBudget, mayRetry, type RetryQuestion, safetyOf } from "@mcp-failover/domain";
import fc from "fast-check";

const question = (given: Partial<RetryQuestion>): RetryQuestion => ({
  safety: "read_only",
  executed: "unknown",
  attempts: 1,
  attemptsMax: 3,
  budget: initialRetryBudget(0),
  deadlineMs: 1000,
  nowMs: 0,
  ...given,
});
const anyQuestion = fc.record({
  safety: fc.constantFrom("read_only", "idempotent", "unsafe"),
  executed: fc.constantFrom("no", "unknown"),
  attempts: fc.integer({ min: 1, max: 6 }),
  attemptsMax: fc.integer({ min: 1, max: 6 }),
  budget: fc.integer({ min: 0, max: 5 }).map((tokens) => ({ ...initialRetryBudget(0), tokens })),
  deadlineMs: fc.integer({ min: 0, max: 100 }),
  nowMs: fc.integer({ min: 0, max: 100 }),
}) as fc.Arbitrary<RetryQuestion>;

test("R1: an unsafe call is never sent again without proof that it did not run", () => {
  fc.assert(
    fc.property(anyQuestion, (asked) => {
      if (asked.safety === "unsafe" && mayRetry(asked).retry) assert.equal(asked.executed, "no");
    }),
  );
  assert.deepEqual(mayRetry(question({ safety: "unsafe" })), { retry: false, rule: "outcome_unknown" });
  assert.deepEqual(mayRetry(question({ safety: "unsafe", executed: "no" })), { retry: true, charged: false });
});

test("R2: no call is sent more often than allowed, nor after its deadline", () => {
  fc.assert(
    fc.property(anyQuestion, (asked) => {
      if (mayRetry(asked).retry) assert.ok(asked.attempts < asked.attemptsMax && asked.nowMs < asked.deadlineMs);
    }),
  );
});

test("R2: the very moment of the deadline is too late", () => {
  assert.deepEqual(mayRetry(question({ nowMs: 1000 })), { retry: false, rule: "deadline" });
  assert.equal(mayRetry(question({ nowMs: 999 })).retry, true);
});

test("R3: over any run of calls, charged retries stay within 20 % of the calls, 10 a second and the first reserve", () => {
  fc.assert(
    fc.property(
      fc.array(fc.record({ waitMs: fc.integer({ min: 0, max: 400 }), calls: fc.integer({ min: 0, max: 40 }) }), {
        maxLength: 60,
        size: "max",
      }),
      (steps) => {
        let budget = initialRetryBudget(0);
        const reserve = budget.tokens;
        let nowMs = 0;
        let calls = 0;
        let retries = 0;
        for (const step of steps) {
          nowMs += step.waitMs;
          for (let call = 0; call < step.calls; call += 1) {
            budget = creditCall(budget, nowMs);
            calls += 1;
          }
          // Every one of the calls fails twice: a storm.
          for (let retry = 0; retry < 2 * step.calls; retry += 1) {
            if (!mayRetry(question({ budget, nowMs, deadlineMs: Number.POSITIVE_INFINITY })).retry) break;
            budget = chargeRetry(budget, nowMs);
            retries += 1;
          }
          assert.ok(budget.tokens >= -1e-9, "the bucket never holds less than nothing");
        }
        assert.ok(retries <= reserve + 0.2 * calls + (10 * nowMs) / 1000 + 1e-6, `${retries} retries of ${calls} calls in ${nowMs} ms`);
      },
    ),
  );
});

test("R3: an empty bucket refuses, and a second later lets about ten through", () => {
  const empty = { ...initialRetryBudget(0), tokens: 0 };
  assert.deepEqual(mayRetry(question({ budget: empty })), { retry: false, rule: "budget" });
  const later = budgetTokens(empty, 1000);
  assert.ok(later > 9 && later <= 10, String(later));
  assert.equal(mayRetry(question({ budget: empty, nowMs: 999, executed: "no" })).retry, true, "proof of non-execution needs no budget");
});

test("methods of MCP that only read may go anywhere, unknown ones nowhere twice", () => {
  const of = (method: string) => safetyOf({ kind: "mcp", method, annotations: null, trusted: true, operator: null });
  for (const method of ["initialize", "ping", "server/discover", "tools/list", "resources/read", "prompts/get", "completion/complete"]) {
    assert.equal(of(method), "read_only", method);
  }
  for (const method of ["notifications/initialized", "logging/setLevel", "resources/subscribe"])
    assert.equal(of(method), "read_only", `${method} concerns the session alone`);
  assert.equal(of("tasks/cancel"), "idempotent");
  assert.equal(of("vendor/launch"), "unsafe");
  assert.equal(of("tools/call"), "unsafe");
});

test("methods of HTTP are as RFC 9110 says", () => {
  const of = (method: string) => safetyOf({ kind: "http", method, annotations: null, trusted: false, operator: null });
  assert.deepEqual(["GET", "head", "OPTIONS", "PUT", "DELETE", "POST", "PATCH", "PURGE"].map(of), [
    "read_only",
    "read_only",
    "read_only",
    "idempotent",
    "idempotent",
    "unsafe",
    "unsafe",
    "unsafe",
  ]);
});

test("R4: annotations of an upstream that is not trusted change nothing", () => {
  const hint = fc.option(fc.boolean(), { nil: undefined });
  fc.assert(
    fc.property(fc.record({ readOnlyHint: hint, idempotentHint: hint, destructiveHint: hint }), (annotations) => {
      assert.equal(safetyOf({ kind: "mcp", method: "tools/call", annotations, trusted: false, operator: null }), "unsafe");
    }),
  );
});

test("R4: trusted annotations count, the operator's word is stronger, and a contradiction is not believed", () => {
  const of = (annotations: object | null, operator: object | null) =>
    safetyOf({ kind: "mcp", method: "tools/call", annotations, trusted: true, operator });
  assert.equal(of({ readOnlyHint: true }, null), "read_only");
  assert.equal(of({ idempotentHint: true }, null), "idempotent");
  assert.equal(of({}, null), "unsafe");
  assert.equal(of({ readOnlyHint: true, destructiveHint: true }, null), "unsafe");
  assert.equal(of({ readOnlyHint: true }, { read_only: false }), "unsafe");
  assert.equal(of({ readOnlyHint: true, idempotentHint: true }, { read_only: false, idempotent: false }), "unsafe");
  assert.equal(of(null, { read_only: true }), "read_only");
  assert.equal(of({ readOnlyHint: false }, { idempotent: true }), "idempotent");
});
