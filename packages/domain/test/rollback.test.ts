import assert from "node:assert/strict";
import { test } from "node:test";
import {
  type CallCounts,
  decideRollback,
  defaultPolicy,
  initialRollbackState,
  type RollbackDecision,
  type RollbackInput,
} from "@mcp-failover/domain";
import fc from "fast-check";
import { counts, none, nowMs } from "./rollback-fixture.ts";

const policy = defaultPolicy.rollback;
const ann = { kind: "operator", id: "ann" } as const;
/** The same in the window and in each of its samples. */
const always = (mcp: CallCounts, legacy: CallCounts = none) => ({
  evaluations: [{ mcp, legacy }],
  samples: [1, 2, 3, 4, 5].map(() => mcp),
});
const bad = counts(100, 40);
const order = (kind: "rollback" | "recover", more: object = {}): RollbackInput["command"] =>
  ({ kind, commandId: "c", by: ann, reason: "because", force: false, percent: null, ...more }) as RollbackInput["command"];

function world(more: Partial<RollbackInput> = {}): RollbackInput {
  return {
    scope: "tool",
    name: "get_inventory",
    policy,
    hasLegacy: true,
    state: initialRollbackState,
    ...always(none),
    step: { mcp: none, legacy: none },
    command: null,
    clock: { tilted: false },
    nowMs,
    ...more,
  };
}
const ruleOf = (decision: RollbackDecision): string => `${decision.kind} ${decision.rule}`;
const decide = (more: Partial<RollbackInput> = {}): string => ruleOf(decideRollback(world(more)));
const ramping = (mcpPercent: number, stepAgeMs: number, paused = false): RollbackInput["state"] => ({
  ...initialRollbackState,
  epoch: 3,
  implementation: "legacy",
  mcpPercent,
  ramp: { stepSinceMs: nowMs - stepAgeMs, paused },
});

test("R2: a failing tool is rolled back, with enough calls, over the threshold, on every evaluation", () => {
  const decision = decideRollback(world(always(bad)));
  assert.equal(ruleOf(decision), "decided error_rate");
  assert.ok(decision.kind === "decided");
  assert.deepEqual(
    [decision.action, decision.implementation, decision.state.mcpPercent, decision.state.epoch, decision.automatic],
    ["rolled_back", "legacy", 0, 1, true],
  );
  assert.equal(decide(always(counts(policy.minimumCalls - 1, policy.minimumCalls - 1))), "none sound");
  assert.equal(decide(always(counts(100, 12))), "none sound", "12 of 100 may well be 10 %");
});

test("R2: three of five samples are over the threshold, and the newest is one of them", () => {
  const well = counts(20);
  const ill = counts(20, 8);
  const judged = (...samples: CallCounts[]): string => decide({ ...always(bad), samples });
  assert.equal(judged(ill, well, ill, well, ill), "decided error_rate");
  assert.equal(judged(ill, ill, well, well, well), "none sound");
  assert.equal(judged(well, ill, ill, ill, ill), "none sound", "it is over");
  assert.equal(judged(none, ill, ill, ill, ill), "none sound", "nobody has called since");
  const slow = counts(20, 0, 8);
  assert.equal(decide({ ...always(counts(100, 0, 40)), samples: [slow, well, slow, well, slow] }), "decided response_time");
  assert.equal(decide({ ...always(counts(100, 0, 40)), samples: [well, slow, slow, slow, slow] }), "none sound");
});

test("R2: what was decided before there were samples is decided again as it was", () => {
  const { samples: _, ...before } = world();
  const old = (...windows: CallCounts[]): string => {
    const evaluations = windows.map((mcp) => ({ mcp, legacy: none }));
    return ruleOf(decideRollback({ ...before, policy: { ...policy, evaluations: 3 }, evaluations }));
  };
  assert.equal(old(bad, bad, bad), "decided error_rate");
  assert.equal(old(bad, bad, counts(100)), "none sound");
  assert.equal(old(bad, bad), "none sound");
});

test("R2: a tool whose p95 is over the limit is rolled back", () => {
  assert.equal(decide(always(counts(100, 0, 20))), "decided response_time");
  assert.equal(decide(always(counts(100, 0, 6))), "none sound");
});

test("R2: agents and the system are rolled back by command only, and a tool not where it is switched off", () => {
  assert.equal(decide({ scope: "agent", ...always(bad) }), "none automatic_off");
  assert.equal(decide({ scope: "system", ...always(bad) }), "none automatic_off");
  assert.equal(decide({ policy: { ...policy, automatic: false }, ...always(bad) }), "none automatic_off");
  assert.equal(decide({ policy: { ...policy, enabled: false }, ...always(bad) }), "none automatic_off");
  assert.equal(decide({ clock: { tilted: true }, ...always(bad) }), "none clock_gap");
});

test("R3: without data nothing is condemned, and a ramp pauses", () => {
  assert.equal(decide(), "none sound");
  const paused = decideRollback(world({ state: ramping(5, policy.rampStepMs) }));
  assert.equal(ruleOf(paused), "decided no_data");
  assert.deepEqual(paused.kind === "decided" && [paused.action, paused.state.mcpPercent, paused.state.ramp?.paused], ["paused", 5, true]);
  assert.equal(decide({ state: ramping(5, policy.rampStepMs, true) }), "none no_data");
});

test("R4: not to a legacy implementation that is missing, nor by itself to one that is no better", () => {
  assert.equal(decide({ hasLegacy: false, ...always(bad) }), "rejected no_legacy");
  assert.equal(decide(always(bad, counts(50, 20))), "rejected legacy_no_better");
  assert.equal(decide(always(bad, counts(50, 5))), "decided error_rate");
  assert.equal(decide(always(bad, counts(5, 5))), "decided error_rate", "5 calls say nothing");
  assert.equal(decide({ hasLegacy: false, command: order("rollback", { force: true }) }), "rejected no_legacy");
});

test("R5: a recovery goes through its steps, each once it has lasted and MCP was no worse than legacy", () => {
  const begun = decideRollback(world({ state: { ...ramping(0, 0), ramp: null }, command: order("recover") }));
  assert.deepEqual(begun.kind === "decided" && [begun.action, begun.state.mcpPercent, begun.state.ramp], [
    "advanced",
    1,
    { stepSinceMs: nowMs, paused: false },
  ]);
  const step = (mcp: CallCounts, legacy: CallCounts = none): string =>
    decide({ state: ramping(25, policy.rampStepMs), step: { mcp, legacy } });
  assert.equal(decide({ state: ramping(25, policy.rampStepMs - 1), step: { mcp: counts(500), legacy: none } }), "none ramp_step");
  assert.equal(step(counts(500)), "decided ramp_step");
  assert.equal(step(counts(500, 20), counts(500, 5)), "decided mcp_worse");
  assert.equal(step(counts(500, 6), counts(500, 5)), "decided ramp_step");
  for (let calls = policy.minimumCalls; calls < 300; calls += 1) {
    assert.equal(step(counts(calls), counts(calls)), "decided ramp_step", `nothing failed in ${calls} calls`);
  }
  assert.equal(step(counts(1000, 1), counts(1000)), "decided ramp_step", "one more failure in a thousand is chance");
  assert.equal(step(counts(20, 6), counts(20)), "decided mcp_worse", "few calls of legacy excuse no more than the threshold");
  const shares = [1, 5, 25, 50].map((share) => {
    const next = decideRollback(world({ state: ramping(share, policy.rampStepMs), step: { mcp: counts(500), legacy: none } }));
    return next.kind === "decided" ? [next.action, next.state.mcpPercent, next.implementation] : next;
  });
  assert.deepEqual(shares, [
    ["advanced", 5, "legacy"],
    ["advanced", 25, "legacy"],
    ["advanced", 50, "legacy"],
    ["recovered", 100, "mcp"],
  ]);
});

test("R5: a step whose MCP calls are slow pauses, errors or not, unless legacy is as slow", () => {
  const step = (mcp: CallCounts, legacy: CallCounts = none): string =>
    decide({ state: ramping(25, policy.rampStepMs), step: { mcp, legacy } });
  assert.equal(step(counts(40, 0, 40)), "decided mcp_worse");
  assert.equal(step(counts(40, 0, 40), counts(40)), "decided mcp_worse");
  assert.equal(step(counts(40, 0, 20), counts(40, 0, 20)), "decided ramp_step");
  assert.equal(step(counts(40, 0, 40), counts(5, 0, 5)), "decided mcp_worse", "5 calls of legacy say nothing");
  assert.equal(step(counts(400, 0, 20), counts(400)), "decided ramp_step", "the limit is a p95");
  const { samples: _, ...before } = world({ state: ramping(25, policy.rampStepMs), step: { mcp: counts(40, 0, 40), legacy: none } });
  assert.equal(ruleOf(decideRollback(before)), "decided ramp_step", "as it was decided before there were samples");
});

test("R5: a step is judged from where evidence on it begins, has to last from there, and says so", () => {
  const from = (agoMs: number, mcp = counts(40)) =>
    decideRollback(world({ state: ramping(25, 300_000), step: { mcp, legacy: none, fromMs: nowMs - agoMs } }));
  assert.equal(ruleOf(from(policy.rampStepMs - 1)), "none ramp_step");
  assert.match(from(40_000).reason, /0 of 40 calls failed in the last 40 s/);
  assert.match(from(40_000, counts(3)).reason, /^3 MCP calls in the last 40 s/);
  assert.match(from(300_000).reason, /0 of 40 calls failed\)/);
});

test("R5: a paused ramp goes on when the data is good, and MCP that fails during a ramp is rolled back again", () => {
  assert.equal(decide({ state: ramping(25, 100_000, true), step: { mcp: counts(500), legacy: none } }), "decided ramp_step");
  const failed = decideRollback(world({ scope: "agent", state: ramping(25, 100), ...always(bad) }));
  assert.deepEqual(failed.kind === "decided" && [failed.rule, failed.state.mcpPercent, failed.state.ramp], ["error_rate", 0, null]);
});

test("R5: with rollbacks switched off, MCP that fails during a ramp is paused at once and said once, and its step begins again", () => {
  const off = { policy: { ...policy, enabled: false } };
  for (const [seen, rule] of [
    [always(bad), "error_rate"],
    [always(counts(100, 0, 20)), "response_time"],
  ] as const) {
    const paused = decideRollback(world({ ...off, ...seen, state: ramping(25, 100) }));
    assert.equal(ruleOf(paused), `decided ${rule}`);
    assert.ok(paused.kind === "decided");
    assert.deepEqual(
      [paused.action, paused.state.mcpPercent, paused.state.ramp, paused.automatic],
      ["paused", 25, { stepSinceMs: nowMs, paused: true }, true],
    );
    // While it lasts, also when the step has: no word more, and no share more.
    const step = { mcp: counts(500), legacy: none };
    assert.equal(decide({ ...off, ...seen, state: ramping(25, policy.rampStepMs, true), step }), "none automatic_off");
    assert.equal(decide({ ...off, state: ramping(25, policy.rampStepMs, true), step }), "decided ramp_step", "it is well again");
  }
});

test("R6: an operator's word is done at once, or refused by a rule", () => {
  assert.equal(decide({ command: order("rollback") }), "decided operator");
  const backDown: RollbackInput["state"] = { ...initialRollbackState, epoch: 1, implementation: "legacy", mcpPercent: 0 };
  assert.equal(decide({ state: backDown, command: order("rollback") }), "rejected already_rolled_back");
  assert.equal(decide({ state: ramping(5, 1), command: order("rollback") }), "decided operator");
  assert.equal(decide({ policy: { ...policy, enabled: false }, command: order("rollback") }), "rejected disabled");
  assert.equal(decide({ policy: { ...policy, enabled: false }, command: order("rollback", { force: true }) }), "decided operator_forced");
  assert.equal(decide({ ...always(counts(50), counts(50, 30)), command: order("rollback") }), "rejected legacy_no_better");
  assert.equal(decide({ ...always(counts(50), counts(50)), command: order("rollback") }), "decided operator", "both are well");
  assert.equal(decide({ command: order("recover", { percent: 100 }) }), "rejected not_rolled_back");
  assert.equal(decide({ state: ramping(5, 1), command: order("recover") }), "rejected already_recovering");
  const whole = decideRollback(world({ state: backDown, command: order("recover", { percent: 100 }) }));
  assert.deepEqual(whole.kind === "decided" && [whole.action, whole.implementation, whole.state.lastGoodEpoch], ["recovered", "mcp", 2]);
});

const countsArb = fc
  .tuple(fc.integer({ min: 0, max: 200 }), fc.double({ min: 0, max: 1, noNaN: true }), fc.double({ min: 0, max: 1, noNaN: true }))
  .map(([calls, errors, slow]) => counts(calls, Math.round(calls * errors ** 2), Math.round(calls * slow ** 4)));
const sumOf = (all: readonly CallCounts[]): CallCounts =>
  all.reduce((sum, { calls, errors, slow }) => counts(sum.calls + calls, sum.errors + errors, sum.slow + slow), none);
const mostly = fc.oneof({ weight: 5, arbitrary: fc.constant(true) }, { weight: 1, arbitrary: fc.constant(false) });
const pairArb = fc.record({ mcp: countsArb, legacy: countsArb });
const sampleArb = fc.oneof(countsArb, fc.constantFrom(none, bad, counts(100, 0, 40)));
const seenArb = fc.oneof(
  pairArb.map(({ mcp, legacy }) => always(mcp, legacy)),
  fc
    .tuple(fc.array(sampleArb, { minLength: 5, maxLength: 5 }), countsArb)
    .map(([samples, legacy]) => ({ evaluations: [{ mcp: sumOf(samples), legacy }], samples })),
);
const inputArb: fc.Arbitrary<RollbackInput> = fc
  .record({
    scope: fc.constantFrom("tool" as const, "tool" as const, "agent" as const, "system" as const),
    name: fc.constant("x"),
    policy: fc.record({ enabled: mostly, automatic: mostly }).map((more) => ({ ...policy, ...more })),
    hasLegacy: mostly,
    state: fc.oneof(
      fc.constant(initialRollbackState),
      fc
        .record({ percent: fc.constantFrom(1, 5, 25, 50), ageMs: fc.integer({ min: 0, max: 60_000 }), paused: fc.boolean() })
        .map((ramp) => ramping(ramp.percent, ramp.ageMs, ramp.paused)),
      fc.constant({ ...ramping(0, 0), ramp: null }),
    ),
    evaluations: fc.constant([]),
    step: pairArb,
    command: fc.oneof(
      { weight: 3, arbitrary: fc.constant(null) },
      { weight: 1, arbitrary: fc.boolean().map((force) => order("rollback", { force })) },
      { weight: 1, arbitrary: fc.constantFrom(null, 1, 50, 100).map((percent) => order("recover", { percent })) },
    ),
    clock: fc.record({ tilted: mostly.map((even) => !even) }),
    nowMs: fc.constant(nowMs),
  })
  .chain((input) => seenArb.map((seen) => ({ ...input, ...seen })));

test("R1 to R7 hold for whatever is known", () => {
  let byItself = 0;
  fc.assert(
    fc.property(inputArb, (input) => {
      const before = JSON.stringify(input);
      const decision = decideRollback(input);
      assert.equal(JSON.stringify(input), before, "R7");
      assert.deepEqual(decideRollback(JSON.parse(before) as RollbackInput), decision, "R7");
      if (decision.kind !== "decided") return;
      const { state } = decision;
      assert.equal(state.epoch, input.state.epoch + 1, "R1");
      assert.equal(state.implementation, state.mcpPercent >= 100 ? "mcp" : "legacy", "R1");
      assert.ok(state.ramp == null || (state.mcpPercent > 0 && state.mcpPercent < 100), "R5");
      if (decision.action === "rolled_back") assert.ok(input.hasLegacy, "R4");
      if (!decision.automatic) return;
      byItself += 1;
      assert.equal(input.clock.tilted, false);
      if (decision.action === "rolled_back") {
        assert.ok(input.state.ramp != null || (input.scope === "tool" && input.policy.automatic), "R2");
        const isOver = ({ calls, errors, slow }: CallCounts): boolean => errors / calls > policy.errorRate || slow / calls > 0.05;
        const [window, [newest, ...older]] = [input.evaluations[0]?.mcp ?? none, input.samples ?? []];
        assert.ok(window.calls >= policy.minimumCalls && isOver(window), "R2");
        assert.ok(newest !== undefined && isOver(newest) && older.filter(isOver).length >= 2, "R2");
      } else {
        const condemned = decision.action === "paused" && !input.policy.enabled;
        assert.ok(input.state.ramp != null && (condemned || nowMs - input.state.ramp.stepSinceMs >= policy.rampStepMs), "R5");
        if (decision.action === "paused") assert.equal(state.mcpPercent, input.state.mcpPercent, "R3");
        else assert.ok(input.step.mcp.calls >= policy.minimumCalls, "R3");
      }
    }),
    { numRuns: 3000 },
  );
  assert.ok(byItself > 100, `too few decisions to mean anything: ${byItself}`);
});
