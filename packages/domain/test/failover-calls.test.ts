import assert from "node:assert/strict";
import { test } from "node:test";
import { type DataOf, makeEvent, type NewEvent, type Observation, topology } from "@mcp-failover/contracts";
import fc from "fast-check";
import {
  decideFailover,
  type FailoverAudit,
  type FailoverInput,
  failoverInput,
  foldFailoverAudit,
  noFailoverAudit,
  openEvidence,
  takeSignal,
} from "../src/index.ts";
import { allSay, decide, moved, nowMs, policy, ruleOf, stateWith, three, vote, world } from "./failover-world.ts";
import { calls as callsOf, probeOf, trafficOf } from "./signals.ts";

type Calls = NonNullable<FailoverInput["calls"]>[string][number];
const failing = (router: string, hard = 30): Calls => ({ router, ok: 0, hard, run: hard });
const working = (router: string, ok = 30): Calls => ({ router, ok, hard: 0, run: 0 });

/** Every probe of the primary passes; the routers say what they say. */
function halfDead(calls: readonly Calls[], more: Partial<FailoverInput> = {}): Partial<FailoverInput> {
  const routers = calls.map(({ router, run }) => vote(`router:${router}`, run > 0 ? { outcome: "hard", sinceMs: 2000 } : {}));
  const primary = {
    observers: [...three, ...calls.map(({ router }) => `router:${router}`)],
    votes: [...allSay().votes, ...routers],
  };
  return { evidence: { primary, secondary: allSay() }, calls: { primary: [...calls] }, ...more };
}

test("F19: an endpoint that answers every probe and fails the calls of most routers, and of two at least, is moved off", () => {
  assert.equal(decide(halfDead([failing("a"), failing("b")])), "decided calls_failing");
  assert.equal(decide(halfDead([failing("a"), failing("b"), working("c")])), "decided calls_failing");
  const decision = decideFailover(world(halfDead([failing("a"), failing("b"), working("c")])));
  assert.ok(decision.kind === "decided" && decision.currentEndpoint === "secondary" && decision.automatic);
  assert.match(decision.reason, /60 of 60 of 2 of the 3 routers that call it \(router:a, router:b\)/);
});

test("F19: the word of one router moves nothing, whether it is alone, one of two, or one of three, however many calls it made", () => {
  for (const others of [[], [working("b")], [working("b", 5)], [working("b"), working("c")]]) {
    const said = decide(halfDead([failing("a", 100_000), ...others]));
    assert.ok(!said.startsWith("decided"), `${said} with ${others.length} others`);
  }
  assert.ok(!decide(halfDead([failing("a"), failing("b"), working("c"), working("d")])).startsWith("decided"), "half is no majority");
});

test("F19: too few calls, old words, suspects and what was said before the decision in force count for nothing", () => {
  assert.ok(!decide(halfDead([failing("a"), failing("b", policy.verifyFailures - 1)])).startsWith("decided"));
  assert.ok(!decide(halfDead([failing("a"), failing("b")], { suspects: ["router:b"] })).startsWith("decided"));
  assert.ok(!decide(halfDead([failing("a"), failing("b")], { state: stateWith({ sinceMs: nowMs - 50 }) })).startsWith("decided"));
  assert.ok(!decide(halfDead([failing("a"), failing("b")], { clock: { tilted: false, freshAfterSeq: 1_000_000 } })).startsWith("decided"));
  const some: Calls[] = ["a", "b"].map((router) => ({ router, ok: 96, hard: 4, run: 1 }));
  assert.ok(!decide(halfDead(some)).startsWith("decided"), "a few failures are no failing endpoint");
  const many: Calls[] = ["a", "b"].map((router) => ({ router, ok: 50, hard: 50, run: 1 }));
  assert.equal(decide(halfDead(many)), "decided calls_failing");
  const heard = many.map((router, index) => ({ ...router, heardAtMs: nowMs - 3000 * index, failingSinceMs: nowMs - 20_000 }));
  assert.equal(decide(halfDead(heard)), "decided calls_failing", "its calls failed already when the other was heard last");
});

test("F19: a router that is restarted under another name is one router, however fresh the last words of its former life are", () => {
  // "a" was heard last 3 s ago, and the calls of "b" began to fail 2 s ago.
  const restarted = [
    { ...failing("a"), heardAtMs: nowMs - 3000 },
    { ...failing("b"), heardAtMs: nowMs - 100 },
  ];
  assert.ok(!decide(halfDead(restarted)).startsWith("decided"));
  const both = [
    { ...failing("a"), heardAtMs: nowMs - 1500 },
    { ...failing("b"), heardAtMs: nowMs - 100 },
  ];
  assert.equal(decide(halfDead(both)), "decided calls_failing");
});

function eventOf<T extends "config.applied" | "traffic.observed" | "probe.observed">(type: T, keys: readonly string[], data: unknown) {
  return makeEvent({ type, keys, data: data as DataOf<T>, id: "e", service: "router", instance: "t", timeMs: nowMs } as NewEvent<T>);
}
const endpoints = ["primary", "secondary"].map((name, tier) => ({ name, tier, url: `http://127.0.0.1:1/${name}` }));
const configured: FailoverAudit = foldFailoverAudit(
  noFailoverAudit,
  eventOf("config.applied", [], {
    version: 1,
    environment: "development",
    topology: topology.parse({ upstreams: { pinecone: { kind: "mcp", endpoints } } }),
  }),
  nowMs,
);

/** What comes of each message of these routers, in turn and through the folds: every second call of each fails, every probe passes. */
function decisionsOn(messages: readonly { readonly router: string; readonly atMs: number }[]): string[] {
  const evidence = openEvidence();
  const ended = [...callsOf("ok", 1), ...callsOf("hard", 1), ...callsOf("ok", 1), ...callsOf("hard", 1)];
  let seq = 0;
  let probedMs = 0;
  return messages.map(({ router, atMs }) => {
    if (atMs - probedMs >= 1000) {
      probedMs = atMs;
      for (const observer of ["p1", "p2", "p3"]) {
        const seen = { ...probeOf(observer, "ok"), purpose: "confirm", startedAtMs: atMs } satisfies Observation;
        const observations = ["primary", "secondary"].map((endpoint) => ({ ...seen, endpoint }));
        seq += 1;
        takeSignal(evidence, { seq, timeMs: atMs, event: eventOf("probe.observed", [observer], { observer, observations }) });
      }
    }
    const routes = { pinecone: { generation: 0, epoch: 0, eventId: null, active: "primary" } };
    const data = { router, fromMs: atMs - 250, toMs: atMs, endpoints: [trafficOf(ended)], tools: [], routes, rollbacks: {} };
    seq += 1;
    takeSignal(evidence, { seq, timeMs: atMs, event: eventOf("traffic.observed", [router], data) });
    const fleet = { granted: true, reason: "", expiresAtMs: atMs + 5000 };
    const clock = { tilted: false, freshAfterSeq: 0 };
    const moment = { command: null, fleet, clock, gatherSinceMs: null, nowMs: atMs };
    return ruleOf(decideFailover(failoverInput(configured, evidence, "pinecone", moment)));
  });
}
const windowsOf = (router: string, fromMs: number, count: number) =>
  Array.from({ length: count }, (_, index) => ({ router, atMs: fromMs + index * 250 }));

test("F19: routers whose every window holds answers as well as failures are counted together, though they report one after the other", () => {
  const inTurn = [...windowsOf("a", nowMs, 20), ...windowsOf("b", nowMs + 130, 20)].sort((one, other) => one.atMs - other.atMs);
  const said = decisionsOn(inTurn);
  const first = said.indexOf("decided calls_failing");
  assert.ok(first >= 0, said.join(", "));
  assert.ok(
    said.slice(first).every((rule) => rule === "decided calls_failing"),
    said.join(", "),
  );
});

test("F19: one router that restarts under another name within a second is one router, also where some of its calls are answered", () => {
  const said = decisionsOn([...windowsOf("a", nowMs, 20), ...windowsOf("b", nowMs + 19 * 250 + 200, 60)]);
  assert.ok(!said.some((rule) => rule.startsWith("decided")), said.join(", "));
});

test("F19: two failures in a row are no failing endpoint, also where a breaker opens after one", () => {
  const impatient = { policy: { ...policy, verifyFailures: 1 } };
  const few = (run: number): Calls[] => ["a", "b"].map((router) => ({ router, ok: 50, hard: run, run }));
  assert.ok(!decide(halfDead(few(2), impatient)).startsWith("decided"));
  assert.equal(decide(halfDead(few(3), impatient)), "decided calls_failing");
});

test("F19: all that holds an automatic move back holds this one back: holds, cool-down, the limit, proof, the fleet, a jump of the clock", () => {
  const both = [failing("a"), failing("b")];
  const held = { by: { kind: "operator", id: "ann" } as const, reason: "no", sinceMs: 0, untilMs: null };
  assert.equal(decide(halfDead(both, { state: stateWith({ held }) })), "rejected held");
  assert.equal(decide(halfDead(both, { state: stateWith({ moves: [moved(nowMs - 30_000)] }) })), "rejected cooldown");
  assert.equal(decide(halfDead(both, { clock: { tilted: true, freshAfterSeq: 0 } })), "rejected clock_gap");
  assert.equal(decide(halfDead(both, { policy: { ...policy, automatic: false } })), "rejected automatic_off");
  assert.equal(decide(halfDead(both, { fleet: null })), "reserve calls_failing");
  const moves = [moved(nowMs - 3_000_000), moved(nowMs - 2_000_000), moved(nowMs - 1_000_000)];
  assert.equal(decide(halfDead(both, { state: stateWith({ moves }) })), "decided moves_per_hour");
  const unproven = halfDead(both);
  const evidence = { ...unproven.evidence, secondary: allSay({ proofAgeMs: null }) } as FailoverInput["evidence"];
  assert.equal(decide({ ...unproven, evidence }), "gather evidence_missing");
});

test("F19: nothing is moved to where calls fail too, and during a verification the verification judges", () => {
  const input = halfDead([failing("a"), failing("b")]);
  const routers = ["a", "b"].map((router) => vote(`router:${router}`, { outcome: "hard" }));
  const secondary = { observers: [...three, "router:a", "router:b"], votes: [...allSay().votes, ...routers] };
  const calls = { ...input.calls, secondary: [failing("a"), failing("b")] } as FailoverInput["calls"] & object;
  const decision = decideFailover(
    world({ ...input, calls, evidence: { ...input.evidence, secondary } as FailoverInput["evidence"], gatherSinceMs: nowMs - 60_000 }),
  );
  assert.equal(ruleOf(decision), "failing no_candidate");
  const trial = {
    epoch: 1,
    kind: "failover",
    atMs: nowMs - 5000,
    untilMs: nowMs + 5000,
    round: 0,
    tried: [],
    before: { ok: 0, hard: 100 },
    failed: false,
  };
  assert.ok(!decide({ ...input, state: stateWith({ trial }) }).startsWith("decided"));
});

test("F19: in a pool the tier is left when each of its members fails calls or probes", () => {
  const endpoints = [
    { name: "primary", tier: 0, role: "write" as const },
    { name: "beside", tier: 0, role: "write" as const },
    { name: "secondary", tier: 1, role: "write" as const },
  ];
  const input = halfDead([failing("a"), failing("b")]);
  const evidence = { ...input.evidence, beside: allSay() } as FailoverInput["evidence"];
  assert.ok(!decide({ ...input, mode: "pool", endpoints, evidence }).startsWith("decided"));
  const dead = { ...evidence, beside: allSay({ outcome: "hard", sinceMs: 500 }) };
  assert.equal(decide({ ...input, mode: "pool", endpoints, evidence: dead }), "decided calls_failing");
});

test("F19: an input without the calls of routers is decided as before there was this question", () => {
  const { calls: _, ...old } = halfDead([failing("a"), failing("b")]);
  assert.ok(!decide(old).startsWith("decided"));
});

test("F19: whatever the routers say, none is moved for fewer than two of them, nor for a minority", () => {
  const router = fc.record({ ok: fc.nat(60), hard: fc.nat(60), run: fc.nat(10), against: fc.boolean() });
  fc.assert(
    fc.property(fc.array(router, { maxLength: 5 }), (said) => {
      const calls = said.map(({ ok, hard, run }, index) => ({ router: `r${index}`, ok, hard, run: Math.min(run, hard) }));
      const votes = said.map(({ against }, index) => vote(`router:r${index}`, against ? { outcome: "hard" } : {}));
      const primary = { observers: [...three, ...calls.map(({ router }) => `router:${router}`)], votes: [...allSay().votes, ...votes] };
      const decision = decideFailover(world({ evidence: { primary, secondary: allSay() }, calls: { primary: calls } }));
      if (decision.kind !== "decided" || decision.rule !== "calls_failing") return;
      const electorate = calls.filter(({ ok, hard }) => ok + hard >= policy.verifyFailures);
      const accusers = electorate.filter(({ router, hard }) => hard > 0 && said[Number(router.slice(1))]?.against);
      assert.ok(accusers.length >= 2 && accusers.length * 2 > electorate.length);
    }),
  );
});
