import type { ChaosCheck, ChaosScenario, HealthStatus } from "@mcp-failover/contracts";

/**
 * Chaos experiments: when a system counts as recovered, and the verdict over what was seen. Pure: the runner measures, this judges.
 *
 * Invariants:
 * X1  `success` holds exactly when every check passed; `error` is null exactly then, else it names the first check that failed.
 * X2  What was not measured is not passed: without calls, without epochs or without a revert the check fails.
 * X3  One canary call that failed or got no answer, in baseline or experiment, fails `noDataLoss`.
 * X4  One answer that differs from the baseline's, or one gap in the epochs, fails `dataIntegrity`.
 * X5  Recovery is never dated before the injection. That of `killService` counts only while the fault lasted: what came back because the
 *     runner brought it back did not recover.
 * X6  The active endpoint that was killed counts as back only after it was seen not healthy: what the status said before it noticed is no
 *     recovery.
 * X7  An experiment that was interrupted never succeeds.
 * X8  A fault that was gone before it was taken back (its process started by somebody, its proxy anew), or that nobody looked for then, has
 *     shown nothing: it fails `faultLasted`.
 */

/** One call of the canary. `endedAtMs` null: no answer until the time-out, or none yet. */
export interface CanaryCall {
  readonly startedAtMs: number;
  readonly endedAtMs: number | null;
  readonly ok: boolean;
  /** Hash of the answer; null where there was none. */
  readonly answer: string | null;
  readonly error: string | null;
}

/** What `state.status` said of the target at one time. */
export interface StatusSight {
  readonly atMs: number;
  readonly active: string;
  readonly epoch: number;
  readonly endpoints: Readonly<Record<string, HealthStatus>>;
}

export interface ExperimentFacts {
  readonly scenario: ChaosScenario;
  /** The endpoint that the fault is put on, and whether it was the active one then. */
  readonly endpoint: string;
  readonly wasActive: boolean;
  readonly baseline: readonly CanaryCall[];
  /** Canary calls since the injection. */
  readonly calls: readonly CanaryCall[];
  readonly sights: readonly StatusSight[];
  readonly injectedAtMs: number | null;
  /** When taking the fault back began, and whether it was seen to be gone. */
  readonly revertedAtMs: number | null;
  readonly revertConfirmed: boolean;
  /** Whether the fault was still there right before; null: nobody saw. */
  readonly lasted: boolean | null;
  readonly epochBefore: number;
  /** Epochs that were decided since, in the order of the log; null: the log could not be read. */
  readonly epochs: readonly number[] | null;
  /** The last automatic move since that the failover-controller refused, and by which rule; null: none is known. */
  readonly refused: { readonly rule: string; readonly reason: string } | null;
  /** Why the experiment ended before its time; null: it did not. */
  readonly interrupted: string | null;
}

export interface ExperimentVerdict {
  /** Milliseconds from injection to recovery; null: it did not recover. */
  readonly recoveryTime: number | null;
  readonly validation: {
    readonly dataIntegrity: boolean;
    readonly performanceWithinThreshold: boolean;
    readonly noDataLoss: boolean;
    readonly checks: ChaosCheck[];
  };
  readonly success: boolean;
  readonly error: string | null;
}

/** Limits and thresholds of experiments; what has no other source was chosen for a local stack. */
export const experimentPolicy = {
  /** Calls that the steady state is measured with: the fewest at which a p95 is not the maximum. */
  baselineCalls: 20,
  /** 10 calls a second, so that an outage of a second is seen. */
  callEveryMs: 100,
  callsInFlightMax: 256,
  /** A canary call has failed without an answer in this time (and the injected delay). Half a second over the router's `connectMs` five times. */
  callTimeoutMs: 10_500,
  /** `state.status` is asked this often: the resolution of `recoveryTime`. */
  statusEveryMs: 100,
  /** So many calls in a row, all begun after the injection, have to be fine before it is called recovered. */
  fineCalls: { killService: 5, slowResponse: 10 },
  /** The canary goes on for so long after the recovery, and then after the revert. */
  settleMs: 3000,
  afterRevertMs: 1000,
  /** Fewer calls after the recovery prove nothing about performance. */
  callsAfterMin: 10,
  /** The p95 after the recovery may be this many times the baseline's... */
  p95Factor: 2,
  /** ...or this much over it, whichever is more: on a fast stack a few milliseconds are noise. */
  p95SlackMs: 100,
  /** So many calls in a row that failed end the experiment: two seconds in which nobody was served. */
  abortAfterCalls: 20,
  /** So long without a status ends it, too: a state-store that is started anew answers sooner. */
  abortAfterBlindMs: 10_000,
  /** The fault ends by itself this long after the runner would have taken it back. */
  faultSlackMs: 2000,
  /** How long a revert is tried and waited for; while the process is stopped, less. */
  revertMsMax: 20_000,
  revertMsMaxOnStop: 4000,
  /** An answer waits so long for its record, which is tried on afterwards. */
  recordMsMax: 6000,
  /** A runner that has not renewed its lease for so long is taken for dead (three missed renewals). Kubernetes' leases: 15 s. */
  leaseMs: 15_000,
  leaseRenewMs: 4000,
} as const;

/** What a test may make shorter. */
export type ExperimentPace = { readonly [K in "callEveryMs" | "statusEveryMs" | "settleMs" | "afterRevertMs" | "recordMsMax"]: number };

/** The value that `ratio` of the values do not exceed, by nearest rank; null without values. */
export function percentileOf(values: readonly number[], ratio: number): number | null {
  if (values.length === 0) return null;
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(ratio * sorted.length) - 1)] ?? null;
}

/** Counts and latencies of calls, as the result shows them. Failed calls have no latency. */
export function measureCalls(calls: readonly CanaryCall[]): {
  calls: number;
  failed: number;
  latencyMsP50: number | null;
  latencyMsP95: number | null;
} {
  const latencies = calls.filter(({ ok }) => ok).map(latencyMsOf);
  return {
    calls: calls.length,
    failed: calls.length - latencies.length,
    latencyMsP50: percentileOf(latencies, 0.5),
    latencyMsP95: percentileOf(latencies, 0.95),
  };
}

/** Over this a p95 is out of bounds; null where there is no baseline. */
export function latencyThresholdMs(baseline: readonly CanaryCall[]): number | null {
  const p95 = measureCalls(baseline).latencyMsP95;
  return p95 === null ? null : Math.max(experimentPolicy.p95Factor * p95, p95 + experimentPolicy.p95SlackMs);
}

/** When the target was well again, in milliseconds since the Unix epoch; null: it was not (X5, X6). */
export function findRecovery(
  facts: Pick<ExperimentFacts, "scenario" | "endpoint" | "wasActive" | "baseline" | "calls" | "sights" | "injectedAtMs" | "revertedAtMs">,
): number | null {
  const { scenario, endpoint, injectedAtMs, revertedAtMs } = facts;
  if (injectedAtMs === null) return null;
  const thresholdMs = latencyThresholdMs(facts.baseline);
  const calls = facts.calls.filter(({ startedAtMs }) => startedAtMs >= injectedAtMs).sort((a, b) => a.startedAtMs - b.startedAtMs);
  let seenDown = false;
  for (const sight of facts.sights) {
    if (sight.atMs < injectedAtMs) continue;
    if (scenario === "killService" && revertedAtMs !== null && sight.atMs >= revertedAtMs) return null;
    seenDown ||= (sight.endpoints[endpoint] ?? "unknown") !== "healthy";
    if (sight.endpoints[sight.active] !== "healthy") continue;
    if (scenario === "killService" && facts.wasActive && sight.active === endpoint && !seenDown) continue;
    if (areFine(calls, sight.atMs, scenario, thresholdMs)) return sight.atMs;
  }
  return null;
}

/** The last calls that had a result at `atMs`. Where slowness is the fault, one that is already over the threshold has its result. */
function areFine(calls: readonly CanaryCall[], atMs: number, scenario: ChaosScenario, thresholdMs: number | null): boolean {
  const needed = experimentPolicy.fineCalls[scenario];
  const within = scenario === "slowResponse" ? (thresholdMs ?? 0) : Number.POSITIVE_INFINITY;
  let fine = 0;
  for (let index = calls.length - 1; index >= 0 && fine < needed; index -= 1) {
    const call = calls[index] as CanaryCall;
    if (call.startedAtMs > atMs) continue;
    const ended = call.endedAtMs !== null && call.endedAtMs <= atMs;
    const ageMs = (ended ? (call.endedAtMs ?? atMs) : atMs) - call.startedAtMs;
    if (ended ? !call.ok || ageMs > within : ageMs > within) return false;
    if (ended) fine += 1;
  }
  return fine >= needed;
}

/** The verdict over an experiment (X1 to X8). */
export function judgeExperiment(facts: ExperimentFacts): ExperimentVerdict {
  const { injectedAtMs, revertedAtMs, interrupted } = facts;
  const recoveredAtMs = findRecovery(facts);
  const recoveryTime = recoveredAtMs === null || injectedAtMs === null ? null : recoveredAtMs - injectedAtMs;
  const dataIntegrity = checkIntegrity(facts);
  const performance = checkPerformance(facts, recoveredAtMs);
  const noDataLoss = checkLoss(facts);
  const checks = [
    checkRecovered(facts, recoveryTime),
    {
      name: "recoveredBeforeRevert",
      passed: recoveredAtMs !== null && (revertedAtMs === null || recoveredAtMs < revertedAtMs),
      detail:
        recoveryTime === null
          ? "it did not recover while the fault lasted"
          : `${Math.round(recoveryTime)} ms after the injection; the fault was taken back ${revertedAtMs === null ? "never" : `after ${Math.round(revertedAtMs - (injectedAtMs ?? 0))} ms`}`,
    },
    noDataLoss,
    dataIntegrity,
    performance,
    {
      name: "reverted",
      passed: revertedAtMs !== null && facts.revertConfirmed,
      detail:
        revertedAtMs !== null && facts.revertConfirmed
          ? `the fault on ${facts.endpoint} was taken back and seen to be gone`
          : `nobody saw that the fault on ${facts.endpoint} is gone; it ends by itself with its lease`,
    },
    checkLasted(facts),
  ];
  const failed = checks.find(({ passed }) => !passed);
  const success = failed === undefined && interrupted === null;
  const named = failed === undefined ? null : `the check ${failed.name} failed: ${failed.detail}`;
  return {
    recoveryTime,
    validation: {
      dataIntegrity: dataIntegrity.passed,
      performanceWithinThreshold: performance.passed,
      noDataLoss: noDataLoss.passed,
      checks: interrupted === null ? checks : [{ name: "completed", passed: false, detail: interrupted }, ...checks],
    },
    success,
    error: interrupted === null ? named : `the check completed failed: ${interrupted}`,
  };
}

function checkRecovered({ scenario, endpoint, sights, injectedAtMs, refused }: ExperimentFacts, recoveryTime: number | null): ChaosCheck {
  if (recoveryTime !== null)
    return { name: "recovered", passed: true, detail: `well again ${Math.round(recoveryTime)} ms after the injection` };
  const last = sights.at(-1);
  const state =
    last === undefined ? "its status was never seen" : `${last.active} is active and ${last.endpoints[last.active] ?? "unknown"}`;
  const why =
    injectedAtMs === null
      ? "nothing was injected"
      : scenario === "killService"
        ? `without ${endpoint} the upstream did not come back (at the end: ${state})`
        : `answers did not become as fast as before (at the end: ${state})`;
  const because = refused === null ? "" : `; the failover-controller refused to move it (${refused.rule}): ${refused.reason}`;
  return { name: "recovered", passed: false, detail: `${why}${because}` };
}

function checkLoss({ baseline, calls }: ExperimentFacts): ChaosCheck {
  const all = [...baseline, ...calls];
  const lost = all.filter(({ ok, endedAtMs }) => !ok || endedAtMs === null);
  const passed = baseline.length > 0 && calls.length > 0 && lost.length === 0;
  const first = lost[0];
  const detail =
    first !== undefined
      ? `${lost.length} of ${all.length} calls failed or got no answer; the first: ${first.error ?? "no answer"}`
      : passed
        ? `all ${all.length} calls were answered`
        : `${baseline.length} calls before and ${calls.length} during the fault prove nothing`;
  return { name: "noDataLoss", passed, detail };
}

function checkLasted({ endpoint, lasted }: ExperimentFacts): ChaosCheck {
  const detail =
    lasted === null
      ? `nobody saw whether the fault on ${endpoint} lasted until it was taken back`
      : lasted
        ? `the fault on ${endpoint} lasted until it was taken back`
        : `the fault on ${endpoint} was gone before it was taken back: what was seen then is no recovery`;
  return { name: "faultLasted", passed: lasted === true, detail };
}

function checkIntegrity({ baseline, calls, epochBefore, epochs }: ExperimentFacts): ChaosCheck {
  const say = (passed: boolean, detail: string): ChaosCheck => ({ name: "dataIntegrity", passed, detail });
  const expected = baseline.find(({ ok }) => ok)?.answer ?? null;
  const answered = calls.filter(({ ok }) => ok);
  if (expected === null || answered.length === 0) return say(false, "no answers to compare");
  const others = [...baseline.filter(({ ok }) => ok), ...answered].filter(({ answer }) => answer !== expected).length;
  if (others > 0) return say(false, `${others} answers differ from the baseline's`);
  if (epochs === null) return say(false, "the log could not be read, so that gaps in the epochs cannot be excluded");
  const gap = epochs.findIndex((epoch, index) => epoch !== epochBefore + index + 1);
  if (gap !== -1) return say(false, `epoch ${epochs[gap]} came where ${epochBefore + gap + 1} was due`);
  return say(true, `${answered.length} answers equal the baseline's; ${epochs.length} decisions without a gap since epoch ${epochBefore}`);
}

function checkPerformance({ baseline, calls }: ExperimentFacts, recoveredAtMs: number | null): ChaosCheck {
  const say = (passed: boolean, detail: string): ChaosCheck => ({ name: "performanceWithinThreshold", passed, detail });
  const thresholdMs = latencyThresholdMs(baseline);
  if (thresholdMs === null) return say(false, "there is no baseline to compare with");
  if (recoveredAtMs === null) return say(false, "there was no recovery after which to measure");
  const after = calls.filter(({ startedAtMs }) => startedAtMs >= recoveredAtMs);
  if (after.length < experimentPolicy.callsAfterMin)
    return say(false, `only ${after.length} calls after the recovery, ${experimentPolicy.callsAfterMin} are needed`);
  const p95 = percentileOf(
    after.map((call) => (call.ok ? latencyMsOf(call) : Number.POSITIVE_INFINITY)),
    0.95,
  );
  const within = p95 !== null && p95 <= thresholdMs;
  const shown = p95 === null || !Number.isFinite(p95) ? "calls without an answer" : `${Math.round(p95)} ms`;
  return say(within, `p95 after the recovery: ${shown} over ${after.length} calls; allowed: ${Math.round(thresholdMs)} ms`);
}

function latencyMsOf({ startedAtMs, endedAtMs }: CanaryCall): number {
  return endedAtMs === null ? Number.POSITIVE_INFINITY : endedAtMs - startedAtMs;
}
