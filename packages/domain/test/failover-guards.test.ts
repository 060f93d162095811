import assert from "node:assert/strict";
import { test } from "node:test";
import { decideFailover, type FailoverInput } from "@mcp-failover/domain";
import { allSay, ann, dead, decide, nowMs, order, policy, ruleOf, stateWith, three, world } from "./failover-world.ts";

const window = { name: "upgrade", untilMs: nowMs + 60_000 };

test("F13: with every endpoint down nothing is moved, and it is said that the routers try all of them", () => {
  const all = { evidence: { primary: dead(), secondary: dead() }, gatherSinceMs: nowMs - policy.proofWaitMs };
  const decision = decideFailover(world(all));
  assert.equal(ruleOf(decision), "failing no_candidate");
  assert.match(decision.reason, /every endpoint is down, so the routers try all of them \(panic\)/);
  const unknown = decideFailover(world({ ...all, evidence: { primary: dead(), secondary: { observers: ["prober:p1"], votes: [] } } }));
  assert.doesNotMatch(unknown.reason, /panic/, "unknown is not down");
});

test("F14: a move that a safety rule forbids is refused with the rule's name, an automatic one and an operator's; force overrides it", () => {
  const fleet = { granted: false, rule: "safety_rule", to: "secondary", reason: 'the safety rule "not-both" forbids it', expiresAtMs: 0 };
  const automatic = decideFailover(world({ fleet, ruled: true }));
  assert.equal(ruleOf(automatic), "rejected safety_rule");
  assert.match(automatic.reason, /the safety rule "not-both" forbids it/);
  const ordered = world({ ruled: true, command: order(), fleet: null });
  assert.equal(ruleOf(decideFailover(ordered)), "reserve operator", "an operator's move asks the rules too");
  assert.equal(ruleOf(decideFailover({ ...ordered, fleet })), "rejected safety_rule");
  const granted = { granted: true, to: "secondary", reason: "", expiresAtMs: nowMs + 1, overrode: ["safety_rule:not-both"] };
  const forced = decideFailover({ ...ordered, command: order({ force: true }), fleet: granted });
  assert.deepEqual(forced.kind === "decided" && forced.overrode, ["safety_rule:not-both"]);
  assert.equal(decide({ command: order(), fleet: null }), "decided operator", "where no rule names it, nobody is asked");
});

test("F14: a place that was given for another endpoint is none", () => {
  const fleet = { granted: true, to: "third", reason: "", expiresAtMs: nowMs + 5000 };
  const decision = decideFailover(world({ fleet }));
  assert.deepEqual(decision.kind === "reserve" && [decision.to, decision.toBackup, decision.epoch], ["secondary", true, 1]);
});

test("F15: an endpoint in maintenance is no reason to move, and nothing is moved to it but by force, on record", () => {
  assert.equal(decide({ maintained: { primary: window } }), "none maintenance");
  const target = { maintained: { secondary: window }, gatherSinceMs: nowMs - policy.proofWaitMs };
  assert.equal(decide(target), "failing no_candidate");
  assert.equal(decide({ ...target, command: order() }), "rejected candidate_maintenance");
  const forced = decideFailover(world({ ...target, command: order({ force: true }) }));
  assert.deepEqual(forced.kind === "decided" && forced.overrode, ["maintenance"]);
});

test("F15: in a pool the members in maintenance are left out of what its tier is judged by", () => {
  const endpoints: FailoverInput["endpoints"] = ["a", "b"].map((name) => ({ name, tier: 0, role: "write" }));
  const pool = (maintained: FailoverInput["maintained"] & object) =>
    decide({
      mode: "pool",
      endpoints: [...endpoints, { name: "spare", tier: 1, role: "write" }],
      state: stateWith({ active: "a" }),
      evidence: { a: dead(), b: dead(), spare: allSay() },
      maintained,
    });
  assert.equal(pool({ a: window }), "decided majority_unhealthy", "b fails, and is not in maintenance");
  assert.equal(pool({ a: window, b: window }), "none maintenance");
});

test("F16: nothing automatic before the grace is over but a probe; what is not configured any more is replaced all the same", () => {
  assert.equal(decide({ graceUntilMs: nowMs + 1 }), "gather grace");
  assert.equal(decide({ graceUntilMs: nowMs }), "decided majority_unhealthy");
  assert.equal(decide({ graceUntilMs: nowMs + 1, command: order() }), "decided operator");
  assert.equal(decide({ graceUntilMs: nowMs + 1, state: stateWith({ active: "gone" }) }), "decided active_vanished");
});

test("F17: a dry run says what would be done, with what was not chosen, and neither moves, holds nor takes a place", () => {
  const dry = { ...policy, dryRun: true };
  const moving = decideFailover(world({ policy: dry, fleet: null }));
  assert.equal(ruleOf(moving), "rejected dry_run");
  assert.match(moving.reason, /would move to secondary \(majority_unhealthy\): primary: 3 of 3 observers say it fails/);
  assert.ok(moving.kind === "rejected" && moving.rejected[0]?.option === "secondary");
  const moves = [1, 2, 3].map((epoch) => ({ atMs: nowMs - 600_000, epoch, from: "a", to: "b", automatic: true }));
  const holding = decideFailover(world({ policy: dry, state: stateWith({ moves }) }));
  assert.equal(ruleOf(holding), "rejected dry_run");
  assert.match(holding.reason, /would hold \(moves_per_hour\)/);
  const back = world({
    policy: { ...dry, failback: "automatic" },
    state: stateWith({ active: "secondary", tier: 1 }),
    evidence: { primary: allSay(), secondary: allSay() },
    health: { primary: { status: "healthy", sinceMs: 0, heldDownUntilMs: null } },
    fleet: null,
    gatherSinceMs: nowMs - 200,
  });
  assert.match(decideFailover(back).reason, /would move to primary \(failback\)/);
  assert.equal(decide({ policy: dry, command: order() }), "decided operator", "an operator's word is no dry run");
});

test("F8: each thing that force overrode is on record", () => {
  const held = { by: ann, reason: "h", sinceMs: 1, untilMs: null };
  const input = world({
    state: stateWith({ held, moves: [{ atMs: nowMs - 1, epoch: 1, from: "a", to: "b", automatic: true }] }),
    maintained: { secondary: window },
    health: { secondary: { status: "unhealthy", sinceMs: 0, heldDownUntilMs: nowMs + 1 } },
    fleet: { granted: true, to: "secondary", reason: "", expiresAtMs: nowMs + 1, overrode: ["safety_rule:x"] },
    ruled: true,
    command: order({ force: true }),
  });
  const decision = decideFailover(input);
  assert.deepEqual(decision.kind === "decided" && decision.overrode, ["hold", "cooldown", "hold_down", "maintenance", "safety_rule:x"]);
});

test("F8: of several things that speak against one endpoint all are on record", () => {
  const overrode = (more: Partial<FailoverInput>): unknown => {
    const decision = decideFailover(
      world({ evidence: { primary: allSay(), secondary: allSay() }, command: order({ force: true }), ...more }),
    );
    return decision.kind === "decided" && decision.overrode;
  };
  const maintained = { secondary: { name: "upgrade", untilMs: nowMs + 1000 } };
  const health = { secondary: { status: "unhealthy" as const, sinceMs: 0, heldDownUntilMs: null } };
  assert.deepEqual(overrode({ maintained, health, breakers: { secondary: "forced_open" } }), ["maintenance", "unhealthy", "breaker"]);
  const failing = { calls: { secondary: ["r1", "r2"].map((router) => ({ router, ok: 0, hard: 9, run: 9 })) } };
  const called = {
    observers: [...three, "router:r1", "router:r2"],
    votes: [...allSay().votes, ...dead({}, ["router:r1", "router:r2"]).votes],
  };
  assert.deepEqual(overrode({ ...failing, evidence: { secondary: called }, breakers: { secondary: "open" } }), ["calls", "breaker"]);
  assert.deepEqual(overrode({ evidence: { secondary: dead() }, health }), ["unhealthy"]);
  assert.deepEqual(overrode({ command: order({ force: true, afterSeq: 1_000_000 }), maintained }), ["maintenance"]);
  assert.deepEqual(overrode({ command: order({ force: true, afterSeq: 1_000_000 }) }), ["proof"], "nothing else speaks against it");
});
