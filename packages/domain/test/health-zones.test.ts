import assert from "node:assert/strict";
import { test } from "node:test";
import { healthState, type Vote } from "@mcp-failover/contracts";
import {
  decideHealth,
  defaultPolicy,
  type HealthEvidence,
  type HealthInput,
  initialHealthState,
  type Maintenance,
} from "@mcp-failover/domain";
import fc from "fast-check";

const policy = defaultPolicy.health;
const nowMs = 1_800_000_000_000;
const healthy = {
  ...initialHealthState(nowMs - 60_000),
  status: "healthy" as const,
  side: "up" as const,
  score: 0.9,
  lastObservedAtMs: nowMs - 5000,
};

function vote(zone: string | null, observer: string, verdict: Vote["verdict"]): Vote {
  const outcome = verdict === "unhealthy" ? ("hard" as const) : ("ok" as const);
  return { observer, kind: "prober", verdict, outcome, code: null, atMs: nowMs, responseTimeMs: 1, ref: null, zone };
}
const seen = (outcome: HealthEvidence["outcome"], count: number, more: Partial<HealthEvidence> = {}): HealthEvidence[] =>
  Array.from({ length: count }, (_, index) => ({
    startedAtMs: nowMs - 1000 + index * 250,
    responseTimeMs: 5,
    outcome,
    code: null,
    purpose: "retry" as const,
    ...more,
  }));
const input = (more: Partial<HealthInput>): HealthInput => ({
  policy,
  state: healthy,
  evidence: seen("hard", 3),
  asked: 0,
  votes: [],
  graceUntilMs: 0,
  nowMs,
  ...more,
});
const against = (zone: string | null, ...names: string[]) => names.map((name) => vote(zone, name, "unhealthy"));
const well = (zone: string | null, ...names: string[]) => names.map((name) => vote(zone, name, "healthy"));

test("H12: what fails from one zone only is told as that and stays up, also where that zone has the majority of the observers", () => {
  const votes = [...against("east", "p1", "p2", "p3"), ...well("west", "p4")];
  const decision = decideHealth(input({ asked: 4, votes }));
  assert.deepEqual([decision.rule, decision.publish, decision.state.status], ["zone_only", true, "degraded"]);
  assert.deepEqual([decision.state.cause, decision.state.failingZone, decision.state.side], ["zone", "east", "up"]);
  assert.equal(decision.reason, "3 failures in a row, but only from the zone east (3 there); 1 elsewhere see it well");
  assert.ok(decision.state.score >= policy.zoneScoreMin);
  healthState.parse(decision.state);
  const again = decideHealth(input({ asked: 4, votes, state: decision.state }));
  assert.deepEqual([again.rule, again.publish], ["zone_only", false], "it is told once");
});

test("H12: once a second zone sees it fail too, or nobody elsewhere can say, the majority decides as ever", () => {
  const told = decideHealth(input({ asked: 4, votes: [...against("east", "p1", "p2", "p3"), ...well("west", "p4")] })).state;
  const fall = decideHealth(
    input({ state: told, asked: 4, votes: [...against("east", "p1", "p2"), ...against("west", "p4"), ...well("west", "p5")] }),
  );
  assert.deepEqual([fall.rule, fall.state.status, fall.state.cause, fall.state.failingZone], ["fall", "unhealthy", null, null]);
  assert.equal(decideHealth(input({ asked: 3, votes: against("east", "p1", "p2", "p3") })).rule, "fall");
  assert.equal(decideHealth(input({ asked: 4, votes: against("east", "p1", "p2") })).rule, "no_majority", "silence elsewhere is no vote");
});

test("H12: observers that name no zone are outvoted by number alone, as before there were zones", () => {
  assert.equal(decideHealth(input({ asked: 3, votes: [...against(null, "p1", "p2"), ...well(null, "p3")] })).rule, "fall");
  assert.equal(decideHealth(input({ asked: 3, votes: [...against(null, "p1"), ...well(null, "p2", "p3")] })).rule, "no_majority");
});

test("H12: where most observers of the failing zone see it well, it is the failing prober's own trouble and nothing is said", () => {
  const decision = decideHealth(input({ asked: 4, votes: [...against("east", "p1"), ...well("east", "p2"), ...well("west", "p3", "p4")] }));
  assert.deepEqual([decision.rule, decision.publish], ["no_majority", false]);
});

test("H12: it is well again only when the failing zone says so, or nobody is left there to say", () => {
  const state = decideHealth(input({ asked: 3, votes: [...against("east", "p1", "p2"), ...well("west", "p3")] })).state;
  const ok = { state, evidence: seen("ok", 2, { purpose: "scheduled" }) };
  const first = decideHealth(input(ok));
  assert.deepEqual([first.ask, first.publish], [true, false]);
  const still = decideHealth(input({ ...ok, asked: 3, votes: [...against("east", "p1", "p2"), ...well("west", "p3")] }));
  assert.deepEqual([still.publish, still.reason], [false, "still failing from the zone east"]);
  for (const votes of [well("east", "p1"), well("west", "p3")]) {
    const cleared = decideHealth(input({ ...ok, asked: 3, votes }));
    assert.deepEqual(
      [cleared.rule, cleared.state.status, cleared.state.cause, cleared.state.failingZone],
      ["cleared", "healthy", null, null],
    );
  }
});

test("H12, H8: an endpoint that nobody has proven yet is not called up because another zone sees it well", () => {
  const decision = decideHealth(input({ state: null, asked: 3, votes: [...against("east", "p1"), ...well("west", "p2", "p3")] }));
  assert.deepEqual([decision.publish, decision.state.status], [false, "unknown"]);
});

test("H7: two answers in a row that are not as the configuration asks make degraded, with the code and the sentence, never unhealthy", () => {
  const drift = { code: "tools_drift", detail: "the tool list has changed: 3 instead of 5 tools" };
  const one = decideHealth(input({ evidence: seen("ok", 1, { degraded: drift }) }));
  assert.equal(one.publish, false);
  const two = decideHealth(input({ evidence: seen("ok", 2, { degraded: drift }) }));
  assert.deepEqual([two.rule, two.state.status, two.state.side], ["answers_degraded", "degraded", "up"]);
  assert.equal(two.reason, "tools_drift: the tool list has changed: 3 instead of 5 tools");
  assert.deepEqual([two.state.cause, two.state.causeCode], ["degraded", "tools_drift"]);
  const many = decideHealth(input({ state: two.state, evidence: seen("ok", 16, { degraded: drift }) }));
  assert.notEqual(many.state.status, "unhealthy");
  assert.ok(
    many.state.score <= policy.degradedScoreMax + 0.01 && many.state.score > defaultPolicy.router.scoreMin,
    String(many.state.score),
  );
  const other = decideHealth(
    input({ state: two.state, evidence: seen("ok", 2, { degraded: { code: "certificate", detail: "5 days left" } }) }),
  );
  assert.deepEqual([other.publish, other.state.causeCode], [true, "certificate"], "another cause is told");
  const cleared = decideHealth(input({ state: two.state, evidence: seen("ok", 2) }));
  assert.deepEqual([cleared.rule, cleared.state.status, cleared.state.causeCode], ["cleared", "healthy", null]);
});

test("H7: an endpoint that comes back but is not as it should be rises to degraded", () => {
  const down = { ...healthy, status: "unhealthy" as const, side: "down" as const, score: 0 };
  const risen = decideHealth(input({ state: down, evidence: seen("ok", 2, { degraded: { code: "resource", detail: "memory at 93 %" } }) }));
  assert.deepEqual([risen.rule, risen.state.status, risen.state.cause], ["rise", "degraded", "degraded"]);
  assert.match(risen.reason, /resource: memory at 93 %/);
});

test("H13: in maintenance health is told as it is, with the window named, and its ups and downs are no flapping", () => {
  const maintenance: Maintenance = { name: "upgrade", reason: "new disks", untilMs: nowMs + 60_000 };
  const changesAtMs = [nowMs - 50_000, nowMs - 40_000, nowMs - 30_000, nowMs - 20_000];
  const state = { ...healthy, changesAtMs };
  const falling = { state, asked: 2, votes: against("east", "p1", "p2") };
  const outside = decideHealth(input(falling));
  assert.equal(outside.rule, "flap_hold");
  const inside = decideHealth(input({ ...falling, maintenance }));
  assert.deepEqual([inside.rule, inside.state.status, inside.state.heldDownUntilMs], ["fall", "unhealthy", null]);
  assert.deepEqual(inside.state.changesAtMs, changesAtMs);
  assert.match(inside.reason, /; in maintenance upgrade \(new disks\)$/);
});

test("H12, H2: whatever is voted, unhealthy needs a strict majority of those asked, and no zone alone while another sees it well", () => {
  const zone = fc.constantFrom("east", "west", null);
  const votesOf = fc.array(fc.record({ zone, verdict: fc.constantFrom("healthy" as const, "unhealthy" as const) }), { maxLength: 7 });
  fc.assert(
    fc.property(votesOf, fc.integer({ min: 0, max: 4 }), (words, silent) => {
      const votes = words.map((word, index) => vote(word.zone, `p${index}`, word.verdict));
      const asked = votes.length + silent;
      const decision = decideHealth(input({ asked, votes }));
      const bad = votes.filter(({ verdict }) => verdict === "unhealthy");
      const elsewhere = votes.some((word) => word.verdict === "healthy" && bad.every((other) => other.zone !== word.zone));
      const oneZone = bad.length > 0 && bad[0]?.zone !== null && bad.every((word) => word.zone === bad[0]?.zone);
      const zoneWell = votes.filter((word) => word.verdict === "healthy" && word.zone === bad[0]?.zone).length;
      const isFall = decision.state.status === "unhealthy";
      if (asked === 0) assert.ok(decision.ask && !isFall);
      else if (oneZone && elsewhere && bad.length > zoneWell) assert.deepEqual([isFall, decision.state.failingZone], [false, bad[0]?.zone]);
      else assert.equal(isFall, bad.length * 2 > asked);
    }),
    { numRuns: 300 },
  );
});
