import assert from "node:assert/strict";
import { test } from "node:test";
import { type BreakerAction, type BreakerState, canonicalJson } from "@mcp-failover/contracts";
import {
  type BreakerInput,
  type BreakerOrder,
  decideBreaker,
  initialBreakerState,
  isBreakerDue,
  type ObserverEvidence,
} from "@mcp-failover/domain";
import fc from "fast-check";
import { answering, decide, failingRun, halfOpen, open, policy, quiet, ratio, t0 } from "./breaker-fixture.ts";

const order = (action: BreakerAction): BreakerOrder => ({
  action,
  commandId: "c-1",
  by: { kind: "operator", id: "ada" },
  reason: "the index is being rebuilt",
});
const statusOf: Record<BreakerAction, string> = {
  force_open: "forced_open",
  disable: "disabled",
  metrics_only: "metrics_only",
  reset: "closed",
};

test("C5, C9: a command is exactly one change to what it says, from any state and against any evidence, and its certificate gives it again", () => {
  const states: BreakerState[] = [
    initialBreakerState,
    open,
    halfOpen,
    { ...initialBreakerState, status: "forced_open", generation: 7, openings: 4 },
    { ...initialBreakerState, status: "disabled", generation: 8 },
    { ...initialBreakerState, status: "metrics_only", generation: 9 },
  ];
  fc.assert(
    fc.property(
      fc.constantFrom<BreakerAction>("force_open", "disable", "metrics_only", "reset"),
      fc.constantFrom(...states),
      fc.constantFrom<readonly ObserverEvidence[]>([], [failingRun("a", 99)], [answering("a")], [ratio("a", 99, 99)]),
      (action, state, evidence) => {
        const input: BreakerInput = {
          upstream: "u",
          endpoint: "e",
          policy,
          nowMs: t0,
          state,
          evidence,
          routers: ["r"],
          command: order(action),
        };
        const decision = decideBreaker(input);
        assert.deepEqual([decision.changed, decision.rule, decision.state.status], [true, "operator", statusOf[action]]);
        assert.equal(decision.state.generation, state.generation + 1);
        assert.equal(decision.state.sinceMs, t0);
        assert.deepEqual([decision.state.permits, decision.state.openUntilMs], [[], null]);
        assert.equal(decision.state.openings, action === "reset" ? 0 : state.openings);
        assert.match(decision.reason, /by ada: the index is being rebuilt/);
        const again = decideBreaker(JSON.parse(canonicalJson(input)) as BreakerInput);
        assert.equal(canonicalJson(again), canonicalJson(decision));
      },
    ),
  );
});

test("C9: after a reset the evidence decides again", () => {
  const forced: BreakerState = { ...initialBreakerState, status: "forced_open", generation: 7, openings: 4 };
  assert.equal(decide([failingRun("a", 99)], { state: forced }).changed, false);
  const reset = decide([], { state: forced, command: order("reset") }).state;
  const opened = decide([failingRun("a", 5)], { state: reset });
  assert.deepEqual([opened.state.status, opened.state.generation, opened.state.openings], ["open", 9, 1]);
});

test("C1, C3: an observer whose calls are overdue, and whose look had no answer, opens it long before they time out; not against a fresh answer", () => {
  const hanging = { ...quiet("router-1"), hungSinceMs: t0 - 300 };
  const decision = decide([hanging]);
  assert.deepEqual([decision.rule, decision.state.status], ["hung", "open"]);
  assert.equal(decide([hanging, answering("prober-1")]).changed, false);
  assert.equal(decide([hanging, { ...quiet("router-2"), hungSinceMs: t0 - 100 }, answering("prober-1", t0 - 900)]).rule, "hung");
  assert.equal(decide([{ ...hanging, lastAtMs: t0 - policy.evidenceFreshMs }]).changed, false, "old");
  assert.equal(decide([{ ...answering("router-1"), hungSinceMs: t0 - 10 }], { state: halfOpen }).rule, "half_open_failed");
});

test("C3: whatever one observer says, it opens nothing while another has fresh answers and saw nothing of the kind", () => {
  const accuser = fc.record({
    hardRun: fc.nat(400),
    runSinceMs: fc.integer({ min: t0 - 9000, max: t0 }),
    hung: fc.boolean(),
    hard: fc.nat(500),
    slow: fc.nat(500),
    more: fc.nat(200),
  });
  const other = fc.record({
    agoMs: fc.integer({ min: 0, max: policy.evidenceFreshMs - 1 }),
    calls: fc.nat(300),
    kind: fc.constantFrom("router" as const, "prober" as const),
  });
  fc.assert(
    fc.property(accuser, fc.array(other, { minLength: 1, maxLength: 4 }), (lies, others) => {
      const calls = Math.max(lies.hard, lies.slow) + lies.more;
      const liar: ObserverEvidence = {
        ...ratio("liar", calls, lies.hard, lies.slow),
        hardRun: lies.hardRun,
        runSinceMs: lies.runSinceMs,
        lastNotHardAtMs: null,
        ...(lies.hung ? { hungSinceMs: t0 - 100 } : {}),
      };
      const honest = others.map(
        (one, index): ObserverEvidence => ({ ...ratio(`o${index}`, one.calls, 0), kind: one.kind, lastNotHardAtMs: t0 - one.agoMs }),
      );
      assert.equal(decide([liar, ...honest]).changed, false);
    }),
    { numRuns: 1000 },
  );
});

test("C3: one observer is enough where the others saw some of it too, have nothing fresh, or fail themselves", () => {
  const accuser = ratio("router-1", 200, 60);
  assert.equal(decide([accuser, ratio("prober-1", 6, 0)]).changed, false);
  assert.equal(decide([accuser, ratio("prober-1", 6, 1)]).rule, "failure_ratio", "one of its six probes failed: it saw the same thing");
  assert.equal(decide([ratio("router-1", 200, 190), ratio("prober-1", 18, 1)]).changed, false, "1 of 18 is certainly less than nearly all");
  assert.equal(decide([accuser, { ...ratio("prober-1", 6, 2), hardRun: 1 }]).rule, "failure_ratio");
  assert.equal(decide([accuser, answering("prober-1", t0 - policy.evidenceFreshMs)]).rule, "failure_ratio");
  assert.equal(decide([failingRun("router-1", 5), { ...answering("prober-1", t0 - 900), hardRun: 1 }]).rule, "consecutive_failures");
});

test("C6: it stays open for as long as the endpoint asked, up to the longest open time", () => {
  const resting = (restMs: number) => decide([{ ...failingRun("router-1", 5), restUntilMs: t0 + restMs }]).state.openUntilMs ?? 0;
  assert.equal(resting(60_000), t0 + 60_000);
  assert.ok(resting(1) <= t0 + 5000);
  assert.equal(resting(9e6), t0 + policy.openMsMax);
  const fixed = { ...policy, openMs: 30_000, openMsMax: 30_000, openFactor: 1 };
  const own = decide([{ ...failingRun("router-1", 5), restUntilMs: t0 + 90_000 }], { policy: fixed });
  assert.equal(own.state.openUntilMs, t0 + 30_000, "an operator's own reset time wins");
  const another = decide([failingRun("router-1", 5), failingRun("router-2", 5), { ...answering("prober-1"), restUntilMs: t0 + 90_000 }]);
  assert.ok((another.state.openUntilMs ?? 0) <= t0 + 5000, "only those who say that it fails say for how long");
});

test("nothing but an event or the time that is due changes a breaker: until then nobody has to look", () => {
  assert.equal(isBreakerDue(initialBreakerState, policy, t0 + 1e9), false);
  assert.equal(isBreakerDue({ ...initialBreakerState, status: "forced_open" }, policy, t0 + 1e9), false);
  const ends = [open.openUntilMs ?? 0, halfOpen.permits[0]?.expiresAtMs ?? 0, halfOpen.sinceMs + policy.permitMs];
  for (const [index, state] of [open, halfOpen, { ...halfOpen, permits: [] }].entries()) {
    const dueMs = ends[index] as number;
    for (const [nowMs, due] of [
      [dueMs - 1, false],
      [dueMs, true],
    ] as const) {
      assert.equal(isBreakerDue(state, policy, nowMs), due);
      assert.equal(decide([], { state, nowMs }).changed, due);
    }
  }
});
