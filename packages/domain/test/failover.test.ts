import assert from "node:assert/strict";
import { test } from "node:test";
import { decideFailover, type FailoverInput } from "@mcp-failover/domain";
import {
  allSay,
  ann,
  dead,
  decide,
  moved,
  nowMs,
  order,
  policy,
  ruleOf,
  type Said,
  stateWith,
  three,
  vote,
  world,
} from "./failover-world.ts";

test("F2: a majority of the observers against the active endpoint moves it to a proven one", () => {
  const decision = decideFailover(world());
  assert.equal(ruleOf(decision), "decided majority_unhealthy");
  assert.ok(decision.kind === "decided");
  assert.deepEqual([decision.state.active, decision.state.epoch, decision.automatic], ["secondary", 1, true]);
  assert.deepEqual(decision.state.moves, [{ atMs: nowMs, epoch: 1, from: "primary", to: "secondary", automatic: true }]);
});

test("F2: half of the observers is no majority, and a silent observer counts as one", () => {
  const hard = [vote("prober:p1", { outcome: "hard" }), vote("prober:p2", { outcome: "hard" })];
  const four = [...three, "router:r1"];
  assert.equal(decide({ evidence: { ...world().evidence, primary: { observers: four, votes: hard } } }), "gather evidence_missing");
  const heard = [...hard, vote("prober:p3"), vote("router:r1")];
  assert.equal(decide({ evidence: { ...world().evidence, primary: { observers: four, votes: heard } } }), "none no_majority");
});

test("F2: an observer that spoke before the last one turned is asked again before it counts as being of another mind", () => {
  const votes = [vote("prober:p1", { outcome: "hard", ageMs: 10 }), vote("prober:p2", { ageMs: 3000 }), vote("prober:p3", { ageMs: 3000 })];
  assert.equal(decide({ evidence: { ...world().evidence, primary: { observers: three, votes } } }), "gather evidence_missing");
});

test("F2: the word of an observer that reaches nothing others reach is not heard, but it still counts as one", () => {
  assert.equal(decide({ suspects: ["prober:p1"] }), "decided majority_unhealthy");
  assert.equal(decide({ suspects: ["prober:p1", "prober:p2"] }), "none no_majority");
  assert.equal(decide({ suspects: three }), "none observers_suspect");
});

test("F3: a lone prober moves nothing by one probe, nor by a scheduled second one, nor before others had time to speak", () => {
  const lone = (said: Said): Partial<FailoverInput> => {
    const votes = [vote("prober:p1", { outcome: "hard", ...said })];
    return { evidence: { primary: { observers: ["prober:p1"], votes }, secondary: allSay({}, ["prober:p1"]) } };
  };
  assert.equal(decide(lone({ run: 1, sinceMs: 900 })), "gather evidence_missing");
  assert.equal(decide(lone({ run: 2, sinceMs: 900, purpose: "scheduled" })), "gather evidence_missing");
  assert.equal(decide(lone({ run: 2, sinceMs: 300 })), "gather evidence_missing");
  assert.equal(decide(lone({ run: 2, sinceMs: 900 })), "decided lone_observer_confirmed");
  const router = { observers: ["router:r1"], votes: [vote("router:r1", { outcome: "hard", run: 50, sinceMs: 900 })] };
  assert.equal(decide({ evidence: { ...world().evidence, primary: router } }), "gather evidence_missing");
});

test("F4: silence, stale words and answers that prove nothing move nothing", () => {
  for (const primary of [
    { observers: three, votes: [] },
    dead({ ageMs: 11_000 }),
    allSay({ outcome: "soft" }),
    allSay({ outcome: "auth" }),
    allSay({ outcome: "caller" }),
  ]) {
    assert.equal(decide({ evidence: { ...world().evidence, primary } }), "none no_evidence");
  }
});

test("F4: what was seen before the decision in force moves nothing, nor does a decider that is behind it", () => {
  assert.equal(decide({ state: stateWith({ sinceMs: nowMs - 100 }) }), "none no_evidence");
  assert.equal(decide({ state: stateWith({ signalsSeq: 1_000_001, decidedAtMs: nowMs }) }), "none evidence_behind");
  const begunAnew = { signalsSeq: 2_000_000, decidedAtMs: nowMs - 1 };
  assert.equal(decide({ state: stateWith(begunAnew) }), "decided majority_unhealthy", "SIGNALS was lost, and what is in it now came later");
  assert.equal(decide({ clock: { tilted: false, freshAfterSeq: 1_000_000 } }), "none no_evidence");
});

test("F4: health that became unhealthy after the last good probe is asked about, and by itself moves nothing", () => {
  const well = { ...world().evidence, primary: allSay({ ageMs: 1000 }) };
  const unhealthy = (sinceMs: number) => ({ primary: { status: "unhealthy" as const, sinceMs, heldDownUntilMs: null } });
  assert.equal(decide({ evidence: well, health: unhealthy(nowMs - 500) }), "gather evidence_missing");
  assert.equal(decide({ evidence: well, health: unhealthy(nowMs - 1500) }), "none active_healthy");
  assert.equal(
    decide({ evidence: { ...well, primary: { observers: three, votes: [] } }, breakers: { primary: "open" } }),
    "gather evidence_missing",
  );
});

test("F4: a breaker that opened after the last good probe is asked about, though calls are still answered; by itself it moves nothing", () => {
  const routers = ["router:r1", "router:r2"];
  const answered = {
    observers: [...three, ...routers],
    votes: [...allSay({ ageMs: 1000 }).votes, ...allSay({ ageMs: 10 }, routers).votes],
  };
  const evidence = { ...world().evidence, primary: answered };
  const open = (agoMs: number) => ({ evidence, breakers: { primary: "open" as const }, opened: { primary: nowMs - agoMs } });
  assert.equal(decide(open(500)), "gather evidence_missing");
  assert.equal(decide(open(1500)), "none active_healthy", "probed since");
  assert.equal(decide({ ...open(500), breakers: { primary: "half_open" } }), "none active_healthy");
});

test("F5: an unproven candidate is asked about, and a sick one is no candidate", () => {
  const ev = (secondary: FailoverInput["evidence"][string]) => ({ evidence: { primary: dead(), secondary } });
  const askedLongAgo = { gatherSinceMs: nowMs - policy.proofWaitMs };
  const unspoken = { observers: three, votes: [] };
  assert.equal(decide(ev(unspoken)), "gather evidence_missing");
  assert.equal(decide({ ...ev(unspoken), gatherSinceMs: nowMs - policy.proofWaitMs }), "failing no_candidate");
  assert.equal(decide({ ...ev(dead()), ...askedLongAgo }), "failing no_candidate");
  assert.equal(
    decide({ ...ev(dead()), gatherSinceMs: nowMs - policy.proofWaitMs + 1 }),
    "gather evidence_missing",
    "one lost probe is no dead end",
  );
  assert.equal(decide({ ...ev(allSay({ outcome: "auth" })), ...askedLongAgo }), "failing no_candidate");
  assert.equal(decide({ ...ev(allSay({ purpose: "scheduled", proofAgeMs: null })), ...askedLongAgo }), "failing no_candidate");
  assert.equal(decide({ ...ev(allSay({ proofAgeMs: 600 })), ...askedLongAgo }), "failing no_candidate", "proven before the suspicion");
  const split = { observers: three, votes: [vote(three[0]!), vote(three[1]!, { outcome: "hard" }), vote(three[2]!, { outcome: "auth" })] };
  assert.equal(decide({ ...ev(split), ...askedLongAgo }), "failing no_candidate", "contradicted by as many");
});

test("F5: health, hold-down, breaker and role keep a proven candidate from being moved to", () => {
  const health = (status: "healthy" | "unhealthy", heldDownUntilMs: number | null) => ({
    secondary: { status, sinceMs: 0, heldDownUntilMs },
  });
  const gatherSinceMs = nowMs - policy.proofWaitMs;
  assert.equal(decide({ gatherSinceMs, health: health("unhealthy", null) }), "failing no_candidate");
  assert.equal(decide({ gatherSinceMs, health: health("healthy", nowMs + 1) }), "failing no_candidate");
  assert.equal(decide({ health: health("healthy", nowMs) }), "decided majority_unhealthy");
  assert.equal(decide({ gatherSinceMs, breakers: { secondary: "forced_open" } }), "failing no_candidate");
  const [primary] = world().endpoints;
  assert.equal(decide({ gatherSinceMs, endpoints: [primary!, { name: "secondary", tier: 1, role: "read" }] }), "failing no_candidate");
});

test("F18: an active endpoint that an operator forced open is left for one proven since, though all observers say that it answers", () => {
  const evidence = { primary: allSay(), secondary: allSay() };
  const forced = { evidence, breakers: { primary: "forced_open" as const } };
  assert.equal(decide({ evidence }), "none active_healthy");
  assert.equal(decide(forced), "gather evidence_missing", "what proved the other one before the question is too old");
  const decision = decideFailover(world({ ...forced, gatherSinceMs: nowMs - 500 }));
  assert.ok(decision.kind === "decided" && decision.state.active === "secondary" && decision.rule === "breaker_forced_open");
  assert.match(decision.reason, /an operator forced its breaker open/);
});

test("F18: such a move respects hold and cool-down, and where there is nowhere to go it is said without a word of panic", () => {
  const forced = {
    evidence: { primary: allSay(), secondary: allSay() },
    breakers: { primary: "forced_open" as const },
    gatherSinceMs: nowMs - 500,
  };
  const held = { by: ann, reason: "look first", sinceMs: 0, untilMs: null };
  assert.equal(decide({ ...forced, state: stateWith({ held }) }), "rejected held");
  assert.equal(decide({ ...forced, state: stateWith({ moves: [moved(nowMs - 1000)] }) }), "rejected cooldown");
  const [primary] = world().endpoints;
  const alone = decideFailover(world({ ...forced, endpoints: [primary!] }));
  assert.equal(alone.kind, "failing");
  assert.doesNotMatch(alone.reason, /panic/);
});

test("F18: a pool goes on with the rest of its tier, and leaves it when none of it may be used", () => {
  const endpoints = ["a", "b", "c"].map((name) => ({ name, tier: name === "c" ? 1 : 0, role: "write" as const }));
  const evidence = { a: allSay(), b: allSay(), c: allSay() };
  const pool = { mode: "pool" as const, endpoints, evidence, state: stateWith({ active: "a" }), gatherSinceMs: nowMs - 500 };
  assert.equal(decide({ ...pool, breakers: { a: "forced_open" } }), "none active_healthy");
  assert.equal(decide({ ...pool, breakers: { a: "forced_open", b: "forced_open" } }), "decided breaker_forced_open");
});

test("F5: an open breaker gives way to the proof of most observers, and only where there is no other endpoint", () => {
  const gatherSinceMs = nowMs - policy.proofWaitMs;
  const { primary } = world().evidence;
  const open = { secondary: "open" as const };
  const decision = decideFailover(world({ gatherSinceMs, breakers: open }));
  assert.ok(decision.kind === "decided");
  assert.deepEqual([decision.state.active, decision.overrode, decision.rejected], ["secondary", ["breaker"], []]);
  // One proof of three is enough for an endpoint with a closed breaker, not for this.
  const one = { observers: three, votes: [vote("prober:p1")] };
  assert.equal(decide({ gatherSinceMs, evidence: { primary: primary!, secondary: one } }), "decided majority_unhealthy");
  assert.equal(decide({ gatherSinceMs, breakers: open, evidence: { primary: primary!, secondary: one } }), "failing no_candidate");
  assert.equal(decide({ gatherSinceMs, breakers: open, evidence: { primary: primary!, secondary: dead() } }), "failing no_candidate");
  const third = { name: "third", tier: 2, role: "write" as const };
  const more = { endpoints: [...world().endpoints, third], breakers: open };
  const other = decideFailover(world({ gatherSinceMs, ...more, evidence: { ...world().evidence, third: allSay() } }));
  assert.ok(other.kind === "decided");
  assert.deepEqual([other.state.active, other.overrode], ["third", []], "the third needs no exception");
});

test("F5: suspects, words from before the failure and probes of another purpose are no proof against an open breaker", () => {
  const of = (secondary: FailoverInput["evidence"][string], suspects: string[] = []): string => {
    const evidence = { primary: dead({}, ["prober:p5", "router:r3"]), secondary };
    return decide({ gatherSinceMs: nowMs - policy.proofWaitMs, breakers: { secondary: "open" }, evidence, suspects });
  };
  const two = { observers: ["prober:p2", "prober:p4"], votes: [vote("prober:p2", { proofAgeMs: null }), vote("prober:p4")] };
  assert.equal(of(two, ["prober:p1", "prober:p2", "router:r1"]), "failing no_candidate", "one of two reaches nothing at all itself");
  assert.equal(of(two), "failing no_candidate", "one of two only passed by");
  assert.equal(of(allSay()), "decided majority_unhealthy");
  assert.equal(of(allSay(), three.slice(0, 2)), "failing no_candidate", "a suspect's proof is none");
  const [first, ...others] = three as [string, ...string[]];
  const before = { observers: three, votes: [vote(first), ...others.map((observer) => vote(observer, { ageMs: 600 }))] };
  assert.equal(of(before), "failing no_candidate", "it was proven before the failure");
  const routers = ["router:r1", "router:r2"];
  const withCalls = { observers: [first, ...routers], votes: [first, ...routers].map((observer) => vote(observer)) };
  assert.equal(of(withCalls), "decided majority_unhealthy", "routers make no probes, but their calls end well");
});

test("F6: hold, cool-down, the fleet and a jump of the clock stop an automatic move", () => {
  const held = { by: ann, reason: "maintenance", sinceMs: 1, untilMs: null };
  assert.equal(decide({ state: stateWith({ held }) }), "rejected held");
  assert.equal(decide({ state: stateWith({ held: { ...held, untilMs: nowMs } }) }), "decided hold_expired");
  assert.equal(decide({ state: stateWith({ moves: [moved(nowMs - policy.cooldownMs + 1)] }) }), "rejected cooldown");
  assert.equal(decide({ state: stateWith({ moves: [moved(nowMs - policy.cooldownMs)] }) }), "decided majority_unhealthy");
  assert.equal(
    decide({ state: stateWith({ moves: [moved(nowMs - 1, false)] }) }),
    "decided majority_unhealthy",
    "an operator's move is none",
  );
  assert.equal(decide({ fleet: null }), "reserve majority_unhealthy");
  assert.equal(decide({ fleet: { granted: true, reason: "", expiresAtMs: nowMs } }), "reserve majority_unhealthy");
  assert.equal(decide({ fleet: { granted: false, reason: "full", expiresAtMs: 0 } }), "rejected fleet_limit");
  assert.equal(decide({ clock: { tilted: true, freshAfterSeq: 0 } }), "rejected clock_gap");
  assert.equal(decide({ policy: { ...policy, automatic: false } }), "rejected automatic_off");
  assert.equal(decide({ policy: { ...policy, movesPerHour: 0 } }), "rejected automatic_off", "none an hour is no limit that was reached");
});

test("F6: an active endpoint that is not configured any more is replaced in spite of hold and cool-down", () => {
  const held = { by: ann, reason: "maintenance", sinceMs: 1, untilMs: null };
  const decision = decideFailover(
    world({ state: stateWith({ active: "gone", held, moves: [moved(nowMs - 1)] }), evidence: { primary: dead(), secondary: allSay() } }),
  );
  assert.equal(ruleOf(decision), "decided active_vanished");
  assert.deepEqual(decision.kind === "decided" && [decision.currentEndpoint, decision.overrode], ["secondary", ["hold", "cooldown"]]);
});

test("F7: the move over the hourly limit holds the upstream instead", () => {
  const moves = [50, 40, 30].map((minutes, index) => moved(nowMs - minutes * 60_000, true, index + 1));
  const decision = decideFailover(world({ state: stateWith({ epoch: 3, moves }) }));
  assert.equal(ruleOf(decision), "decided moves_per_hour");
  assert.ok(decision.kind === "decided");
  assert.deepEqual([decision.action, decision.currentEndpoint, decision.state.held?.untilMs], ["held", "primary", null]);
  assert.equal(decide({ state: stateWith({ moves: moves.slice(1) }) }), "decided majority_unhealthy");
});

test("F8: force overrides hold and cool-down, and with a name also the proof; each is recorded", () => {
  const held = { by: ann, reason: "maintenance", sinceMs: 1, untilMs: null };
  const state = stateWith({ held, moves: [moved(nowMs - 1)] });
  assert.equal(decide({ state, command: order() }), "rejected held");
  assert.equal(decide({ state: stateWith({ moves: state.moves }), command: order() }), "rejected cooldown");
  const overrode = (more: Partial<FailoverInput>): unknown => {
    const decision = decideFailover(world(more));
    return decision.kind === "decided" ? decision.overrode : ruleOf(decision);
  };
  assert.deepEqual(overrode({ state, command: order({ force: true }) }), ["hold", "cooldown"]);
  const sick = { evidence: { primary: dead(), secondary: dead() } };
  assert.deepEqual(overrode({ ...sick, command: order({ force: true }) }), ["unhealthy"]);
  assert.equal(overrode({ ...sick, command: order({ force: true, to: null, gatherOver: true }) }), "rejected candidate_unhealthy");
  const heldDown = { health: { secondary: { status: "unhealthy" as const, sinceMs: 0, heldDownUntilMs: nowMs + 1 } } };
  assert.deepEqual(overrode({ ...heldDown, command: order({ force: true, to: null }) }), ["hold_down"]);
  assert.equal(overrode({ ...heldDown, command: order() }), "rejected candidate_held_down");
});

test("an operator's move wants proof from after the command, waits for it, and names what is wrong", () => {
  assert.equal(decide({ command: order({ afterSeq: 1_000_000 }) }), "gather evidence_missing");
  assert.equal(decide({ command: order({ afterSeq: 1_000_000, gatherOver: true }) }), "rejected candidate_unknown");
  assert.equal(decide({ command: order({ to: "primary" }) }), "rejected already_active");
  assert.equal(decide({ command: order({ to: "nowhere" }) }), "rejected unknown_endpoint");
  assert.equal(decide({ command: order() }), "decided operator");
  assert.equal(decide({ command: order(), evidence: { secondary: dead() } }), "rejected candidate_unhealthy");
  assert.equal(decide({ command: order(), clock: { tilted: true, freshAfterSeq: 0 } }), "decided operator");
});

test("an order to move somewhere does not move an upstream that moved meanwhile; one that names the endpoint does what it says", () => {
  const late = (more: Partial<Parameters<typeof order>[0]>) => order({ from: "secondary", force: true, ...more });
  assert.equal(decide({ command: late({ to: null }) }), "rejected moved_meanwhile");
  assert.equal(decide({ command: late({ to: "secondary" }) }), "decided operator_forced");
  assert.equal(decide({ command: late({ to: null, from: "primary" }) }), "decided operator_forced");
});

test("F9: the best proven tier wins, and a better one that may still be proven is waited for, shortly", () => {
  const endpoints: FailoverInput["endpoints"] = [
    { name: "primary", tier: 0, role: "write" },
    { name: "far", tier: 2, role: "write" },
    { name: "near", tier: 1, role: "write" },
  ];
  const active = (more: Partial<FailoverInput>): string => {
    const decision = decideFailover(world({ endpoints, ...more }));
    return decision.kind === "decided" ? decision.currentEndpoint : ruleOf(decision);
  };
  assert.equal(active({ evidence: { primary: dead(), far: allSay(), near: allSay() } }), "near");
  assert.equal(active({ evidence: { primary: dead(), far: allSay(), near: dead() } }), "far");
  const waiting = { primary: dead(), far: allSay(), near: { observers: three, votes: [] } };
  assert.equal(active({ evidence: waiting }), "gather evidence_missing");
  assert.equal(active({ evidence: waiting, gatherSinceMs: nowMs - policy.confirmTimeoutMs }), "far");
});

test("a pool moves to another tier only when every endpoint of its tier has failed", () => {
  const endpoints: FailoverInput["endpoints"] = ["a", "b"].map((name) => ({ name, tier: 0, role: "write" }));
  const pool = (b: FailoverInput["evidence"][string]): string =>
    decide({
      mode: "pool",
      endpoints: [...endpoints, { name: "spare", tier: 1, role: "write" }],
      state: stateWith({ active: "a" }),
      evidence: { a: dead(), b, spare: allSay() },
    });
  assert.equal(pool(allSay()), "none active_healthy");
  assert.equal(pool({ observers: three, votes: [] }), "gather evidence_missing");
  assert.equal(pool(dead()), "decided majority_unhealthy");
});

test("failback is manual by default; automatic, it waits for a preferred endpoint to be healthy for long and proven", () => {
  const back = (more: Partial<FailoverInput>, sinceMs = nowMs - policy.failbackAfterMs): string =>
    decide({
      state: stateWith({ active: "secondary", tier: 1, epoch: 1 }),
      evidence: { primary: allSay(), secondary: allSay() },
      health: { primary: { status: "healthy", sinceMs, heldDownUntilMs: null } },
      policy: { ...policy, failback: "automatic" },
      gatherSinceMs: nowMs - 200,
      ...more,
    });
  assert.equal(back({ policy }), "none active_healthy");
  assert.equal(back({}), "decided failback");
  assert.equal(back({}, nowMs - policy.failbackAfterMs + 1), "none active_healthy");
  assert.equal(back({ evidence: { primary: { observers: three, votes: [] }, secondary: allSay() } }), "gather evidence_missing");
});

test("F1: the next epoch is above all that routers hold of it", () => {
  const decision = decideFailover(world({ seenEpoch: 7 }));
  assert.equal(decision.kind === "decided" ? decision.state.epoch : null, 8);
});

test("a hold and its release leave what is active, and since when, as it is", () => {
  const state = stateWith({ sinceMs: 42, epoch: 3 });
  const hold = { kind: "hold", commandId: "c", by: ann, reason: "maintenance", forMs: 1000 } as const;
  const held = decideFailover(world({ state, command: hold }));
  assert.ok(held.kind === "decided");
  assert.deepEqual([held.action, held.state.active, held.state.sinceMs, held.state.epoch], ["held", "primary", 42, 4]);
  assert.deepEqual(held.state.held, { by: ann, reason: "maintenance", sinceMs: nowMs, untilMs: nowMs + 1000 });
  const release = { kind: "release", commandId: "c", by: ann, reason: "done" } as const;
  const released = decideFailover(world({ state: held.state, command: release }));
  assert.deepEqual(released.kind === "decided" && [released.state.held, released.state.epoch], [null, 5]);
  assert.equal(decide({ state, command: release }), "rejected not_held");
});

test("a hold that says when it ends does so by the store's clock, whatever its length is by another, and one that is over is refused", () => {
  const hold = { kind: "hold", commandId: "c", by: ann, reason: "maintenance", forMs: null } as const;
  const held = decideFailover(world({ command: { ...hold, forMs: 7_200_000, untilMs: nowMs + 1000 } }));
  assert.equal(held.kind === "decided" && held.state.held?.untilMs, nowMs + 1000);
  assert.equal(decide({ command: { ...hold, untilMs: nowMs + 1 } }), "decided operator");
  assert.equal(decide({ command: { ...hold, untilMs: nowMs } }), "rejected until_over");
  assert.equal(decide({ command: hold }), "decided operator");
});

test("F4, F5: neither a word nor a proof from before a gap of the clock counts, up to the last message that was read late", () => {
  const after = (freshAfterSeq: number, proofAgeMs = 100) =>
    decide({
      clock: { tilted: false, freshAfterSeq },
      evidence: { primary: dead({ ageMs: 50 }), secondary: allSay({ ageMs: 50, proofAgeMs }) },
    });
  assert.equal(after(999_899), "decided majority_unhealthy");
  assert.match(after(999_900), /^gather/, "the proof is that very message");
  assert.equal(after(999_950, 50), "none no_evidence");
});

test("F5: of an endpoint behind an open breaker a router's call from before the failure proves nothing", () => {
  const secondary = (ageMs: number) => {
    const observers = ["prober:p1", "router:r1"];
    return { observers, votes: [vote("prober:p1"), vote("router:r1", { ageMs })] };
  };
  const moved = (ageMs: number) =>
    decide({ evidence: { primary: dead(), secondary: secondary(ageMs) }, breakers: { secondary: "open" }, gatherSinceMs: nowMs - 60_000 });
  assert.equal(moved(400), "decided majority_unhealthy");
  assert.equal(moved(600), "failing no_candidate");
});

test("an operator's target that no prober has been heard of is asked for, not refused at once", () => {
  const evidence = { primary: dead(), secondary: { observers: [], votes: [] } };
  assert.match(decide({ evidence, command: order() }), /^gather/);
  assert.equal(decide({ evidence, command: order({ gatherOver: true }) }), "rejected candidate_unknown");
});
