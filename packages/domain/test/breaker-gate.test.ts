import assert from "node:assert/strict";
import { test } from "node:test";
import type { BreakerStatus } from "@mcp-failover/contracts";
import { type BreakerGateQuestion, breakerGate, planRoute, type RouteEndpoint, type RouteQuestion } from "@mcp-failover/domain";
import fc from "fast-check";

const ask = (given: Partial<BreakerGateQuestion>) =>
  breakerGate({ state: null, router: "r1", permitsUsed: 0, answeredRun: 0, logReachable: true, nowMs: 1000, ...given });
const open = { status: "open", sinceMs: 500, openUntilMs: 2000, permits: [] } as const;
const half = { status: "half_open", sinceMs: 500, openUntilMs: null, permits: [{ router: "r1", calls: 2, expiresAtMs: 3000 }] } as const;

test("G2: permits are counted, and an open breaker denies until the fleet moves it on", () => {
  assert.equal(ask({}), "allow");
  assert.equal(ask({ state: open }), "deny");
  assert.equal(ask({ state: open, nowMs: 2000 }), "deny", "the fleet decides when it is half open");
  assert.equal(ask({ state: half }), "permit");
  assert.equal(ask({ state: half, permitsUsed: 2 }), "surplus");
  assert.equal(ask({ state: half, nowMs: 3000 }), "surplus", "expired");
  assert.equal(ask({ state: { ...half, permits: [] }, nowMs: 1000 }), "surplus", "a router that came later has no permit");
});

test("G2: a router that came when everybody had got a permit makes one call at a time; one that was there and got none makes none", () => {
  assert.equal(ask({ state: half, router: "r2" }), "turn");
  assert.equal(ask({ state: half, router: "r2", answeredRun: 9 }), "turn", "what it sees alone closes nothing");
  const all = { ...half, permits: ["r1", "r3"].map((router) => ({ router, calls: 1, expiresAtMs: 3000 })) };
  assert.equal(ask({ state: all, router: "r2" }), "surplus", "there were more routers than calls");
});

test("G3: without the log, or with nobody left to move it on, single trials go through, and three answers close it for this process", () => {
  assert.equal(ask({ state: open, nowMs: 1999, logReachable: false }), "deny");
  assert.equal(ask({ state: open, nowMs: 2000, logReachable: false }), "trial");
  assert.equal(ask({ state: open, nowMs: 7000 }), "trial", "its keepers are gone");
  assert.equal(ask({ state: half, logReachable: false }), "permit");
  assert.equal(ask({ state: half, permitsUsed: 2, logReachable: false }), "trial");
  assert.equal(ask({ state: half, nowMs: 8000 }), "trial");
  for (const state of [open, half]) {
    assert.equal(ask({ state, permitsUsed: 9, answeredRun: 2, nowMs: 9000, logReachable: false }), "trial");
    assert.equal(ask({ state, permitsUsed: 9, answeredRun: 3, nowMs: 9000, logReachable: false }), "allow");
    assert.equal(ask({ state, permitsUsed: 9, answeredRun: 3, nowMs: 1500, logReachable: true }), state === open ? "deny" : "surplus");
  }
});

test("G1, G2 hold for any permits, counts and times", () => {
  const state = fc.record({
    status: fc.constantFrom<BreakerStatus>("closed", "open", "half_open", "forced_open", "disabled", "metrics_only"),
    sinceMs: fc.constant(0),
    openUntilMs: fc.integer({ min: 0, max: 20_000 }),
    permits: fc.array(
      fc.record({ router: fc.constantFrom("r1", "r2"), calls: fc.integer({ min: 1, max: 5 }), expiresAtMs: fc.nat(20_000) }),
      { maxLength: 2 },
    ),
  });
  const rest = fc.record({ permitsUsed: fc.nat(8), answeredRun: fc.nat(5), logReachable: fc.boolean(), nowMs: fc.nat(40_000) });
  fc.assert(
    fc.property(state, rest, (breaker, given) => {
      const gate = ask({ state: breaker, ...given });
      if (breaker.status === "forced_open") return assert.equal(gate, "deny", "G1");
      if (breaker.status === "disabled" || breaker.status === "metrics_only" || breaker.status === "closed")
        return assert.equal(gate, "allow", "G1");
      if (breaker.status === "half_open" && gate === "permit") {
        const mine = breaker.permits.find(({ router }) => router === "r1");
        assert.ok(mine && given.permitsUsed < mine.calls && given.nowMs < mine.expiresAtMs, "G2");
      }
      const lastMs =
        breaker.status === "open" ? breaker.openUntilMs : Math.max(0, ...breaker.permits.map(({ expiresAtMs }) => expiresAtMs));
      if (given.logReachable && given.nowMs < lastMs) assert.ok(gate !== "trial" && gate !== "allow", "G2: the fleet decides");
    }),
    { numRuns: 2000 },
  );
});

const endpoint = (name: string, given: Partial<RouteEndpoint> = {}): RouteEndpoint => ({
  name,
  tier: 0,
  role: "write",
  usable: true,
  weight: 1,
  health: "healthy",
  score: 1,
  breaker: "closed",
  breakerAllows: true,
  localAllows: true,
  inFlight: 0,
  ewmaMs: 10,
  recoveredAtMs: null,
  lastFailedAtMs: null,
  ...given,
});
const used = { breaker: "half_open", breakerAllows: false, verdictDue: true } as const;
const question = (given: Partial<RouteQuestion>): RouteQuestion => ({
  mode: "active_standby",
  active: "a",
  activeTier: 0,
  strategy: "health_weighted",
  safety: "read_only",
  sessions: "replayable",
  sessionEndpoint: null,
  tried: [],
  again: false,
  mayWait: false,
  mayWaitVerdict: false,
  endpoints: [endpoint("a", used)],
  random: 0.3,
  turn: 0,
  nowMs: 1000,
  ...given,
});

test("T9: beyond the permit a call goes elsewhere, waits for the verdict, or ends with that reason: in no mode, kind or panic does it get through", () => {
  for (const mode of ["active_standby", "pool"] as const) {
    for (const safety of ["read_only", "idempotent", "unsafe"] as const) {
      for (const sessionEndpoint of [null, "a"]) {
        const given = { mode, safety, sessionEndpoint, sessions: sessionEndpoint === null ? "replayable" : "sticky" } as const;
        assert.deepEqual(planRoute(question(given)), { endpoint: null, rule: "half_open" });
        assert.deepEqual(planRoute(question({ ...given, mayWaitVerdict: true })), { endpoint: null, rule: "wait" });
      }
    }
    const beside = (other: Partial<RouteEndpoint>) => [
      endpoint("a", used),
      endpoint("b", { ...(mode === "pool" ? {} : { tier: 1 }), ...other }),
    ];
    assert.equal(planRoute(question({ mode, endpoints: beside({}) })).endpoint, "b", "elsewhere");
    const dead = { health: "unhealthy", score: 0, localAllows: false } as const;
    assert.equal(planRoute(question({ mode, endpoints: beside(dead), mayWaitVerdict: true })).rule, "wait", "rather than panic");
    assert.deepEqual(
      planRoute(question({ mode, endpoints: beside(dead) })),
      { endpoint: "b", rule: "panic" },
      "and not to the half-open one",
    );
  }
});

test("an endpoint that asked to be left alone gets only what has nowhere else to go", () => {
  const resting = [endpoint("a", { resting: true }), endpoint("b", { tier: 1 })];
  assert.equal(planRoute(question({ endpoints: resting })).endpoint, "b");
  assert.equal(planRoute(question({ endpoints: resting, safety: "unsafe" })).endpoint, "a", "a write may go nowhere else");
  assert.equal(planRoute(question({ endpoints: [endpoint("a", { resting: true })] })).endpoint, "a");
  const pool = [endpoint("a", { resting: true }), endpoint("b"), endpoint("c")];
  for (let random = 0; random < 1; random += 0.05)
    assert.notEqual(planRoute(question({ mode: "pool", endpoints: pool, random })).endpoint, "a");
});

test("T9 holds for any endpoints and any call", () => {
  const one = fc.record({
    health: fc.constantFrom("healthy" as const, "unhealthy" as const, "unknown" as const, "degraded" as const),
    tier: fc.nat(2),
    role: fc.constantFrom("write" as const, "read" as const),
    localAllows: fc.boolean(),
    score: fc.constantFrom(0.1, 1),
    resting: fc.boolean(),
    verdictDue: fc.boolean(),
    lastFailedAtMs: fc.option(fc.nat(900)),
  });
  const call = fc.record({
    mode: fc.constantFrom("active_standby" as const, "pool" as const),
    safety: fc.constantFrom("read_only" as const, "idempotent" as const, "unsafe" as const),
    sessions: fc.constantFrom("stateless" as const, "sticky" as const),
    sessionEndpoint: fc.option(fc.constantFrom("e0", "e1")),
    tried: fc.array(fc.constantFrom("e0", "e1", "e2"), { maxLength: 3 }),
    again: fc.boolean(),
    mayWait: fc.boolean(),
    mayWaitVerdict: fc.boolean(),
    random: fc.double({ min: 0, max: 0.999, noNaN: true }),
  });
  fc.assert(
    fc.property(fc.array(one, { minLength: 1, maxLength: 4 }), call, (many, given) => {
      const endpoints = many.map((some, index) =>
        endpoint(`e${index}`, { ...some, ...(some.verdictDue ? { breaker: "half_open", breakerAllows: false } : {}) }),
      );
      const plan = planRoute(question({ ...given, active: "e0", activeTier: endpoints[0]?.tier ?? 0, endpoints }));
      const picked = endpoints.find(({ name }) => name === plan.endpoint);
      assert.notEqual(picked?.verdictDue, true, JSON.stringify(plan));
      if (plan.rule === "half_open") assert.equal(given.mayWaitVerdict, false);
      if (plan.rule === "wait") assert.ok(given.mayWait || given.mayWaitVerdict);
    }),
    { numRuns: 2000 },
  );
});
