import assert from "node:assert/strict";
import { test } from "node:test";
import {
  type CanaryCall,
  type ExperimentFacts,
  experimentPolicy,
  findRecovery,
  judgeExperiment,
  latencyThresholdMs,
  percentileOf,
  type StatusSight,
} from "@mcp-failover/domain";
import fc from "fast-check";

const call = (startedAtMs: number, latencyMs = 10, more: Partial<CanaryCall> = {}): CanaryCall => ({
  startedAtMs,
  endedAtMs: startedAtMs + latencyMs,
  ok: true,
  answer: "same",
  error: null,
  ...more,
});
const every = (fromMs: number, toMs: number, latencyMs = 10): CanaryCall[] =>
  Array.from({ length: Math.ceil((toMs - fromMs) / 100) }, (_, index) => call(fromMs + index * 100, latencyMs));
const sight = (atMs: number, active: string, primary: "healthy" | "unhealthy", epoch = 0): StatusSight => ({
  atMs,
  active,
  epoch,
  endpoints: { primary, secondary: "healthy" },
});

/** The primary was killed at 10 000, noticed at 10 500, the secondary active from 10 800 on; the fault was taken back at 14 000. */
const recovered: ExperimentFacts = {
  scenario: "killService",
  endpoint: "primary",
  wasActive: true,
  baseline: every(8000, 10_000),
  calls: every(10_000, 15_000),
  sights: [
    sight(10_100, "primary", "healthy"),
    sight(10_500, "primary", "unhealthy"),
    sight(10_800, "secondary", "unhealthy", 1),
    sight(12_000, "secondary", "unhealthy", 1),
  ],
  injectedAtMs: 10_000,
  revertedAtMs: 14_000,
  revertConfirmed: true,
  lasted: true,
  epochBefore: 0,
  epochs: [1],
  refused: null,
  interrupted: null,
};
const failed = (facts: ExperimentFacts): string[] =>
  judgeExperiment(facts)
    .validation.checks.filter(({ passed }) => !passed)
    .map(({ name }) => name);

const anyCall = fc.record({
  startedAtMs: fc.integer({ min: 9000, max: 20_000 }),
  latencyMs: fc.option(fc.integer({ min: 0, max: 3000 })),
  ok: fc.boolean(),
  answer: fc.constantFrom("same", "other", null),
});
const anyCalls = fc.array(
  anyCall.map(({ startedAtMs, latencyMs, ok, answer }) => ({
    startedAtMs,
    endedAtMs: latencyMs === null ? null : startedAtMs + latencyMs,
    ok: ok && latencyMs !== null,
    answer,
    error: null,
  })),
  { maxLength: 40, size: "max" },
);
const anySights = fc
  .array(
    fc.record({
      atMs: fc.integer({ min: 9000, max: 20_000 }),
      active: fc.constantFrom("primary", "secondary"),
      epoch: fc.nat(3),
      endpoints: fc.record({
        primary: fc.constantFrom("healthy" as const, "unhealthy" as const, "unknown" as const),
        secondary: fc.constantFrom("healthy" as const, "unhealthy" as const),
      }),
    }),
    { maxLength: 20, size: "max" },
  )
  .map((sights) => sights.sort((a, b) => a.atMs - b.atMs));
const anyFacts: fc.Arbitrary<ExperimentFacts> = fc.record({
  scenario: fc.constantFrom("killService" as const, "slowResponse" as const),
  endpoint: fc.constantFrom("primary", "secondary"),
  wasActive: fc.boolean(),
  baseline: fc.oneof(anyCalls, fc.constant(recovered.baseline)),
  calls: fc.oneof(anyCalls, fc.constant(recovered.calls)),
  sights: fc.oneof(anySights, fc.constant(recovered.sights)),
  injectedAtMs: fc.constantFrom(10_000, null),
  revertedAtMs: fc.option(fc.integer({ min: 10_000, max: 20_000 })),
  revertConfirmed: fc.boolean(),
  lasted: fc.option(fc.boolean()),
  epochBefore: fc.nat(2),
  epochs: fc.option(fc.array(fc.nat(4), { maxLength: 4 })),
  refused: fc.option(fc.constant({ rule: "cooldown", reason: "it was moved already" })),
  interrupted: fc.option(fc.constant("stopped"), { freq: 4 }),
});

test("a failover that went well passes every check, dated from the injection", () => {
  const verdict = judgeExperiment(recovered);
  assert.deepEqual(failed(recovered), []);
  assert.equal(verdict.success, true);
  assert.equal(verdict.error, null);
  assert.equal(verdict.recoveryTime, 800);
});

test("X1, X7: success is that every check passed and nothing interrupted; the error names the first check that failed", () => {
  fc.assert(
    fc.property(anyFacts, (facts) => {
      const { success, error, validation } = judgeExperiment(facts);
      const first = validation.checks.find(({ passed }) => !passed);
      assert.equal(success, first === undefined);
      assert.equal(error, first === undefined ? null : `the check ${first.name} failed: ${first.detail}`);
      if (facts.interrupted !== null) assert.equal(success, false);
      for (const name of ["dataIntegrity", "performanceWithinThreshold", "noDataLoss"] as const) {
        assert.equal(validation[name], validation.checks.find((check) => check.name === name)?.passed);
      }
    }),
  );
});

test("where the failover-controller refused to move it, the verdict says by which rule and why; a recovery needs no such excuse", () => {
  const refused = { rule: "cooldown", reason: "it was moved already, and the cool-down lasts until noon" };
  const stayed = { ...recovered, sights: [sight(10_500, "primary", "unhealthy")], epochs: [], refused };
  assert.equal(
    judgeExperiment(stayed).error,
    "the check recovered failed: without primary the upstream did not come back (at the end: primary is active and unhealthy); " +
      "the failover-controller refused to move it (cooldown): it was moved already, and the cool-down lasts until noon",
  );
  assert.equal(judgeExperiment({ ...recovered, refused }).error, null);
  const said = judgeExperiment({ ...recovered, refused }).validation.checks.map(({ detail }) => detail);
  assert.doesNotMatch(said.join(), /cool-down/);
});

test("X8: a fault that was gone before it was taken back has shown nothing, nor one that nobody looked for", () => {
  for (const lasted of [false, null]) assert.deepEqual(failed({ ...recovered, lasted }), ["faultLasted"]);
});

test("X2: what was not measured is not passed", () => {
  assert.deepEqual(failed({ ...recovered, epochs: null }), ["dataIntegrity"]);
  assert.deepEqual(failed({ ...recovered, revertConfirmed: false }), ["reverted"]);
  assert.ok(failed({ ...recovered, baseline: [] }).includes("noDataLoss"));
  assert.ok(failed({ ...recovered, baseline: [] }).includes("performanceWithinThreshold"));
  assert.deepEqual(failed({ ...recovered, calls: [] }), [
    "recovered",
    "recoveredBeforeRevert",
    "noDataLoss",
    "dataIntegrity",
    "performanceWithinThreshold",
  ]);
  assert.deepEqual(failed({ ...recovered, sights: [] }), ["recovered", "recoveredBeforeRevert", "performanceWithinThreshold"]);
  // Five calls after the recovery are too few to speak of a p95.
  assert.deepEqual(failed({ ...recovered, calls: every(10_000, 11_300) }), ["performanceWithinThreshold"]);
});

test("X3: one call that failed or got no answer, before or during the fault, is data lost", () => {
  fc.assert(
    fc.property(fc.nat(49), fc.boolean(), fc.boolean(), (at, early, unanswered) => {
      const spoilt = unanswered ? { endedAtMs: null } : { ok: false, error: "refused" };
      const spoil = (calls: readonly CanaryCall[]) =>
        calls.map((one, index) => (index === at % calls.length ? { ...one, ...spoilt } : one));
      const facts = early ? { ...recovered, baseline: spoil(recovered.baseline) } : { ...recovered, calls: spoil(recovered.calls) };
      assert.ok(failed(facts).includes("noDataLoss"));
    }),
  );
});

test("what a person reads of a verdict is in whole milliseconds, whatever clock it was measured by", () => {
  const injectedAtMs = (recovered.injectedAtMs ?? 0) - 0.34033203125;
  const { validation } = judgeExperiment({ ...recovered, injectedAtMs });
  for (const { detail } of validation.checks ?? []) assert.doesNotMatch(detail, /\d\.\d+ ms/);
});

test("X4: one answer that differs, and one gap, repeat or step back of the epochs, is integrity lost", () => {
  fc.assert(
    fc.property(fc.nat(49), (at) => {
      const calls = recovered.calls.map((one, index) => (index === at ? { ...one, answer: "other" } : one));
      assert.deepEqual(failed({ ...recovered, calls }), ["dataIntegrity"]);
    }),
  );
  fc.assert(
    fc.property(fc.array(fc.nat(5), { maxLength: 5 }), fc.nat(3), (epochs, epochBefore) => {
      const whole = epochs.every((epoch, index) => epoch === epochBefore + index + 1);
      assert.deepEqual(failed({ ...recovered, epochs, epochBefore }), whole ? [] : ["dataIntegrity"]);
    }),
  );
});

test("X5: no recovery is dated before the injection, and none of a killed service after the revert began", () => {
  fc.assert(
    fc.property(anyFacts, (facts) => {
      const atMs = findRecovery(facts);
      if (atMs === null) return;
      assert.ok(facts.injectedAtMs !== null && atMs >= facts.injectedAtMs);
      if (facts.scenario === "killService" && facts.revertedAtMs !== null) assert.ok(atMs < facts.revertedAtMs);
    }),
  );
  assert.equal(findRecovery({ ...recovered, revertedAtMs: 10_700 }), null);
});

test("X6: the killed endpoint is back only after it was seen down; a status that has not noticed yet is no recovery", () => {
  const blind = [sight(10_200, "primary", "healthy"), sight(11_000, "primary", "healthy")];
  assert.equal(findRecovery({ ...recovered, sights: blind }), null);
  assert.equal(
    findRecovery({ ...recovered, sights: [...blind, sight(11_500, "primary", "unhealthy"), sight(12_000, "primary", "healthy")] }),
    12_000,
  );
  const before = [sight(9000, "primary", "unhealthy"), sight(9500, "primary", "healthy")];
  assert.equal(findRecovery({ ...recovered, sights: [...before, ...blind] }), null, "what was down before the injection");
  assert.equal(findRecovery({ ...recovered, wasActive: false, endpoint: "secondary", sights: blind }), 11_000);
});

test("it is not called recovered while calls fail, hang or are slow", () => {
  const failing = recovered.calls.map((one) => (one.startedAtMs < 11_500 ? { ...one, ok: false } : one));
  const sights = Array.from({ length: 40 }, (_, index) => sight(10_800 + index * 50, "secondary", "unhealthy"));
  assert.equal(findRecovery({ ...recovered, sights }), 10_800);
  assert.equal(findRecovery({ ...recovered, sights, calls: failing }), 11_950, "five calls in a row are fine");
  const slow = { ...recovered, scenario: "slowResponse" as const, sights };
  const late = recovered.calls.map((one) => (one.startedAtMs < 11_500 ? { ...one, endedAtMs: one.startedAtMs + 5000 } : one));
  assert.equal(findRecovery({ ...slow, calls: late }), 12_450, "ten calls in a row are quick; what still hangs was begun before them");
  assert.equal(findRecovery({ ...slow, calls: every(10_000, 15_000, 5000) }), null);
});

test("the threshold is twice the baseline's p95 or 100 ms over it, whichever is more", () => {
  assert.equal(latencyThresholdMs(every(0, 2000, 10)), 110);
  assert.equal(latencyThresholdMs(every(0, 2000, 300)), 600);
  assert.equal(latencyThresholdMs([]), null);
  const after = (latencyMs: number) => [...every(10_000, 10_800), ...every(10_800, 14_800, latencyMs)];
  assert.deepEqual(failed({ ...recovered, calls: after(109) }), []);
  assert.deepEqual(failed({ ...recovered, calls: after(111) }), ["performanceWithinThreshold"]);
});

test("a percentile is one of the values, and so many of them do not exceed it", () => {
  fc.assert(
    fc.property(fc.array(fc.integer(), { minLength: 1 }), fc.double({ min: 0, max: 1, noNaN: true }), (values, ratio) => {
      const value = percentileOf(values, ratio) as number;
      assert.ok(values.includes(value));
      assert.ok(values.filter((other) => other <= value).length >= ratio * values.length);
    }),
  );
  assert.equal(percentileOf([], 0.5), null);
  assert.ok(experimentPolicy.baselineCalls >= 20, "under 20 values the p95 would be the maximum");
});
