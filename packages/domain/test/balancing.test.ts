import assert from "node:assert/strict";
import { test } from "node:test";
import {
  type BalancingCandidate,
  type BalancingStrategy,
  defaultPolicy,
  effectiveWeight,
  observeLatency,
  pickEndpoint,
  shedLatencyMs,
} from "@mcp-failover/domain";
import fc from "fast-check";

const strategies: readonly BalancingStrategy[] = ["health_weighted", "round_robin", "least_connections", "peak_ewma"];
const candidate = (name: string, given: Partial<BalancingCandidate> = {}): BalancingCandidate => ({
  name,
  weight: 1,
  score: 1,
  inFlight: 0,
  ewmaMs: 10,
  recoveredAtMs: null,
  ...given,
});
const anyCandidates = fc
  .array(
    fc.record({
      weight: fc.double({ min: 0.1, max: 100, noNaN: true }),
      score: fc.double({ min: 0, max: 1, noNaN: true }),
      inFlight: fc.integer({ min: 0, max: 50 }),
      ewmaMs: fc.option(fc.double({ min: 0, max: 5000, noNaN: true })),
      recoveredAtMs: fc.option(fc.integer({ min: 0, max: 200_000 })),
    }),
    { maxLength: 8 },
  )
  .map((all) => all.map((one, index) => ({ ...one, name: `e${index}` })));
const anyPick = fc.record({
  strategy: fc.constantFrom(...strategies),
  candidates: anyCandidates,
  random: fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
  turn: fc.integer({ min: 0, max: 1_000_000 }),
  panic: fc.boolean(),
  nowMs: fc.constant(200_000),
});

test("D1, D2, D4: the pick is a candidate with a fair score, there is one whenever one may be picked, and it is the same again", () => {
  fc.assert(
    fc.property(anyPick, (question) => {
      const picked = pickEndpoint(question);
      const able = question.candidates.filter(({ score }) => question.panic || score >= defaultPolicy.router.scoreMin);
      if (able.length === 0) assert.equal(picked, null);
      else assert.ok(picked !== null && able.includes(picked));
      assert.equal(pickEndpoint(question), picked);
    }),
    { numRuns: 500 },
  );
});

/** How often each gets picked over evenly spread random numbers. */
function shares(strategy: BalancingStrategy, candidates: readonly BalancingCandidate[], panic = false): Record<string, number> {
  const counts: Record<string, number> = {};
  const runs = 20_000;
  for (let turn = 0; turn < runs; turn += 1) {
    // The golden ratio's multiples are spread evenly, so that the test has no chance in it.
    const random = (turn * 0.618033988749895) % 1;
    const picked = pickEndpoint({ strategy, candidates, random, turn, panic, nowMs: 30_000 });
    if (picked) counts[picked.name] = (counts[picked.name] ?? 0) + 1 / runs;
  }
  return counts;
}
const near = (actual: number | undefined, wanted: number, within = 0.03) =>
  assert.ok(actual !== undefined && Math.abs(actual - wanted) <= within, `${actual} is not about ${wanted}`);

test("health_weighted gives idle endpoints calls in proportion to weight x health", () => {
  const got = shares("health_weighted", [candidate("a", { weight: 2 }), candidate("b"), candidate("c", { score: 0.5 })]);
  near(got["a"], 2 / 3.5);
  near(got["b"], 1 / 3.5);
  near(got["c"], 0.5 / 3.5);
});

test("health_weighted turns away from the one of two that has more calls in flight", () => {
  const got = shares("health_weighted", [candidate("busy", { inFlight: 20 }), candidate("idle")]);
  near(got["idle"], 0.75);
});

test("D3: an endpoint half a minute after its recovery gets half of a whole share, and never less than a tenth", () => {
  const got = shares("health_weighted", [candidate("old"), candidate("new", { recoveredAtMs: 0 })]);
  near(got["new"], 0.5 / 1.5);
  assert.equal(effectiveWeight(candidate("new", { recoveredAtMs: 30_000 }), { panic: false, nowMs: 30_000 }), 0.1);
  near(shares("round_robin", [candidate("old"), candidate("new", { recoveredAtMs: 0 })])["new"], 0.25);
});

test("D1: in panic an endpoint with a bad score gets its weight's share", () => {
  assert.deepEqual(Object.keys(shares("health_weighted", [candidate("well"), candidate("ill", { score: 0.1 })])), ["well"]);
  near(shares("health_weighted", [candidate("well"), candidate("ill", { score: 0.1 })], true)["ill"], 0.5);
});

test("round_robin takes turns, least_connections the least loaded, peak_ewma the quicker of two", () => {
  const three = [candidate("a"), candidate("b"), candidate("c")];
  const turns = [0, 1, 2, 3].map(
    (turn) => pickEndpoint({ strategy: "round_robin", candidates: three, random: 0, turn, panic: false, nowMs: 0 })?.name,
  );
  assert.deepEqual(turns, ["a", "b", "c", "a"]);
  assert.deepEqual(
    shares("least_connections", [candidate("a", { inFlight: 3 }), candidate("b", { inFlight: 1 }), candidate("c", { inFlight: 2 })]),
    {
      b: shares("least_connections", [candidate("b")])["b"],
    },
  );
  assert.deepEqual(Object.keys(shares("peak_ewma", [candidate("slow", { ewmaMs: 200 }), candidate("quick", { ewmaMs: 20 })])), ["quick"]);
});

test("a slow answer counts at once, quick ones are believed only over seconds, and a 429 counts as slow", () => {
  const peak = observeLatency(observeLatency(null, 10, 0), 500, 100);
  assert.equal(peak.valueMs, 500);
  const soon = observeLatency(peak, 10, 1100);
  assert.ok(soon.valueMs > 400 && soon.valueMs < 500);
  assert.ok(observeLatency(peak, 10, 60_000).valueMs < 15);
  assert.equal(shedLatencyMs(3, null), 5000);
  assert.equal(shedLatencyMs(3, 1_000_000), 300_000);
});
