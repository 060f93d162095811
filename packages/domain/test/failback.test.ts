import assert from "node:assert/strict";
import { test } from "node:test";
import { decideFailover, type FailoverInput } from "@mcp-failover/domain";
import { allSay, ann, dead, nowMs, policy, ruleOf, stateWith, world } from "./failover-world.ts";

const waitMs = policy.failbackAfterMs;
const health = (sinceMs: number, more: object = {}) => ({
  primary: { status: "healthy" as const, sinceMs, heldDownUntilMs: null, ...more },
});
/** On the secondary for long; the primary has been well for as long as is asked. */
const away = (more: Partial<FailoverInput> = {}, state: object = {}): FailoverInput =>
  world({
    state: stateWith({ active: "secondary", tier: 1, epoch: 1, ...state }),
    evidence: { primary: allSay(), secondary: allSay() },
    health: health(nowMs - waitMs),
    policy: { ...policy, failback: "automatic" },
    gatherSinceMs: nowMs - 200,
    ...more,
  });
const decide = (more: Partial<FailoverInput> = {}, state: object = {}): string => ruleOf(decideFailover(away(more, state)));

test("F12: a failback goes by itself after steady health, proven, and is verified like every move", () => {
  const decision = decideFailover(away());
  assert.equal(ruleOf(decision), "decided failback");
  assert.ok(decision.kind === "decided");
  assert.deepEqual([decision.currentEndpoint, decision.state.trial?.kind, decision.state.trial?.tried], ["primary", "failback", []]);
  assert.equal(decide({ evidence: { primary: { observers: ["prober:p1"], votes: [] }, secondary: allSay() } }), "gather evidence_missing");
  const scheduled = { primary: allSay({ purpose: "scheduled", proofAgeMs: null }), secondary: allSay() };
  assert.equal(
    decide({ evidence: scheduled, gatherSinceMs: null }),
    "gather evidence_missing",
    "what a schedule found is no proof: it is asked for",
  );
});

test("F12: the wait runs from the recovery, and never from before the last move", () => {
  assert.equal(decide({ health: health(nowMs - waitMs + 1) }), "none active_healthy");
  const moves = (agoMs: number) => ({ moves: [{ atMs: nowMs - agoMs, epoch: 1, from: "primary", to: "secondary", automatic: true }] });
  assert.equal(decide({ health: health(0) }, moves(waitMs - 1)), "none active_healthy", "its health never saw why it was left");
  assert.equal(decide({ health: health(0) }, moves(waitMs)), "decided failback");
});

test("F12: never into a flap: more changes than one outage makes, a breaker that is not closed, or a hold-down keep it away", () => {
  assert.equal(decide({ health: health(0, { flaps: policy.flapChangesMax }) }), "decided failback", "down and up is one outage");
  assert.equal(decide({ health: health(0, { flaps: policy.flapChangesMax + 1 }) }), "none active_healthy");
  assert.equal(decide({ health: health(0, { heldDownUntilMs: nowMs + 1 }) }), "none active_healthy");
  for (const breaker of ["open", "half_open", "forced_open"] as const)
    assert.equal(decide({ breakers: { primary: breaker } }), "none active_healthy", breaker);
  assert.equal(decide({ breakers: { primary: "closed" } }), "decided failback");
});

test("F12: nothing else may be under way: a verification, a rehearsal, a hold, a cool-down, a grace or a jump of the clock", () => {
  const trial = {
    epoch: 1,
    kind: "failover",
    atMs: nowMs - 1,
    untilMs: nowMs + 1,
    round: 0,
    tried: ["primary"],
    before: { ok: 0, hard: 0 },
    failed: false,
  };
  assert.equal(decide({}, { trial }), "none active_healthy");
  assert.equal(decide({ rehearsal: "exp-1" }), "none active_healthy");
  assert.equal(decide({}, { held: { by: ann, reason: "h", sinceMs: 1, untilMs: null } }), "none active_healthy");
  assert.equal(decide({ graceUntilMs: nowMs + 1 }), "none active_healthy");
  assert.equal(decide({ clock: { tilted: true, freshAfterSeq: 0 } }), "none active_healthy");
  assert.equal(decide({ maintained: { primary: { name: "w", untilMs: nowMs + 1 } } }), "none active_healthy");
  assert.equal(decide({ fleet: null }), "reserve failback");
  assert.equal(
    decide({ fleet: { granted: false, rule: "fleet_limit", reason: "full", expiresAtMs: 0 } }),
    "none active_healthy",
    "it can wait",
  );
});

test("F12: of several better tiers the best proven one is gone back to, in whatever order they are configured, and the reason names it", () => {
  const endpoints = [
    { name: "secondary", tier: 1, role: "write" },
    { name: "primary", tier: 0, role: "write" },
    { name: "third", tier: 2, role: "write" },
  ] as const;
  const well = { status: "healthy" as const, sinceMs: nowMs - waitMs, heldDownUntilMs: null };
  const back = (evidence: FailoverInput["evidence"]) => {
    const decision = decideFailover(
      away(
        { endpoints: [...endpoints], evidence, health: { primary: well, secondary: { ...well, sinceMs: 0 } } },
        { active: "third", tier: 2 },
      ),
    );
    assert.ok(decision.kind === "decided", ruleOf(decision));
    return [decision.currentEndpoint, decision.reason.split(" ")[0]];
  };
  assert.deepEqual(back({ primary: allSay(), secondary: allSay(), third: allSay() }), ["primary", "primary"]);
  assert.deepEqual(back({ primary: allSay({ outcome: "auth" }), secondary: allSay(), third: allSay() }), ["secondary", "secondary"]);
});

test("F12: in a pool more than half of the better tier has to be well", () => {
  const tierOf = (well: number): string => {
    const names = ["a", "b", "c", "d"];
    const sick = { status: "unhealthy" as const, sinceMs: 0, heldDownUntilMs: null };
    return decide({
      mode: "pool",
      endpoints: [...names.map((name) => ({ name, tier: 0, role: "write" as const })), { name: "secondary", tier: 1, role: "write" }],
      evidence: Object.fromEntries([...names, "secondary"].map((name) => [name, allSay()])),
      health: Object.fromEntries(names.map((name, index) => [name, index < well ? { ...sick, status: "healthy" as const } : sick])),
    });
  };
  assert.deepEqual([2, 3].map(tierOf), ["none active_healthy", "decided failback"]);
});

test("F12: one more move stays possible within the hour, should the failback have to be undone", () => {
  const moves = (count: number) => ({
    moves: Array.from({ length: count }, (_, index) => ({
      atMs: nowMs - waitMs - 1000,
      epoch: index,
      from: "a",
      to: "b",
      automatic: true,
    })),
  });
  assert.equal(decide({}, moves(1)), "decided failback");
  assert.equal(decide({}, moves(2)), "none active_healthy");
});

test("F12: a failback that fails is undone at once, and each one in a row doubles the wait for the next", () => {
  const back = decideFailover(away());
  assert.ok(back.kind === "decided");
  const later = nowMs + 10_000;
  const fresh = (at: number) => ({
    observers: ["prober:p1", "prober:p2", "prober:p3"],
    votes: allSay().votes.map((vote) => ({
      ...vote,
      atMs: at,
      proof: { atMs: at, seq: 1_000_001 },
      ref: { stream: "SIGNALS", seq: 1_000_001 },
    })),
  });
  const traffic = { after: [{ router: "r1", ok: 0, hard: 9, run: 9 }], before: { ok: 0, hard: 9 } };
  const fleet = { granted: true, reason: "", expiresAtMs: later + 5000 };
  const evidence = { primary: fresh(later - 100), secondary: fresh(later - 100) };
  const signals = { seq: 1_000_001, atMs: later };
  const undone = decideFailover(away({ state: back.state, nowMs: later, traffic, fleet, evidence, signals, gatherSinceMs: later - 200 }));
  assert.equal(ruleOf(undone), "decided verify_failed");
  assert.ok(undone.kind === "decided");
  assert.deepEqual([undone.currentEndpoint, undone.state.failbackFailures, undone.state.failbackFailedAtMs], ["secondary", 1, later]);
  const failed = { failbackFailures: 1, failbackFailedAtMs: nowMs - waitMs * 2 };
  assert.equal(decide({ health: health(nowMs - waitMs * 2) }, failed), "decided failback");
  assert.equal(decide({ health: health(nowMs - waitMs * 2 + 1) }, failed), "none active_healthy");
  assert.equal(decide({ health: health(0) }, { ...failed, failbackFailedAtMs: nowMs - waitMs * 2 + 1 }), "none active_healthy");
  const many = { failbackFailures: 1000, failbackFailedAtMs: 0 };
  assert.equal(decide({ health: health(nowMs - waitMs * policy.failbackBackoffMax) }, many), "decided failback", "the wait has a limit");
});

test("F12: the endpoint that was failed back to and dies soon counts as a failback that failed; after a long good time all is forgotten", () => {
  const trial = {
    epoch: 2,
    kind: "failback",
    atMs: nowMs - waitMs + 1,
    untilMs: nowMs - 1000,
    round: 0,
    tried: [],
    before: { ok: 0, hard: 0 },
    failed: false,
  };
  const state = (more: object) =>
    stateWith({ active: "primary", epoch: 2, sinceMs: nowMs - waitMs + 1, trial, failbackFailures: 1, ...more });
  const of = (more: object) => {
    const decision = decideFailover(world({ state: state(more) }));
    return decision.kind === "decided" ? decision.state.failbackFailures : ruleOf(decision);
  };
  assert.equal(of({}), 2);
  assert.equal(
    of({ trial: { ...trial, atMs: nowMs - waitMs }, sinceMs: nowMs - waitMs }),
    1,
    "not soon enough to count, not long enough to forget",
  );
  assert.equal(of({ trial: null, sinceMs: nowMs - 2 * waitMs }), 0);
});

test("F12: a pool goes back only when most of the preferred tier is steady", () => {
  const endpoints: FailoverInput["endpoints"] = [
    ...["a", "b", "c"].map((name) => ({ name, tier: 0, role: "write" as const })),
    { name: "spare", tier: 1, role: "write" as const },
  ];
  const well = { status: "healthy" as const, sinceMs: 0, heldDownUntilMs: null };
  const pool = (healthy: string[]): string =>
    decide(
      {
        mode: "pool",
        endpoints,
        evidence: Object.fromEntries(endpoints.map(({ name }) => [name, allSay()])),
        health: Object.fromEntries(healthy.map((name) => [name, well])),
      },
      { active: "spare" },
    );
  assert.equal(pool(["a"]), "none active_healthy");
  assert.equal(pool(["a", "b"]), "decided failback");
});

test("an operator's failback goes to the best proven endpoint of a better tier, is verified, and refused where there is none", () => {
  const command = (more: object = {}) => ({
    kind: "failback" as const,
    commandId: "c",
    by: ann,
    reason: "mended",
    force: false,
    afterSeq: 0,
    gatherOver: true,
    ...more,
  });
  const decision = decideFailover(away({ command: command(), policy, health: {} }));
  assert.equal(ruleOf(decision), "decided operator_failback");
  assert.ok(decision.kind === "decided");
  assert.deepEqual([decision.currentEndpoint, decision.state.trial?.kind, decision.automatic], ["primary", "failback", false]);
  assert.equal(decide({ command: command() }, { active: "primary", tier: 0 }), "rejected not_failed_over");
  assert.equal(decide({ command: command(), evidence: { primary: dead(), secondary: allSay() } }), "rejected candidate_unhealthy");
  assert.equal(decide({ command: command({ gatherOver: false, afterSeq: 1_000_000 }) }), "gather evidence_missing");
  const heldDown = { health: health(0, { heldDownUntilMs: nowMs + 1 }) };
  assert.equal(decide({ ...heldDown, command: command() }), "rejected candidate_held_down");
  const forced = decideFailover(away({ ...heldDown, command: command({ force: true }) }));
  assert.deepEqual(forced.kind === "decided" && forced.overrode, ["hold_down"]);
});
