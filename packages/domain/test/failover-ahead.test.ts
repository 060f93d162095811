import assert from "node:assert/strict";
import { test } from "node:test";
import type { RouteHeld } from "@mcp-failover/contracts";
import { decideFailover, type FailoverInput, isNewerRoute, type RouteAhead, routeAhead } from "@mcp-failover/domain";
import fc from "fast-check";
import { allSay, ann, dead, nowMs, policy, ruleOf, stateWith, world } from "./failover-world.ts";

const held = (active: string, epoch: number, eventId: string | null = `e${epoch}`, generation = 1): RouteHeld => ({
  generation,
  epoch,
  eventId,
  active,
});
const fleet = (routes: Readonly<Record<string, RouteHeld>>, ageMs = 0) =>
  new Map(Object.entries(routes).map(([router, route]) => [router, { atMs: nowMs - ageMs, routes: { shop: route }, rollbacks: {} }]));
const log = { generation: 1, epoch: 3, id: "ours" };
const ahead = (routes: Readonly<Record<string, RouteHeld>>, of = log, ageMs = 0) =>
  routeAhead(fleet(routes, ageMs), "shop", of, { liveMs: policy.routerLiveMs, nowMs });

const well = { primary: allSay(), secondary: allSay() };
const inForce = (more: object = {}) => stateWith({ epoch: 3, decidedAtMs: nowMs - policy.cooldownMs, ...more });
const seen = (more: Partial<RouteAhead> = {}): RouteAhead => ({
  generation: 1,
  epoch: 7,
  active: "secondary",
  heldBy: [
    { router: "r1", active: "secondary" },
    { router: "r2", active: "secondary" },
  ],
  others: 0,
  ...more,
});
const decide = (more: Partial<FailoverInput>) =>
  decideFailover(world({ evidence: well, state: inForce(), seenEpoch: 7, ahead: seen(), ...more }));
const decidedBy = (more: Partial<FailoverInput>) => {
  const decision = decide(more);
  assert.ok(decision.kind === "decided", ruleOf(decision));
  assert.equal(decision.rule, "routers_ahead");
  return decision;
};

test("F20: a log that was restored takes over where the routers send their calls, above what they hold, though its own endpoint is well", () => {
  const { action, automatic, previousEndpoint, currentEndpoint, state } = decidedBy({});
  assert.deepEqual([action, automatic, previousEndpoint, currentEndpoint], ["moved", true, "primary", "secondary"]);
  assert.deepEqual([state.epoch, state.active, state.tier, state.sinceMs, state.generation], [8, "secondary", 1, nowMs, 1]);
});

test("F20: no limit counts it, no verification follows it, and neither hold, tilt nor limits keep the log from what is so", () => {
  const hold = { by: ann, reason: "work", sinceMs: 5, untilMs: null };
  const trial = { epoch: 3, kind: "failover", atMs: 1, untilMs: nowMs + 1, round: 0, tried: [], before: { ok: 0, hard: 0 }, failed: false };
  const moves = [{ atMs: nowMs - policy.cooldownMs, epoch: 3, from: "secondary", to: "primary", automatic: true }];
  const { state } = decidedBy({
    state: inForce({ held: hold, trial, moves }),
    clock: { tilted: true, freshAfterSeq: 0 },
    policy: { ...policy, automatic: false, movesPerHour: 0 },
    fleet: null,
  });
  assert.deepEqual([state.moves, state.held, state.trial], [moves, hold, null]);
});

test("F20: where the routers send their calls where the log does, its endpoint stays and only the epoch goes on; a hold stays a hold", () => {
  const same = seen({ active: "primary", heldBy: [{ router: "r1", active: "primary" }] });
  const loose = decidedBy({ ahead: same, state: inForce({ sinceMs: 42 }) });
  assert.deepEqual([loose.action, loose.previousEndpoint, loose.currentEndpoint], ["released", "primary", "primary"]);
  assert.deepEqual([loose.state.epoch, loose.state.sinceMs, loose.state.held], [8, 42, null]);
  const hold = { by: ann, reason: "work", sinceMs: 5, untilMs: null };
  const kept = decidedBy({ ahead: same, state: inForce({ held: hold }) });
  assert.deepEqual([kept.action, kept.state.held], ["held", hold]);
});

test("F20: a router apart from most is brought back to the log's route, and an endpoint that takes no writes is not taken over", () => {
  const apart = seen({ active: "primary", heldBy: [{ router: "r3", active: "secondary" }], others: 2 });
  const { previousEndpoint, currentEndpoint, state } = decidedBy({ ahead: apart });
  assert.deepEqual([previousEndpoint, currentEndpoint, state.active, state.epoch], ["secondary", "primary", "primary", 8]);
  const gone = decidedBy({ ahead: seen({ active: "gone", heldBy: [{ router: "r1", active: "gone" }] }) });
  assert.deepEqual([gone.currentEndpoint, gone.state.active], ["primary", "primary"]);
  assert.match(gone.reason, /gone is not configured here to take writes/);
});

test("F20: after an adoption the log's route is in force, in its generation, wherever the calls went", () => {
  const { action, previousEndpoint, currentEndpoint, state } = decidedBy({ generation: 2, seenEpoch: 0 });
  assert.deepEqual([action, previousEndpoint, currentEndpoint], ["moved", "secondary", "primary"]);
  assert.deepEqual([state.generation, state.epoch, state.active], [2, 4, "primary"]);
  assert.ok(isNewerRoute(state, { generation: 1, epoch: 7 }));
});

test("F20: a log of an older generation than the routers' decides nothing and says what to do", () => {
  const decision = decide({ ahead: seen({ generation: 2 }), evidence: { primary: dead(), secondary: allSay() } });
  assert.equal(ruleOf(decision), "failing log_of_older_generation");
  assert.match(decision.reason, /mcpf log adopt --reason/);
});

test("F20: at most once in a cool-down after a decision, and not before the grace after a start is over; a command is obeyed before it", () => {
  assert.equal(ruleOf(decide({ state: inForce({ decidedAtMs: nowMs - policy.cooldownMs + 1 }) })), "none active_healthy");
  assert.equal(decidedBy({ state: inForce({ decidedAtMs: nowMs + 3_600_000 }) }).action, "moved", "of another clock");
  assert.equal(ruleOf(decide({ graceUntilMs: nowMs + 1 })), "none active_healthy");
  assert.equal(decidedBy({ generation: 2, state: inForce({ decidedAtMs: nowMs }), graceUntilMs: nowMs + 1 }).action, "moved", "adopted");
  const command = { kind: "hold", commandId: "c", by: ann, reason: "wait", forMs: null } as const;
  assert.equal(decide({ command }).kind, "decided");
  assert.equal((decide({ command }) as { action?: string }).action, "held");
});

test("F20: what the log does not know is a newer route, or another decision at the place of its own, of a router that is alive", () => {
  assert.equal(
    ahead({ r1: held("primary", 3, "ours"), r2: held("secondary", 2), r3: held("primary", 0, null), r4: held("primary", 3, null) }),
    null,
  );
  assert.deepEqual(ahead({ r1: held("secondary", 3, "theirs") })?.heldBy, [{ router: "r1", active: "secondary" }]);
  assert.equal(ahead({ r1: held("secondary", 7) }, log, policy.routerLiveMs + 1), null);
  assert.equal(
    ahead({ r1: held("secondary", 1, "x") }, { generation: 1, epoch: 0, id: null } as never)?.epoch,
    1,
    "a log without any decision",
  );
  assert.equal(ahead({ r1: held("secondary", 7) }, { generation: 2, epoch: 0, id: null } as never)?.epoch, 7, "adopted without any");
  const most = ahead({ r1: held("secondary", 7), r2: held("primary", 3, "ours"), r3: held("primary", 3, "ours") });
  assert.deepEqual([most?.active, most?.others], ["primary", 2]);
  const even = ahead({ r1: held("secondary", 7), r2: held("primary", 3, "ours") });
  assert.deepEqual([even?.active, even?.others, even?.epoch], ["secondary", 1, 7]);
});

test("F20: the routers are named in order, some of many, and all are counted", () => {
  const three = ahead({ c: held("secondary", 7), a: held("secondary", 6), b: held("primary", 8), d: held("primary", 3, "ours") });
  assert.deepEqual(
    three?.heldBy.map(({ router, active }) => `${router} ${active}`),
    ["a secondary", "b primary", "c secondary"],
  );
  assert.deepEqual([three?.epoch, three?.active, three?.others], [8, "primary", 1], "two each, and the newest leads to primary");
  const names = Array.from({ length: 30 }, (_, index) => `r${String(index).padStart(2, "0")}`);
  const many = ahead(
    Object.fromEntries([...names, "z"].map((name) => [name, name === "z" ? held("primary", 3, "ours") : held("secondary", 7)])),
  );
  assert.deepEqual([many?.heldBy.length, many?.heldBy[19]?.router, many?.others], [20, "r19", 1]);
  const of = (heldBy: RouteAhead["heldBy"]): string => decidedBy({ ahead: seen({ heldBy }) }).reason;
  assert.match(of([{ router: "r1", active: "secondary" }]), /^router r1 holds a route to secondary \(decision 7 of generation 1\)/);
  assert.match(of(seen().heldBy), /^router r1 and 1 more hold a route to secondary/);
});

test("F20: a verification of the log's endpoint goes on where it stays, and the endpoint that was left is named first where it does not", () => {
  const trial = { epoch: 3, kind: "failover", atMs: 1, untilMs: nowMs + 1, round: 0, tried: [], before: { ok: 0, hard: 0 }, failed: false };
  const same = seen({ active: "primary", heldBy: [{ router: "r1", active: "primary" }] });
  assert.deepEqual(decidedBy({ ahead: same, state: inForce({ trial }) }).state.trial, trial);
  assert.equal("trial" in decidedBy({}).state, false, "where there was none");
  const { previousEndpoint, rejected } = decidedBy({});
  assert.deepEqual([previousEndpoint, rejected], ["primary", [{ option: "primary", why: "secondary is in force" }]]);
  assert.deepEqual(decidedBy({ ahead: same }).rejected, []);
});

test("F20: whatever live routers hold, one decision is above all of it, and once they follow nothing is ahead any more", () => {
  const route = fc.record({
    generation: fc.integer({ min: 1, max: 2 }),
    epoch: fc.integer({ min: 0, max: 5 }),
    id: fc.constantFrom("a", "b"),
    active: fc.constantFrom("primary", "secondary", "gone"),
  });
  fc.assert(
    fc.property(fc.array(route, { maxLength: 4 }), fc.integer({ min: 0, max: 5 }), fc.constantFrom(1, 2, 3), (drawn, epoch, generation) => {
      const routes = Object.fromEntries(
        drawn.map((one, index) => [`r${index}`, held(one.active, one.epoch, one.epoch === 0 ? null : one.id, one.generation)]),
      );
      const routers = fleet(routes);
      const known = { generation: epoch === 0 ? generation : 1, epoch, id: epoch === 0 ? null : "a" };
      const found = routeAhead(routers, "shop", known, { liveMs: policy.routerLiveMs, nowMs });
      if (found === null) return;
      const ofThis = drawn.filter((one) => one.generation === generation).map((one) => one.epoch);
      const decision = decide({ ahead: found, generation, seenEpoch: Math.max(0, ...ofThis), state: inForce({ epoch }) });
      if (found.generation > generation) {
        assert.equal(decision.kind, "failing");
        return;
      }
      assert.ok(decision.kind === "decided");
      const { state } = decision;
      assert.ok(drawn.every((one) => one.epoch === 0 || isNewerRoute(state, one)));
      assert.ok(["primary", "secondary"].includes(state.active));
      const followed = fleet(
        Object.fromEntries(drawn.map((_, index) => [`r${index}`, held(state.active, state.epoch, "new", state.generation)])),
      );
      assert.equal(routeAhead(followed, "shop", { ...state, id: "new" }, { liveMs: policy.routerLiveMs, nowMs }), null);
    }),
  );
});
