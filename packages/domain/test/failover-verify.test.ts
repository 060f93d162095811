import assert from "node:assert/strict";
import { test } from "node:test";
import type { Trial } from "@mcp-failover/contracts";
import { decideFailover, type FailoverInput } from "@mcp-failover/domain";
import { allSay, ann, dead, nowMs, order, policy, ruleOf, stateWith, vote, world } from "./failover-world.ts";

const endpoints: FailoverInput["endpoints"] = ["primary", "secondary", "third", "fourth"].map((name, tier) => ({
  name,
  tier,
  role: "write",
}));
const trialOf = (more: Partial<Trial> = {}): Trial => ({
  epoch: 1,
  kind: "failover",
  atMs: nowMs - 5000,
  untilMs: nowMs + 25_000,
  round: 0,
  tried: ["primary"],
  before: { ok: 0, hard: 50 },
  failed: false,
  ...more,
});
const calls = (ok: number, hard: number, run = hard, router = "r1") => ({ router, ok, hard, run });
/** On the secondary since 5 s, after a failover from the primary; every endpoint answers its probes. */
const after = (more: Partial<FailoverInput> = {}, trial: Partial<Trial> = {}): FailoverInput =>
  world({
    endpoints,
    evidence: Object.fromEntries(endpoints.map(({ name }) => [name, allSay({ ageMs: 100 })])),
    gatherSinceMs: nowMs - 200,
    state: stateWith({
      active: "secondary",
      tier: 1,
      epoch: 1,
      sinceMs: nowMs - 5000,
      moves: [{ atMs: nowMs - 5000, epoch: 1, from: "primary", to: "secondary", automatic: true }],
      trial: trialOf(trial),
    }),
    ...more,
  });
const seen = (...after: ReturnType<typeof calls>[]) => ({ traffic: { after, before: { ok: 0, hard: 0 } } });
const decide = (more: Partial<FailoverInput> = {}, trial: Partial<Trial> = {}): string => {
  const decision = decideFailover(after(more, trial));
  return decision.kind === "decided" && decision.action === "moved" ? `${decision.rule} -> ${decision.currentEndpoint}` : ruleOf(decision);
};

test("F11: an automatic move begins a verification that knows how calls ended before; an operator's choice is theirs to judge", () => {
  const traffic = { after: [], before: { ok: 3, hard: 40 } };
  const moved = decideFailover(world({ endpoints, traffic }));
  assert.ok(moved.kind === "decided");
  assert.deepEqual(moved.state.trial, {
    epoch: 1,
    kind: "failover",
    atMs: nowMs,
    untilMs: nowMs + policy.verifyMs,
    round: 0,
    tried: ["primary"],
    before: { ok: 3, hard: 40 },
    failed: false,
  });
  const ordered = decideFailover(world({ command: order() }));
  assert.ok(ordered.kind === "decided" && ordered.state.trial === undefined);
  const off = decideFailover(world({ policy: { ...policy, verifyMs: 0 } }));
  assert.ok(off.kind === "decided" && off.state.trial === undefined, "verify_ms: 0 switches it off");
});

test("F11: where real traffic fails at the new endpoint the next one that was not tried follows, without a cool-down", () => {
  assert.equal(decide(seen(calls(0, 5))), "verify_failed -> third");
  const next = decideFailover(after(seen(calls(0, 5))));
  assert.ok(next.kind === "decided");
  assert.deepEqual([next.state.trial?.round, next.state.trial?.tried, next.automatic], [1, ["primary", "secondary"], true]);
  assert.match(
    next.reason,
    /5 of 5 calls failed since it became active at epoch 1, the last 5 in a row; 50 of 50 did at the endpoint before it/,
  );
});

test("F11: few failures, failures of a minority of the routers, or of a suspect one, condemn nothing", () => {
  assert.equal(decide(seen(calls(0, 4))), "none active_healthy");
  assert.equal(decide(seen(calls(18, 1, 0))), "none active_healthy");
  assert.equal(
    decide(seen(calls(88, 12, 0)), { before: { ok: 0, hard: 0 } }),
    "none active_healthy",
    "the bound, not the ratio, has to be over the threshold",
  );
  assert.equal(decide(seen(calls(75, 25, 0)), { before: { ok: 0, hard: 0 } }), "verify_failed -> third");
  const nothingBefore = { before: { ok: 0, hard: 0 } };
  assert.equal(decide(seen(calls(0, 50), calls(50, 0, 0, "r2")), nothingBefore), "none active_healthy", "one of two routers");
  assert.equal(decide(seen(calls(0, 50), calls(1, 30, 30, "r2"))), "verify_failed -> third");
  assert.equal(decide({ ...seen(calls(0, 50)), suspects: ["router:r1"] }), "none active_healthy");
  assert.equal(
    decide({ ...seen(calls(0, 50)), state: stateWith({ active: "secondary", tier: 1, sinceMs: 0 }) }),
    "none active_healthy",
    "no trial",
  );
});

test("F11: where every call fails no ratio is too high for it: one that is set to 1 does not switch the verification off", () => {
  const strict = { policy: { ...policy, verifyRatio: 1 } };
  assert.equal(decide({ ...seen(calls(0, 5), calls(0, 5, 5, "r2")), ...strict }), "verify_failed -> third");
  assert.equal(decide({ ...seen(calls(1, 50, 50)), ...strict }), "none active_healthy");
});

test("F11: an endpoint that fails less than the one before it is kept", () => {
  const half = seen(calls(50, 50, 0));
  assert.equal(decide(half, { before: { ok: 0, hard: 60 } }), "none active_healthy");
  assert.equal(decide(half, { before: { ok: 50, hard: 50 } }), "verify_failed -> third", "no better");
  assert.equal(decide(half, { before: { ok: 2, hard: 6 } }), "verify_failed -> third", "too few calls to compare with");
});

test("F11: after so many moves that made nothing better the upstream is held, and that is a dead end until it is released", () => {
  const bad = seen(calls(0, 20));
  assert.equal(decide(bad, { round: policy.verifyMovesMax - 1 }), "verify_failed -> third");
  const held = decideFailover(after(bad, { round: policy.verifyMovesMax }));
  assert.equal(ruleOf(held), "decided verify_failed");
  assert.ok(held.kind === "decided" && held.action === "held" && held.state.trial?.failed === true);
  const later = after({ state: held.state, gatherSinceMs: null });
  assert.equal(ruleOf(decideFailover(later)), "failing verify_failed", "it pages");
  const release = { kind: "release", commandId: "c", by: ann, reason: "looked at" } as const;
  const released = decideFailover({ ...later, command: release });
  assert.ok(released.kind === "decided" && released.state.trial === null);
  assert.equal(ruleOf(decideFailover(after({ state: released.state }))), "none active_healthy");
});

test("F6: what is held because no move helped is replaced all the same once it is not configured any more", () => {
  const held = decideFailover(after(seen(calls(0, 20)), { round: policy.verifyMovesMax }));
  assert.ok(held.kind === "decided" && held.currentEndpoint === "secondary");
  const input = after({ state: held.state });
  const without = { ...input, endpoints: input.endpoints.filter(({ name }) => name !== "secondary") };
  const replaced = decideFailover(without);
  assert.ok(replaced.kind === "decided" && replaced.state.held !== null);
  assert.deepEqual([replaced.rule, replaced.currentEndpoint, replaced.overrode], ["active_vanished", "primary", ["hold", "cooldown"]]);
});

test("F11: the next one has to be proven by a probe that was made since, and is waited for; with nowhere to go it is said", () => {
  const bad = seen(calls(0, 20));
  assert.equal(decide({ ...bad, gatherSinceMs: null }), "gather evidence_missing");
  const old = Object.fromEntries(endpoints.map(({ name }) => [name, allSay({ ageMs: 300 })]));
  assert.equal(decide({ ...bad, evidence: old }), "gather evidence_missing", "proven before the question");
  const two = { ...bad, endpoints: endpoints.slice(0, 2), gatherSinceMs: nowMs - policy.proofWaitMs };
  assert.equal(decide(two), "failing verify_failed", "the primary was tried already");
});

test("F11: an endpoint that dies while it is verified is left for an untried one at once; a tried one waits for the cool-down", () => {
  const died = { primary: allSay({ ageMs: 100 }), secondary: dead(), third: allSay(), fourth: allSay() };
  assert.equal(decide({ evidence: died }), "majority_unhealthy -> third");
  const noOther = { evidence: { ...died, third: dead(), fourth: dead() }, gatherSinceMs: nowMs - policy.proofWaitMs };
  assert.equal(decide(noOther), "rejected cooldown");
  assert.equal(decide({ evidence: died }, { round: policy.verifyMovesMax }), "rejected cooldown", "a bounded number of times");
  assert.equal(decide({ evidence: died }, { untilMs: nowMs }), "rejected cooldown", "the verification is over");
});

test("F7, F11: moves of a verification count for the hour's limit", () => {
  const moves = [1, 2, 3].map((epoch) => ({ atMs: nowMs - 5000, epoch, from: "a", to: "b", automatic: true }));
  const { state } = after();
  assert.equal(decide({ ...seen(calls(0, 20)), state: { ...state, moves } }), "decided moves_per_hour");
});

test("F7: an operator's release begins a new count of the hour's moves", () => {
  const held = { by: { kind: "service", id: "failover-controller" } as const, reason: "3 moves", sinceMs: nowMs - 1000, untilMs: null };
  const moves = [1, 2, 3].map((epoch) => ({ atMs: nowMs - 600_000 - epoch, epoch, from: "secondary", to: "primary", automatic: true }));
  const command = { kind: "release", commandId: "c", by: ann, reason: "mended" } as const;
  const released = decideFailover(world({ state: stateWith({ epoch: 4, held, moves }), command }));
  assert.ok(released.kind === "decided");
  assert.equal(ruleOf(decideFailover(world({ state: stateWith({ epoch: 4, moves }) }))), "decided moves_per_hour");
  const again = decideFailover(world({ state: released.state, nowMs: nowMs + 1 }));
  assert.equal(ruleOf(again), "decided majority_unhealthy");
  assert.ok(again.kind === "decided" && again.action === "moved");
});

test("F2: a lying prober does not end a verification, nor does a lone good call of a router hide that all others fail", () => {
  const lied = {
    ...after().evidence,
    secondary: {
      observers: ["prober:p1", "prober:p2", "prober:p3"],
      votes: [vote("prober:p1", { outcome: "hard" }), vote("prober:p2"), vote("prober:p3")],
    },
  };
  assert.equal(decide({ evidence: lied }), "none no_majority");
  assert.equal(decide(seen(calls(1, 40, 20), calls(0, 9, 9, "r2"), calls(1, 0, 0, "r3"))), "verify_failed -> third");
});
