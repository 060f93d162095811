import assert from "node:assert/strict";
import { test } from "node:test";
import { type Event, latencyBucketsMs, makeEvent, type NewEvent, topology } from "@mcp-failover/contracts";
import {
  type CallCounts,
  decideRollback,
  defaultPolicy,
  foldRollbackAudit,
  foldToolTraffic,
  initialRollbackState,
  isQuietScope,
  noRollbackAudit,
  noToolTraffic,
  type RollbackDecision,
  type RollbackInput,
  rollbackInput,
  rollbackScopes,
  type ToolTraffic,
} from "@mcp-failover/domain";
import fc from "fast-check";

const nowMs = 1_000_000_000;
const policy = defaultPolicy.rollback;
const ann = { kind: "operator", id: "ann" } as const;
const none: CallCounts = { calls: 0, errors: 0, slow: 0 };
const counts = (calls: number, errors = 0, slow = 0): CallCounts => ({ calls, errors, slow });
const always = (mcp: CallCounts, legacy: CallCounts = none): RollbackInput["evaluations"] => [1, 2, 3].map(() => ({ mcp, legacy }));
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
    evaluations: always(none),
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
  const decision = decideRollback(world({ evaluations: always(bad) }));
  assert.equal(ruleOf(decision), "decided error_rate");
  assert.ok(decision.kind === "decided");
  assert.deepEqual(
    [decision.action, decision.implementation, decision.state.mcpPercent, decision.state.epoch, decision.automatic],
    ["rolled_back", "legacy", 0, 1, true],
  );
  assert.equal(decide({ evaluations: always(counts(policy.minimumCalls - 1, policy.minimumCalls - 1)) }), "none sound");
  assert.equal(decide({ evaluations: always(counts(100, 12)) }), "none sound", "12 of 100 may well be 10 %");
  assert.equal(decide({ evaluations: [...always(bad).slice(0, 2), { mcp: counts(100), legacy: none }] }), "none sound");
  assert.equal(decide({ evaluations: always(bad).slice(0, 2) }), "none sound");
});

test("R2: a tool whose p95 is over the limit is rolled back", () => {
  assert.equal(decide({ evaluations: always(counts(100, 0, 20)) }), "decided response_time");
  assert.equal(decide({ evaluations: always(counts(100, 0, 6)) }), "none sound");
});

test("R2: agents and the system are rolled back by command only, and a tool not where it is switched off", () => {
  assert.equal(decide({ scope: "agent", evaluations: always(bad) }), "none automatic_off");
  assert.equal(decide({ scope: "system", evaluations: always(bad) }), "none automatic_off");
  assert.equal(decide({ policy: { ...policy, automatic: false }, evaluations: always(bad) }), "none automatic_off");
  assert.equal(decide({ policy: { ...policy, enabled: false }, evaluations: always(bad) }), "none automatic_off");
  assert.equal(decide({ clock: { tilted: true }, evaluations: always(bad) }), "none clock_gap");
});

test("R3: without data nothing is condemned, and a ramp pauses", () => {
  assert.equal(decide(), "none sound");
  const paused = decideRollback(world({ state: ramping(5, policy.rampStepMs) }));
  assert.equal(ruleOf(paused), "decided no_data");
  assert.deepEqual(paused.kind === "decided" && [paused.action, paused.state.mcpPercent, paused.state.ramp?.paused], ["paused", 5, true]);
  assert.equal(decide({ state: ramping(5, policy.rampStepMs, true) }), "none no_data");
});

test("R4: not to a legacy implementation that is missing, nor by itself to one that is no better", () => {
  assert.equal(decide({ hasLegacy: false, evaluations: always(bad) }), "rejected no_legacy");
  assert.equal(decide({ evaluations: always(bad, counts(50, 20)) }), "rejected legacy_no_better");
  assert.equal(decide({ evaluations: always(bad, counts(50, 5)) }), "decided error_rate");
  assert.equal(decide({ evaluations: always(bad, counts(5, 5)) }), "decided error_rate", "5 calls say nothing");
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

test("R5: a paused ramp goes on when the data is good, and MCP that fails during a ramp is rolled back again", () => {
  assert.equal(decide({ state: ramping(25, 100_000, true), step: { mcp: counts(500), legacy: none } }), "decided ramp_step");
  const failed = decideRollback(world({ scope: "agent", state: ramping(25, 100), evaluations: always(bad) }));
  assert.deepEqual(failed.kind === "decided" && [failed.rule, failed.state.mcpPercent, failed.state.ramp], ["error_rate", 0, null]);
});

test("R5: with rollbacks switched off, MCP that fails during a ramp is paused at once and said once, and its step begins again", () => {
  const off = { policy: { ...policy, enabled: false } };
  for (const [evaluations, rule] of [
    [always(bad), "error_rate"],
    [always(counts(100, 0, 20)), "response_time"],
  ] as const) {
    const paused = decideRollback(world({ ...off, evaluations, state: ramping(25, 100) }));
    assert.equal(ruleOf(paused), `decided ${rule}`);
    assert.ok(paused.kind === "decided");
    assert.deepEqual(
      [paused.action, paused.state.mcpPercent, paused.state.ramp, paused.automatic],
      ["paused", 25, { stepSinceMs: nowMs, paused: true }, true],
    );
    // While it lasts, also when the step has: no word more, and no share more.
    const step = { mcp: counts(500), legacy: none };
    assert.equal(decide({ ...off, evaluations, state: ramping(25, policy.rampStepMs, true), step }), "none automatic_off");
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
  assert.equal(decide({ evaluations: always(counts(50), counts(50, 30)), command: order("rollback") }), "rejected legacy_no_better");
  assert.equal(decide({ evaluations: always(counts(50), counts(50)), command: order("rollback") }), "decided operator", "both are well");
  assert.equal(decide({ command: order("recover", { percent: 100 }) }), "rejected not_rolled_back");
  assert.equal(decide({ state: ramping(5, 1), command: order("recover") }), "rejected already_recovering");
  const whole = decideRollback(world({ state: backDown, command: order("recover", { percent: 100 }) }));
  assert.deepEqual(whole.kind === "decided" && [whole.action, whole.implementation, whole.state.lastGoodEpoch], ["recovered", "mcp", 2]);
});

const countsArb = fc
  .tuple(fc.integer({ min: 0, max: 200 }), fc.double({ min: 0, max: 1, noNaN: true }), fc.double({ min: 0, max: 1, noNaN: true }))
  .map(([calls, errors, slow]) => counts(calls, Math.round(calls * errors ** 2), Math.round(calls * slow ** 4)));
const mostly = fc.oneof({ weight: 5, arbitrary: fc.constant(true) }, { weight: 1, arbitrary: fc.constant(false) });
const pairArb = fc.record({ mcp: countsArb, legacy: countsArb });
const inputArb: fc.Arbitrary<RollbackInput> = fc.record({
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
  evaluations: fc.oneof(
    fc.array(pairArb, { minLength: 3, maxLength: 3 }),
    pairArb.map((pair) => [pair, pair, pair]),
  ),
  step: pairArb,
  command: fc.oneof(
    { weight: 3, arbitrary: fc.constant(null) },
    { weight: 1, arbitrary: fc.boolean().map((force) => order("rollback", { force })) },
    { weight: 1, arbitrary: fc.constantFrom(null, 1, 50, 100).map((percent) => order("recover", { percent })) },
  ),
  clock: fc.record({ tilted: mostly.map((even) => !even) }),
  nowMs: fc.constant(nowMs),
});

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
        for (const { mcp } of input.evaluations) {
          assert.ok(mcp.calls >= policy.minimumCalls, "R2");
          assert.ok(mcp.errors / mcp.calls > policy.errorRate || mcp.slow / mcp.calls > 0.05, "R2");
        }
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

// ---- the join of both streams

const legacy = { url: "http://127.0.0.1:1/legacy" };
const config = topology.parse({
  upstreams: {
    shop: { kind: "mcp", endpoints: [{ name: "a", tier: 0, url: "http://127.0.0.1:1/" }], tools: { buy: { legacy }, look: {} } },
    bank: { kind: "mcp", endpoints: [{ name: "a", tier: 0, url: "http://127.0.0.1:2/" }], tools: { buy: {} } },
  },
  agents: { all: {}, looker: { tools: ["look"] }, buyer: { tools: ["shop/buy"] } },
});
const audit = foldRollbackAudit(noRollbackAudit, {
  type: "config.applied",
  data: { environment: "development", topology: config },
} as unknown as Event);

function window(
  timeMs: number,
  rows: { upstream?: string; agent?: string; implementation?: "mcp" | "legacy"; calls: number; errors: number; ms?: number }[],
) {
  const tools = rows.map(({ upstream = "shop", agent = null, implementation = "mcp", calls, errors, ms = 1 }) => ({
    upstream,
    tool: "buy",
    agent,
    implementation,
    calls,
    errors,
    latency: [...latencyBucketsMs, Number.POSITIVE_INFINITY].map((bound, index) =>
      ms <= bound && ms > (latencyBucketsMs[index - 1] ?? 0) ? calls : 0,
    ),
  }));
  const data = { router: "r1", fromMs: timeMs, toMs: timeMs, endpoints: [], tools, routes: {}, rollbacks: {} };
  const from = { type: "traffic.observed", keys: ["r1"], data, id: "e", service: "router", instance: "t", timeMs };
  return { seq: 1, timeMs, event: makeEvent(from as unknown as NewEvent<"traffic.observed">) as Event<"traffic.observed"> };
}
const moment = { command: null, clock: { tilted: false }, evidenceFromMs: 0, nowMs };
const join = (traffic: ToolTraffic, scope: "tool" | "agent" | "system", name: string, more: object = {}): RollbackInput =>
  rollbackInput(audit, traffic, { scope, name }, { ...moment, ...more });

test("calls are counted for the tool of the upstream that has the legacy implementation, for the agent and for the system", () => {
  const traffic = foldToolTraffic(
    noToolTraffic,
    window(nowMs - 500, [
      { agent: "buyer", calls: 10, errors: 2, ms: 6000 },
      { calls: 5, errors: 1, ms: 5000 },
      { upstream: "bank", calls: 100, errors: 100 },
      { implementation: "legacy", calls: 7, errors: 0 },
    ]),
  );
  assert.deepEqual(join(traffic, "tool", "buy").evaluations[0], { mcp: counts(15, 3, 10), legacy: counts(7) });
  assert.deepEqual(join(traffic, "agent", "buyer").evaluations[0]?.mcp, counts(10, 2, 10));
  assert.deepEqual(join(traffic, "system", "system").evaluations[0]?.mcp, counts(115, 103, 10));
  assert.deepEqual(
    ["all", "looker", "buyer"].map((name) => join(traffic, "agent", name).hasLegacy),
    [true, false, true],
  );
  assert.deepEqual(
    rollbackScopes(config).map(({ scope, name }) => `${scope}/${name}`),
    ["tool/buy", "agent/all", "agent/looker", "agent/buyer", "system/system"],
  );
});

test("an evaluation's window ends a second before the one after it, and begins with the last decision or the end of a gap", () => {
  let traffic = noToolTraffic;
  for (const agoMs of [40_000, 29_000, 10_000, 1000, 0])
    traffic = foldToolTraffic(traffic, window(nowMs - agoMs, [{ calls: 1, errors: 0 }]));
  const seen = (more: object = {}, of = audit): number[] =>
    rollbackInput(of, traffic, { scope: "tool", name: "buy" }, { ...moment, ...more }).evaluations.map(({ mcp }) => mcp.calls);
  assert.deepEqual(seen(), [4, 3, 2]);
  assert.deepEqual(seen({ evidenceFromMs: nowMs - 10_000 }), [3, 2, 1]);
  const state = { ...initialRollbackState, epoch: 2, sinceMs: nowMs - 5000 };
  const decided = { type: "rollback.decided", data: { scope: "tool", name: "buy", state } } as unknown as Event;
  assert.deepEqual(seen({}, foldRollbackAudit(audit, decided)), [2, 1, 0]);
});

test("traffic is forgotten after its time, and the input stays small whatever was seen", () => {
  let traffic = noToolTraffic;
  for (let second = 0; second < 2000; second += 1)
    traffic = foldToolTraffic(traffic, window(nowMs + second * 1000, [{ calls: 1, errors: 1 }]));
  const buckets = traffic.scopes.get("system/system")?.mcp;
  assert.ok((buckets?.seconds.length ?? 0) <= 61 && (buckets?.tens.length ?? 0) <= 61);
  assert.ok(JSON.stringify(join(traffic, "tool", "buy", { nowMs: nowMs + 2_000_000 })).length < 3000);
});

test("an unknown tool or agent is named with those that there are", () => {
  assert.throws(() => join(noToolTraffic, "tool", "sell"), { code: "unknown_tool", message: /known: buy, look/ });
  assert.throws(() => join(noToolTraffic, "agent", "nobody"), { code: "unknown_agent", message: /known: all, looker, buyer/ });
  assert.throws(() => join(noToolTraffic, "system", "x"), { code: "unknown_system" });
  assert.equal(decideRollback(join(noToolTraffic, "tool", "look", { command: order("rollback") })).rule, "no_legacy");
});

test("R2, R3: a scope that is quiet has nothing that a decision could be taken on, however its calls went before", () => {
  let quiet = 0;
  const row = fc.record({
    agoMs: fc.integer({ min: 0, max: 80_000 }),
    calls: fc.integer({ min: 1, max: 60 }),
    bad: fc.boolean(),
    slow: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(row, { maxLength: 12 }), fc.constantFrom(0, 50, 100), (rows, mcpPercent) => {
      const traffic = rows
        .toSorted((a, b) => b.agoMs - a.agoMs)
        .reduce((sum, { agoMs, calls, bad, slow }) => {
          const rowOf = { agent: "buyer", calls, errors: bad ? calls : 0, ms: slow ? 8000 : 200 };
          return foldToolTraffic(sum, window(nowMs - agoMs, [rowOf]));
        }, noToolTraffic);
      const state = { ...initialRollbackState, mcpPercent };
      for (const of of rollbackScopes(config)) {
        const decided = { type: "rollback.decided", data: { ...of, state } } as unknown as Event;
        const then = mcpPercent === 100 ? audit : foldRollbackAudit(audit, decided);
        if (!isQuietScope(then, traffic, of, nowMs)) continue;
        quiet += 1;
        assert.equal(decideRollback(rollbackInput(then, traffic, of, moment)).kind, "none");
      }
    }),
  );
  assert.ok(quiet > 50, `only ${quiet} were quiet`);
});
