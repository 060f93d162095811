import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  chargeHedge,
  defaultPolicy,
  hedgeKeyOf,
  hedgeTarget,
  hedgeTokens,
  initialHedgeBudget,
  lateAfterMs,
  mayHedge,
  type RouteEndpoint,
  type RouteQuestion,
  safetyOf,
} from "../src/index.ts";

const policy = defaultPolicy.router.hedge;

test("E1: only what is known to be a read is hedged, and of the reads nothing that begins or follows a session", () => {
  const read = { kind: "mcp", safety: "read_only" } as const;
  assert.equal(hedgeKeyOf({ ...read, method: "tools/call", tool: "get" }), "get");
  assert.equal(hedgeKeyOf({ ...read, method: "resources/read", tool: null }), "resources/read");
  assert.equal(hedgeKeyOf({ kind: "http", method: "GET", tool: null, safety: "read_only" }), "GET");
  for (const method of ["initialize", "ping", "subscriptions/listen", "resources/subscribe", "logging/setLevel", "tasks/result"]) {
    assert.equal(hedgeKeyOf({ ...read, method, tool: null }), null, method);
  }
  fc.assert(
    fc.property(
      fc.record({
        kind: fc.constantFrom("mcp" as const, "http" as const),
        method: fc.constantFrom("tools/call", "tools/list", "resources/read", "GET", "POST", "PUT", "DELETE", "prompts/get"),
        tool: fc.option(fc.constantFrom("get", "set"), { nil: null }),
        safety: fc.constantFrom("idempotent" as const, "unsafe" as const),
      }),
      (call) => hedgeKeyOf(call) === null,
    ),
  );
  const untrusted = { kind: "mcp", method: "tools/call", annotations: { readOnlyHint: true }, trusted: false, operator: null } as const;
  assert.equal(hedgeKeyOf({ ...untrusted, tool: "get", safety: safetyOf(untrusted) }), null, "a hint of an untrusted server is no proof");
});

test("E2: over any run of calls at most a burst and a share of them are hedged", () => {
  fc.assert(
    fc.property(fc.array(fc.boolean(), { maxLength: 400, size: "max" }), (wishes) => {
      let budget = initialHedgeBudget(0, policy);
      let hedged = 0;
      for (const [index, wish] of wishes.entries()) {
        if (!wish || hedgeTokens(budget, index + 1, policy) < 1) continue;
        budget = chargeHedge(budget, index + 1, policy);
        hedged += 1;
      }
      assert.ok(hedged <= policy.burst + policy.ratio * wishes.length);
    }),
  );
  assert.equal(hedgeTokens(initialHedgeBudget(0, policy), 1_000_000, policy), policy.burst, "what is saved up has an end");
});

const asked = { key: "get", waitedMs: 400, p95Ms: 250, leftMs: 5000, hedgeTokens: 1, retryTokens: 1, queued: false };

test("E2, E3: not before its time, not unless the usual time is known, not without either budget, nor while calls wait", () => {
  assert.equal(mayHedge(asked), true);
  assert.equal(mayHedge({ ...asked, waitedMs: 249 }), false);
  assert.equal(mayHedge({ ...asked, p95Ms: null, waitedMs: 60_000 }), false);
  assert.equal(mayHedge({ ...asked, p95Ms: 5, waitedMs: policy.afterMsMin - 1 }), false);
  assert.equal(mayHedge({ ...asked, hedgeTokens: 0.9 }), false);
  assert.equal(mayHedge({ ...asked, retryTokens: 0.9 }), false);
  assert.equal(mayHedge({ ...asked, queued: true }), false);
  assert.equal(mayHedge({ ...asked, leftMs: 0 }), false);
  assert.equal(mayHedge({ ...asked, key: null }), false);
  assert.equal(mayHedge(asked, { ...policy, enabled: false }), false);
  assert.equal(lateAfterMs(2500), 2500);
  assert.equal(lateAfterMs(5), policy.afterMsMin);
});

const names = ["a", "b", "c"] as const;
const endpoint = (name: string, given: Partial<RouteEndpoint> = {}): RouteEndpoint => ({
  name,
  tier: 0,
  role: "write",
  usable: true,
  health: "healthy",
  score: 1,
  weight: 1,
  breaker: "closed",
  breakerAllows: true,
  localAllows: true,
  recoveredAtMs: null,
  inFlight: 0,
  ewmaMs: null,
  lastFailedAtMs: null,
  ...given,
});
const question = (given: Partial<RouteQuestion> = {}): RouteQuestion => ({
  mode: "active_standby",
  active: "a",
  activeTier: 0,
  strategy: "health_weighted",
  safety: "read_only",
  sessions: "replayable",
  sessionEndpoint: "a",
  tried: ["a"],
  again: false,
  mayWait: true,
  endpoints: names.map((name) => endpoint(name)),
  random: 0.4,
  turn: 1,
  nowMs: 0,
  ...given,
});

test("E4: the second endpoint is another good one with a closed breaker; none for a sticky session, and none in panic", () => {
  assert.equal(hedgeTarget(question()), "b");
  assert.equal(hedgeTarget(question({ tried: ["b"] })), "a", "from a standby it goes to the active one");
  assert.equal(hedgeTarget(question({ sessions: "sticky" })), null);
  assert.equal(hedgeTarget(question({ endpoints: [endpoint("a"), endpoint("b", { resting: true }), endpoint("c")] })), "c");
  const panic = [endpoint("a", { localAllows: false }), endpoint("b", { health: "unhealthy" }), endpoint("c")];
  assert.equal(hedgeTarget(question({ endpoints: panic })), null);
});

/** Most endpoints are well, else nothing would ever be hedged. */
const mostly = <const V, W>(value: V, others: fc.Arbitrary<W>): fc.Arbitrary<V | W> =>
  fc.oneof({ weight: 8, arbitrary: fc.constant(value) }, { weight: 1, arbitrary: others });

test("E1, E4: whatever the state of the endpoints, a hedge goes to none that is tried, out, half-open or not healthy, and a write to none at all", () => {
  const any = (name: string) =>
    fc
      .record({
        tier: fc.constantFrom(0, 1),
        role: fc.constantFrom("write" as const, "read" as const),
        usable: mostly(true, fc.boolean()),
        health: mostly("healthy", fc.constantFrom("degraded" as const, "unhealthy" as const, "unknown" as const)),
        score: mostly(1, fc.constantFrom(0.1, 0.5)),
        breaker: mostly("closed", fc.constantFrom("open" as const, "half_open" as const, "forced_open" as const, "disabled" as const)),
        breakerAllows: mostly(true, fc.boolean()),
        localAllows: mostly(true, fc.boolean()),
        resting: mostly(false, fc.boolean()),
      })
      .map((given) => endpoint(name, given));
  let hedged = 0;
  fc.assert(
    fc.property(
      fc.tuple(any("a"), any("b"), any("c")),
      fc.constantFrom("active_standby" as const, "pool" as const),
      fc.constantFrom("read_only" as const, "idempotent" as const, "unsafe" as const),
      fc.constantFrom(...names),
      fc.double({ min: 0, max: 0.999, noNaN: true }),
      (endpoints, mode, safety, first, random) => {
        const target = hedgeTarget(question({ endpoints, mode, safety, tried: [first], random }));
        if (safety !== "read_only") assert.equal(target, null);
        if (target === null) return;
        hedged += 1;
        const found = endpoints.find(({ name }) => name === target);
        assert.ok(found !== undefined && target !== first);
        assert.deepEqual(
          {
            health: found.health,
            breaker: found.breaker,
            allows: found.breakerAllows && found.localAllows && found.usable,
            resting: found.resting,
          },
          { health: "healthy", breaker: "closed", allows: true, resting: false },
        );
        assert.ok(found.score >= defaultPolicy.router.scoreMin);
      },
    ),
    { numRuns: 500 },
  );
  assert.ok(hedged >= 20, `too few to mean anything: ${hedged} of 500`);
});
