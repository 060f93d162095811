import assert from "node:assert/strict";
import { test } from "node:test";
import {
  defaultPolicy,
  initialLocalBreaker,
  type LocalBreaker,
  type LocalOutcome,
  type LocalPermit,
  localAcquire,
  localAllows,
  localRecord,
  localRelease,
} from "@mcp-failover/domain";
import fc from "fast-check";

const policy = defaultPolicy.localBreaker;
const ok: LocalOutcome = { class: "ok", code: null };
const refused: LocalOutcome = { class: "hard", code: "refused" };
const timeout: LocalOutcome = { class: "hard", code: "timeout" };

function call(state: LocalBreaker, outcome: LocalOutcome, nowMs: number): LocalBreaker {
  const { state: next, permit } = localAcquire(state, nowMs);
  assert.ok(permit, `no permit at ${nowMs} in ${state.status}`);
  return localRecord(next, permit, outcome, nowMs);
}
function permitOf(state: LocalBreaker, nowMs: number): { state: LocalBreaker; permit: LocalPermit } {
  const { state: next, permit } = localAcquire(state, nowMs);
  assert.ok(permit);
  return { state: next, permit };
}

test("L1: a refused connection ejects at once, other hard failures only three in a row", () => {
  assert.equal(call(initialLocalBreaker, refused, 0).status, "ejected");
  let state = call(call(initialLocalBreaker, timeout, 0), timeout, 1);
  assert.equal(state.status, "closed");
  state = call(call(call(state, ok, 2), timeout, 3), timeout, 4);
  assert.equal(state.status, "closed", "a success in between ends the run");
  assert.equal(call(state, timeout, 5).status, "ejected");
});

test("L1: failures that lie far apart are no run: two old ones, idle, and a new one do not eject", () => {
  const old = call(call(initialLocalBreaker, timeout, 0), timeout, 1);
  const after = call(old, timeout, 1 + policy.runMs);
  assert.equal(after.status === "closed" && after.failureRun, 1);
  assert.equal(call(old, timeout, policy.runMs).status, "ejected");
});

test("L3: the ejection doubles from 1 s to 30 s, and quiet time takes it back", () => {
  let state: LocalBreaker = initialLocalBreaker;
  let nowMs = 0;
  const lasted: number[] = [];
  for (let round = 0; round < 7; round += 1) {
    state = call(state, refused, nowMs);
    assert.equal(state.status, "ejected");
    if (state.status !== "ejected") return;
    lasted.push(state.untilMs - nowMs);
    assert.equal(localAllows(state, state.untilMs - 1), false);
    nowMs = state.untilMs;
  }
  assert.deepEqual(lasted, [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
  state = call(state, ok, nowMs);
  assert.equal(state.status, "closed");
  state = call(state, refused, nowMs + 100 * policy.decayMs);
  assert.equal(state.status === "ejected" && state.untilMs - (nowMs + 100 * policy.decayMs), 1000);
});

test("L4: in half-open one call is the trial and 50 others are told at once to go elsewhere", () => {
  const ejected = call(initialLocalBreaker, refused, 0);
  const first = permitOf(ejected, 1000);
  let state = first.state;
  for (let other = 0; other < 50; other += 1) {
    const asked = localAcquire(state, 1001 + other);
    assert.equal(asked.permit, null);
    state = asked.state;
  }
  assert.equal(localRecord(state, first.permit, ok, 1100).status, "closed");
});

test("L4: a trial that never reports does not keep half-open stuck, and its late success still counts", () => {
  const ejected = call(initialLocalBreaker, refused, 0);
  const hung = permitOf(ejected, 1000);
  assert.equal(localAllows(hung.state, 1000 + policy.trialMs - 1), false);
  const second = permitOf(hung.state, 1000 + policy.trialMs);
  assert.equal(localRecord(second.state, hung.permit, ok, 1000 + policy.trialMs + 1).status, "closed");
});

test("L4: a trial whose caller went away is given back, and the next caller has it at once", () => {
  const trial = permitOf(call(initialLocalBreaker, refused, 0), 1000);
  assert.equal(localAllows(localRelease(trial.state, trial.permit), 1001), true);
});

test("L5: a failure from before the ejection does not reopen a breaker in half-open", () => {
  const slow = permitOf(initialLocalBreaker, 0);
  const trial = permitOf(call(slow.state, refused, 1), 1001);
  const after = localRecord(trial.state, slow.permit, refused, 1002);
  assert.deepEqual(after, trial.state);
  assert.equal(localRecord(after, trial.permit, ok, 1003).status, "closed");
});

test("L5: a success from before the ejection does not close a breaker without a trial", () => {
  const slow = permitOf(initialLocalBreaker, 0);
  const ejected = call(slow.state, refused, 1);
  assert.deepEqual(localRecord(ejected, slow.permit, ok, 2), ejected);
  const trial = permitOf(ejected, 1001);
  assert.deepEqual(localRecord(trial.state, slow.permit, ok, 1002), trial.state);
});

test("panic: a forced call passes an ejected breaker; its success closes it, its failure does not lengthen the ejection", () => {
  const ejected = call(initialLocalBreaker, refused, 0);
  const forced = localAcquire(ejected, 10, { force: true });
  assert.ok(forced.permit);
  assert.deepEqual(localRecord(forced.state, forced.permit, refused, 20), ejected);
  assert.equal(localRecord(forced.state, forced.permit, ok, 20).status, "closed");
});

test("L5: the failure of a forced call from during the ejection does not fail the trial that came after it", () => {
  const ejected = call(initialLocalBreaker, refused, 0);
  const forced = localAcquire(ejected, 10, { force: true });
  assert.ok(forced.permit);
  const trial = permitOf(forced.state, 1000);
  assert.deepEqual(localRecord(trial.state, forced.permit, timeout, 1010), trial.state);
});

const outcome: fc.Arbitrary<LocalOutcome> = fc.oneof(
  fc.constant(ok),
  fc.constant(refused),
  fc.constant(timeout),
  fc.constantFrom<LocalOutcome>({ class: "soft", code: null }, { class: "auth", code: null }, { class: "caller", code: null }),
);
/** Calls that overlap: each begins, and reports (or never does) some time later. */
const script = fc.array(
  fc.record({ waitMs: fc.integer({ min: 0, max: 9000 }), takesMs: fc.integer({ min: 0, max: 12_000 }), outcome: fc.option(outcome) }),
  { maxLength: 80, size: "max" },
);

interface Step {
  readonly atMs: number;
  readonly before: LocalBreaker;
  readonly after: LocalBreaker;
  readonly reported: { permit: LocalPermit; outcome: LocalOutcome } | null;
}
function run(calls: readonly { waitMs: number; takesMs: number; outcome: LocalOutcome | null }[]): { steps: Step[]; last: LocalBreaker } {
  const steps: Step[] = [];
  let state: LocalBreaker = initialLocalBreaker;
  let pending: { atMs: number; permit: LocalPermit; outcome: LocalOutcome }[] = [];
  let nowMs = 0;
  for (const next of calls) {
    nowMs += next.waitMs;
    const due = pending.filter((one) => one.atMs <= nowMs).sort((a, b) => a.atMs - b.atMs);
    pending = pending.filter((one) => one.atMs > nowMs);
    for (const one of due) {
      const after = localRecord(state, one.permit, one.outcome, one.atMs);
      steps.push({ atMs: one.atMs, before: state, after, reported: one });
      state = after;
    }
    const asked = localAcquire(state, nowMs);
    assert.equal(asked.permit !== null, localAllows(state, nowMs), "localAllows and localAcquire agree");
    steps.push({ atMs: nowMs, before: state, after: asked.state, reported: null });
    state = asked.state;
    if (asked.permit && next.outcome) pending.push({ atMs: nowMs + next.takesMs, permit: asked.permit, outcome: next.outcome });
  }
  return { steps, last: state };
}

test("L1, L2, L3, L5, L6 hold for any overlapping calls", () => {
  fc.assert(
    fc.property(script, (calls) => {
      const { steps, last } = run(calls);
      assert.deepEqual(run(calls).last, last, "L6");
      for (const { before, after, reported, atMs } of steps) {
        if (reported && reported.permit.generation !== before.generation) assert.deepEqual(after, before, "L5");
        if (after.status === "ejected" && after !== before) {
          assert.equal(reported?.outcome.class, "hard", "L2");
          assert.ok(after.untilMs - atMs <= policy.ejectMsMax, "L3");
          if (before.status === "closed" && reported?.outcome.code !== "refused") {
            assert.ok(before.failureRun + 1 >= policy.failures, "L1");
          }
        }
        assert.ok(after.generation >= before.generation);
      }
      assert.ok(
        localAllows(last, (steps.at(-1)?.atMs ?? 0) + policy.ejectMsMax + policy.trialMs),
        "L3, L4: time alone makes a trial possible",
      );
    }),
  );
});
