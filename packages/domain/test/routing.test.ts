import assert from "node:assert/strict";
import { test } from "node:test";
import {
  availabilityOf,
  chooseImplementation,
  defaultPolicy,
  isNewerRoute,
  planRoute,
  type RouteEndpoint,
  type RouteQuestion,
  whyNot,
} from "@mcp-failover/domain";
import fc from "fast-check";

const policy = defaultPolicy.router;
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
const pair = (primary: Partial<RouteEndpoint> = {}, secondary: Partial<RouteEndpoint> = {}) => [
  endpoint("primary", primary),
  endpoint("secondary", { tier: 1, ...secondary }),
];
const question = (given: Partial<RouteQuestion> = {}): RouteQuestion => ({
  mode: "active_standby",
  active: "primary",
  activeTier: 0,
  strategy: "health_weighted",
  safety: "read_only",
  sessions: "replayable",
  sessionEndpoint: null,
  tried: [],
  again: false,
  mayWait: false,
  endpoints: pair(),
  random: 0.3,
  turn: 0,
  nowMs: 1000,
  ...given,
});
const ejected = { localAllows: false, lastFailedAtMs: 900 } as const;
const sick = { health: "unhealthy", score: 0 } as const;

const anyEndpoints = fc
  .array(
    fc.record({
      tier: fc.integer({ min: 0, max: 2 }),
      role: fc.constantFrom("write", "read"),
      zone: fc.constantFrom(null, "a", "b"),
      usable: fc.boolean(),
      health: fc.constantFrom("healthy", "degraded", "unhealthy", "unknown"),
      score: fc.double({ min: 0, max: 1, noNaN: true }),
      breaker: fc.constantFrom("closed", "open", "half_open", "forced_open", "disabled", "metrics_only"),
      breakerAllows: fc.boolean(),
      localAllows: fc.boolean(),
      inFlight: fc.integer({ min: 0, max: 9 }),
      lastFailedAtMs: fc.option(fc.integer({ min: 0, max: 999 })),
    }),
    { minLength: 1, maxLength: 6 },
  )
  .map((all) => all.map((one, index) => endpoint(`e${index}`, one as Partial<RouteEndpoint>)));
const anyQuestion = anyEndpoints.chain((endpoints) => {
  const anyName = fc.constantFrom(...endpoints.map(({ name }) => name), "gone");
  return fc
    .record({
      mode: fc.constantFrom("active_standby", "pool"),
      active: anyName,
      activeTier: fc.integer({ min: 0, max: 2 }),
      strategy: fc.constantFrom("health_weighted", "round_robin", "least_connections", "peak_ewma"),
      safety: fc.constantFrom("read_only", "idempotent", "unsafe"),
      sessions: fc.constantFrom("stateless", "replayable", "sticky"),
      sessionEndpoint: fc.option(anyName),
      tried: fc.array(anyName, { maxLength: 4 }),
      again: fc.boolean(),
      mayWait: fc.boolean(),
      random: fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
      turn: fc.nat(1000),
      zone: fc.constantFrom(null, "a"),
    })
    .map((given) => question({ ...given, endpoints } as Partial<RouteQuestion>));
});
const runs = { numRuns: 2000 };

test("T1: in active_standby a call that may write goes to the active endpoint or nowhere, and never to a read endpoint in any mode", () => {
  fc.assert(
    fc.property(anyQuestion, (asked) => {
      const { endpoint: picked } = planRoute(asked);
      if (picked === null || asked.safety === "read_only") return;
      assert.equal(asked.endpoints.find(({ name }) => name === picked)?.role, "write");
      if (asked.mode === "active_standby") assert.equal(picked, asked.active);
    }),
    runs,
  );
});

test("T2: an endpoint that is forced open or cannot be used gets nothing, not even in panic", () => {
  fc.assert(
    fc.property(anyQuestion, (asked) => {
      const picked = asked.endpoints.find(({ name }) => name === planRoute(asked).endpoint);
      if (picked) assert.ok(picked.usable && picked.breaker !== "forced_open");
    }),
    runs,
  );
});

test("T3: outside of panic an endpoint that is out gets nothing, and panic is never called while a read may go to a good untried one", () => {
  fc.assert(
    fc.property(anyQuestion, (asked) => {
      const plan = planRoute(asked);
      const picked = asked.endpoints.find(({ name }) => name === plan.endpoint);
      if (picked && plan.rule !== "panic") assert.notEqual(availabilityOf(picked, null), "out", plan.rule);
      if (plan.rule === "panic" && asked.mode === "active_standby" && asked.safety === "read_only" && asked.sessions !== "sticky") {
        const good = asked.endpoints.filter((one) => !asked.tried.includes(one.name) && availabilityOf(one, policy.scoreMin) === "good");
        assert.deepEqual(good, []);
      }
    }),
    runs,
  );
});

test("T4: a read finds an endpoint as long as one is neither barred nor tried", () => {
  fc.assert(
    fc.property(anyQuestion, (asked) => {
      if (asked.safety !== "read_only" || asked.sessions === "sticky") return;
      const left = asked.endpoints.filter((one) => !asked.tried.includes(one.name) && availabilityOf(one, null) !== "barred");
      if (left.length > 0) assert.notEqual(planRoute(asked).endpoint, null);
    }),
    runs,
  );
});

test("T5: a sticky session's call goes to the endpoint that holds it or nowhere", () => {
  fc.assert(
    fc.property(anyQuestion, (asked) => {
      const { endpoint: picked } = planRoute(asked);
      if (picked !== null && asked.sessions === "sticky" && asked.sessionEndpoint !== null) assert.equal(picked, asked.sessionEndpoint);
    }),
    runs,
  );
});

test("T6: asking until the end tries no endpoint more than twice, and ends", () => {
  fc.assert(
    fc.property(anyQuestion, (first) => {
      let asked = { ...first, tried: [] as string[] };
      for (let attempt = 0; ; attempt += 1) {
        assert.ok(attempt <= 2 * asked.endpoints.length);
        const { endpoint: picked } = planRoute(asked);
        if (picked === null) break;
        asked = { ...asked, tried: [...asked.tried, picked], again: true };
      }
      for (const { name } of asked.endpoints) assert.ok(asked.tried.filter((tried) => tried === name).length <= 2);
    }),
    runs,
  );
});

test("a read goes to the active endpoint, when that is ejected to the standby, and when all are ejected to the oldest failure", () => {
  assert.deepEqual(planRoute(question()), { endpoint: "primary", rule: "active" });
  assert.deepEqual(planRoute(question({ endpoints: pair(ejected) })), { endpoint: "secondary", rule: "standby" });
  assert.deepEqual(planRoute(question({ endpoints: pair(sick) })), { endpoint: "secondary", rule: "standby" });
  assert.deepEqual(planRoute(question({ endpoints: pair({ breaker: "open", breakerAllows: false }) })), {
    endpoint: "secondary",
    rule: "standby",
  });
  const bothOut = pair({ ...ejected, lastFailedAtMs: 950 }, { ...ejected, lastFailedAtMs: 940 });
  assert.deepEqual(planRoute(question({ endpoints: bothOut })), { endpoint: "secondary", rule: "panic" });
  assert.deepEqual(planRoute(question({ endpoints: bothOut, tried: ["secondary"] })), { endpoint: "primary", rule: "panic" });
  assert.deepEqual(planRoute(question({ endpoints: bothOut, tried: ["secondary", "primary"] })), { endpoint: null, rule: "none_left" });
});

test("unknown is not unhealthy: the active endpoint keeps its reads, an unknown standby comes after a healthy one", () => {
  const unknown = { health: "unknown", score: 0.5 } as const;
  assert.equal(planRoute(question({ endpoints: pair(unknown) })).endpoint, "primary");
  const three = [endpoint("primary", sick), endpoint("second", { tier: 1, ...unknown }), endpoint("third", { tier: 2 })];
  assert.equal(planRoute(question({ endpoints: three })).endpoint, "third");
  assert.deepEqual(planRoute(question({ endpoints: three, tried: ["third"] })), { endpoint: "second", rule: "unproven" });
});

test("a write that the active endpoint cannot take waits where it may, and never goes to the standby", () => {
  const asked = question({ safety: "unsafe", endpoints: pair(ejected) });
  assert.deepEqual(planRoute({ ...asked, mayWait: true }), { endpoint: null, rule: "wait" });
  assert.deepEqual(planRoute(asked), { endpoint: "primary", rule: "panic" }, "waiting is over: it may have come back");
  assert.deepEqual(planRoute({ ...asked, tried: ["primary"] }), { endpoint: null, rule: "none_left" });
  const moved = { ...asked, active: "secondary", tried: ["primary"], mayWait: true };
  assert.deepEqual(planRoute(moved), { endpoint: "secondary", rule: "active" }, "the fleet has moved the upstream");
});

test("a write does not go into an open breaker while anything else is up, and does when nothing is", () => {
  const open = { breaker: "open", breakerAllows: false } as const;
  assert.equal(planRoute(question({ safety: "unsafe", endpoints: pair(open) })).rule, "breaker_open");
  assert.deepEqual(planRoute(question({ safety: "unsafe", endpoints: pair(open, sick) })), { endpoint: "primary", rule: "panic" });
});

test("an operator's disabled breaker keeps this process's own breaker from stopping calls", () => {
  assert.equal(planRoute(question({ endpoints: pair({ ...ejected, breaker: "disabled" }) })).endpoint, "primary");
  assert.equal(planRoute(question({ endpoints: pair({ ...ejected, breaker: "metrics_only" }) })).endpoint, "primary");
});

test("T8: a pool sends calls to the next tier only as far as the active tier cannot carry them", () => {
  const tierOf = (sickCount: number, random: number) => {
    const endpoints = [0, 1, 2, 3, 4].map((index) => endpoint(`a${index}`, index < sickCount ? sick : {}));
    return planRoute(
      question({ mode: "pool", endpoints: [...endpoints, endpoint("b0", { tier: 1 }), endpoint("b1", { tier: 1 })], random }),
    );
  };
  const spilled = (sickCount: number) =>
    Array.from({ length: 1000 }, (_, index) => tierOf(sickCount, index / 1000)).filter(({ rule }) => rule === "spill_over").length / 1000;
  assert.equal(spilled(0), 0);
  assert.equal(spilled(1), 0, "80 % healthy x 1.4 carries all");
  assert.ok(Math.abs(spilled(3) - 0.44) < 0.01, "40 % healthy x 1.4 carries 56 %");
  assert.equal(spilled(5), 1);
});

test("T8: after a move the active tier comes first, then the tiers behind it, and the tier that was left last", () => {
  const endpoints = [endpoint("t0"), endpoint("t1", { tier: 1, ...sick }), endpoint("t2", { tier: 2 })];
  const asked = question({ mode: "pool", activeTier: 1, endpoints });
  assert.equal(planRoute(asked).endpoint, "t2");
  assert.equal(planRoute({ ...asked, tried: ["t2"] }).endpoint, "t0");
});

test("T4: a pool with under half healthy and no tier that can carry the calls ignores health, but not its own refusals", () => {
  const endpoints = [endpoint("well"), endpoint("sick1", sick), endpoint("sick2", sick), endpoint("refused", { ...sick, ...ejected })];
  const got = new Set(
    Array.from({ length: 200 }, (_, index) => planRoute(question({ mode: "pool", endpoints, random: index / 200 })).endpoint),
  );
  assert.deepEqual([...got].sort(), ["sick1", "sick2", "well"]);
});

test("a pool keeps a session at its endpoint as long as that is good, and balances it anew when it is not", () => {
  const asked = question({ mode: "pool", sessionEndpoint: "secondary", endpoints: [endpoint("primary"), endpoint("secondary")] });
  assert.deepEqual(planRoute(asked), { endpoint: "secondary", rule: "session" });
  assert.equal(planRoute({ ...asked, endpoints: [endpoint("primary"), endpoint("secondary", ejected)] }).endpoint, "primary");
});

test("a sticky session whose endpoint lost its writes is said to be lost, never moved in silence", () => {
  const asked = question({ sessions: "sticky", sessionEndpoint: "primary", active: "secondary", safety: "unsafe" });
  assert.deepEqual(planRoute(asked), { endpoint: null, rule: "session_lost" });
  assert.deepEqual(planRoute({ ...asked, safety: "read_only" }), { endpoint: "primary", rule: "session" });
  assert.deepEqual(planRoute({ ...asked, sessionEndpoint: "gone" }), { endpoint: null, rule: "session_lost" });
});

test("T7: of two routes only the one later by generation, then epoch, is applied", () => {
  const order = fc.record({ generation: fc.nat(3), epoch: fc.nat(5) });
  fc.assert(
    fc.property(order, order, (a, b) => {
      const equal = a.generation === b.generation && a.epoch === b.epoch;
      assert.equal(isNewerRoute(a, b), !equal && !isNewerRoute(b, a), "exactly one of two different routes is the newer");
      assert.equal(isNewerRoute(a, null), true);
    }),
  );
  assert.equal(isNewerRoute({ generation: 2, epoch: 1 }, { generation: 1, epoch: 57 }), true);
  assert.equal(isNewerRoute({ generation: 1, epoch: 56 }, { generation: 1, epoch: 57 }), false);
});

test("a ramp sends the given share of the calls to MCP, the same call always to the same side, and the strictest scope wins", () => {
  const side = (mcpPercents: number[], callKey: string, given: object = {}) =>
    chooseImplementation({ hasLegacy: true, legacyMode: false, mcpPercents, callKey, ...given });
  for (const percent of [0, 1, 5, 25, 50, 100]) {
    const toMcp = Array.from({ length: 20_000 }, (_, index) => side([percent], `router-1/${index}`)).filter((one) => one === "mcp").length;
    assert.ok(Math.abs(toMcp / 20_000 - percent / 100) < 0.01, `${percent} %: ${toMcp}`);
  }
  fc.assert(
    fc.property(fc.string(), fc.integer({ min: 0, max: 100 }), (key, percent) => side([percent], key) === side([percent, 100], key)),
  );
  assert.equal(side([100, 0, 100], "x"), "legacy");
  assert.equal(side([], "x"), "mcp");
  assert.equal(side([0], "x", { hasLegacy: false }), "mcp", "there is nothing to roll back to");
  assert.equal(side([], "x", { legacyMode: true }), "legacy");
});

test("T10: calls stay in the zone of their router; what is left there when half of it is out carries only its share", () => {
  const zoned = (given: readonly Partial<RouteEndpoint>[]) => given.map((one, index) => endpoint(`e${index}`, one));
  const shareNear = (endpoints: RouteEndpoint[], more: Partial<RouteQuestion> = {}): number => {
    let near = 0;
    const calls = 4000;
    for (let call = 0; call < calls; call += 1) {
      const random = (call * 0.618_033_988_749_895) % 1;
      const plan = planRoute(question({ mode: "pool", zone: "a", endpoints, random, turn: call, ...more }));
      if (endpoints.find(({ name }) => name === plan.endpoint)?.zone === "a") near += 1;
    }
    return near / calls;
  };
  const four = [{ zone: "a" }, { zone: "a" }, { zone: "b" }, { zone: "b" }];
  for (const strategy of ["health_weighted", "round_robin", "least_connections", "peak_ewma"] as const)
    assert.equal(shareNear(zoned(four), { strategy }), 1, strategy);
  assert.ok(Math.abs(shareNear(zoned(four), { zone: null }) - 0.5) < 0.05, "a router without a zone spreads them");
  assert.ok(Math.abs(shareNear(zoned(four), { zone: "c" }) - 0.5) < 0.05, "so does one where there is nothing");
  const weak = shareNear(zoned([{ zone: "a" }, { zone: "a", ...sick }, { zone: "b" }, { zone: "b" }, { zone: "b" }]));
  assert.ok(weak > 0.7 && weak < 0.85, `70 %, and a quarter of the rest: ${weak}`);
  assert.equal(shareNear(zoned([{ zone: "a", score: 0.1 }, { zone: "b" }, { zone: "b" }])), 0, "its zone alone gets nothing a call");
  assert.equal(shareNear(zoned([{ zone: "b" }, { zone: "a", tier: 1 }])), 0, "tiers go before zones");
});

test("T10: a read that leaves the active endpoint goes to a standby of its zone, among those of the same tier", () => {
  const endpoints = [
    endpoint("primary", ejected),
    endpoint("far", { tier: 1, zone: "b" }),
    endpoint("near", { tier: 1, zone: "a" }),
    endpoint("behind", { tier: 2, zone: "a" }),
  ];
  assert.equal(planRoute(question({ endpoints, zone: "a" })).endpoint, "near");
  assert.equal(planRoute(question({ endpoints, zone: "b" })).endpoint, "far");
  assert.equal(planRoute(question({ endpoints })).endpoint, "far");
});

test("whyNot names the reason exactly where an endpoint is out or barred", () => {
  fc.assert(
    fc.property(anyEndpoints, (endpoints) => {
      for (const one of endpoints) {
        const availability = availabilityOf(one, policy.scoreMin);
        assert.equal(whyNot(one) !== null, availability === "out" || availability === "barred", `${availability}: ${whyNot(one)}`);
      }
    }),
    { numRuns: 500 },
  );
});
