import { type HedgeConfig, hashOf, type Topology } from "@mcp-failover/contracts";
import type { AdmissionPolicy } from "./admission.ts";

/**
 * The defaults of every decision, with their sources, and how a configuration overrides them.
 * Durations are milliseconds, ratios 0 to 1. Sources in short: Envoy = outlier detection and priorities; HAProxy = rise and fall;
 * Sentinel = Redis Sentinel; Orchestrator = its anti-flapping; Hystrix, Finagle, Polly, resilience4j = their breakers; reference = the guide
 * and the rollback strategy that the project comes from.
 */

export interface HealthPolicy {
  /** reference: 5 s. */
  readonly intervalMs: number;
  /** reference: 5 s. */
  readonly timeoutMs: number;
  /** HAProxy `fall`: 3. */
  readonly failuresDown: number;
  /** HAProxy `rise`: 2. */
  readonly successesUp: number;
  /** After a failure the next probe comes this soon, and counts. */
  readonly fastRetryMs: number;
  /** While down (or not proven yet) probes come at least this often: one such wait, two quick successes, and calls work again in under 3 s. */
  readonly downIntervalMs: number;
  /** Time-out of a probe that confirms a suspicion, and of a quick retry. */
  readonly confirmTimeoutMs: number;
  /** Quick probes wait at least this many times the usual response time, so that a slow but sound endpoint is never condemned by them. Same factor as `slowFactor`. */
  readonly confirmUsualFactor: number;
  /** Share of the interval by which each probe is moved, so that probes of many endpoints never fall into step. Cloudprober: 10 %. */
  readonly jitterRatio: number;
  /** This many changes between up and down within `flapWindowMs` hold the endpoint down for `holdDownMs`. Sentinel and Orchestrator hold off far longer. */
  readonly flapChanges: number;
  readonly flapWindowMs: number;
  readonly holdDownMs: number;
  /** Older results prove nothing: two intervals and a time-out. */
  readonly freshMs: number;
  /** Nothing is said to be down in the first 5 s of a prober; ends early when all is proven. Orchestrator waits 3 polls. */
  readonly graceMs: number;
  /** Weight of the newest result in the score: after 3 failures in a row about a third of the old score is left. */
  readonly scoreWeight: number;
  /** A score that moved this far without a change of status is said too, at most every `scoreEveryMs`: AUDIT forgets nothing. */
  readonly scoreStep: number;
  readonly scoreEveryMs: number;
  /** What an answer is worth at most that is not as the configuration asks; as that of a rate limit. */
  readonly degradedScoreMax: number;
  /** The least score of what only one zone sees fail: half, since half of the ways to it are well. */
  readonly zoneScoreMin: number;
  /** False: no regular probes are made, and health becomes unknown. reference `monitoring_enabled`. */
  readonly monitored: boolean;
}

export interface BreakerPolicy {
  /** Polly, Finagle: 30 s. */
  readonly windowMs: number;
  /** The longest that can be set: so much is kept of each observer by the second. */
  readonly windowMsMax: number;
  /** Not null: the ratios look at so many calls of an observer instead (resilience4j, `COUNT_BASED`), at most `baselineMs` back. */
  readonly windowCalls: number | null;
  readonly bucketMs: number;
  /** Envoy, Finagle: 5; the reference's `failureThreshold` wins. */
  readonly consecutiveFailures: number;
  /** Hystrix: 20. */
  readonly minimumCalls: number;
  /** Wilson lower bound (95 %) of the failure ratio has to be over this... */
  readonly failureRatio: number;
  /** ...and of the slow ratio over this. */
  readonly slowRatio: number;
  /** ...on so many evaluations in a row (measured: halves and more of the false trips go). */
  readonly evaluations: number;
  readonly slowMsMin: number;
  readonly slowFactor: number;
  /** Finagle: 5 s doubling to 300 s, with equal jitter. */
  readonly openMs: number;
  readonly openMsMax: number;
  readonly openFactor: number;
  /** Calls that half-open lets through, in the whole fleet. resilience4j: 10. */
  readonly halfOpenCalls: number;
  readonly permitMs: number;
  /** Successes that close a half-open breaker. */
  readonly halfOpenSuccesses: number;
  /** An observer's success contradicts another's failures for this long: two probes of 5 s. */
  readonly evidenceFreshMs: number;
  /** The p95 that makes a call slow is taken over this long before the window. */
  readonly baselineMs: number;
  /** Each closed period this long takes one opening off the back-off. Envoy: one step a healthy interval. */
  readonly openingDecayMs: number;
  /** A router that has not reported for this long gets no permits: five of its 2 s reports. */
  readonly routerLiveMs: number;
}

/** The breaker that one process keeps for itself (`local-breaker.ts`). */
export interface LocalBreakerPolicy {
  /** Hard failures in a row that eject; a refused connection ejects at once. HAProxy `fall`: 3; an upstream's own threshold wins. */
  readonly failures: number;
  /** Failures farther apart than this are no run. Polly, Finagle: 30 s. */
  readonly runMs: number;
  /** Linkerd: 1 s doubling (to 60 s there; shorter here, because the fleet's breaker takes over). */
  readonly ejectMs: number;
  readonly ejectMsMax: number;
  readonly ejectFactor: number;
  /** SDK clients, with every endpoint out: each is tried at most this often. */
  readonly panicTrialMs: number;
  /** A trial without result stops blocking others after this. */
  readonly trialMs: number;
  /** Each closed period this long takes one ejection off the back-off. */
  readonly decayMs: number;
}

export interface FailoverPolicy {
  readonly automatic: boolean;
  /** Between automatic moves of one upstream. Sentinel: 360 s; ours is shorter because a candidate has to be proven. */
  readonly cooldownMs: number;
  readonly movesPerHour: number;
  readonly fleetMoves: number;
  readonly fleetWindowMs: number;
  /** Share of the fleet's moves that is kept for critical upstreams: others never take the last places. */
  readonly fleetCriticalShare: number;
  readonly reservationMs: number;
  /** What is decided by itself is said, and not done. Argo and Orchestrator have it, too. */
  readonly dryRun: boolean;
  /** Nothing automatic so long after the start, or after other endpoints were configured; ends early when all are proven. Orchestrator: 3 polls. */
  readonly graceMs: number;
  /** A vote or proof older than this moves nothing. */
  readonly evidenceFreshMs: number;
  /** Observers seen within this time count for the majority. */
  readonly observerWindowMs: number;
  /** Sentinel's TILT: a gap of the clock this long stops automatic moves for `tiltMs`. */
  readonly clockGapMs: number;
  readonly tiltMs: number;
  readonly failback: "manual" | "automatic";
  readonly failbackAfterMs: number;
  /** Each failback in a row that had to be undone doubles the wait, up to this factor. Envoy and Finagle back off so. */
  readonly failbackBackoffMax: number;
  /** An endpoint with more changes between up and down than one outage makes, within the window, is not failed back to. */
  readonly flapWindowMs: number;
  readonly flapChangesMax: number;
  /** So long after a move its endpoint is judged by real traffic: the breaker's window. */
  readonly verifyMs: number;
  /** So many moves in a row may follow on one that made nothing better; then the upstream is held. */
  readonly verifyMovesMax: number;
  /** A move made nothing better after so many hard failures in a row, or when the Wilson lower bound of their ratio is over `verifyRatio`: the breaker's. */
  readonly verifyFailures: number;
  readonly verifyCallsMin: number;
  readonly verifyRatio: number;
  /** How long notices wait for the routers to say that they have applied an epoch. */
  readonly applyWaitMs: number;
  /** A router is live that was heard within this time; routers speak at least every 2 s. */
  readonly routerLiveMs: number;
  /** A call in flight for longer, with no answer since it began, is a router's word against the endpoint. reference: time-out 5 s. */
  readonly slowInFlightMs: number;
  /** How long a decision waits for the probes that it asked for: a confirming probe (500 ms), sent again twice. */
  readonly proofWaitMs: number;
  /** Rounds of requested probes of one upstream are at least this far apart... */
  readonly gatherEveryMs: number;
  /** ...and this far once a suspicion has lasted long, so that a long outage costs few probes. */
  readonly gatherEveryMsMax: number;
}

export interface RollbackPolicy {
  readonly enabled: boolean;
  readonly automatic: boolean;
  /** reference: 0.1. */
  readonly errorRate: number;
  /** reference: 5.0 s, at the p95. */
  readonly responseMsMax: number;
  readonly minimumCalls: number;
  readonly windowMs: number;
  /** Design: 3 of 5 samples, which share the window; the newest is one of the three. */
  readonly samples: number;
  readonly samplesOver: number;
  /** reference `rollback.fallback_timeout`: 30 s bound a switch. */
  readonly switchMs: number;
  readonly rampPercent: readonly number[];
  readonly rampStepMs: number;
}

/** When a read that takes longer than usual is made at a second endpoint too. */
export interface HedgePolicy {
  readonly enabled: boolean;
  /** Dean and Barroso, "The Tail at Scale": hedging after the p95 adds some 5 %. Finagle's backup requests are bounded by the same share. */
  readonly ratio: number;
  /** gRPC A6: a bucket of 10 throttles hedges. */
  readonly burst: number;
  /** Ours: nobody notices less, and a busy machine is late by as much for no reason of the endpoint's. */
  readonly afterMsMin: number;
  /** Hystrix: 20 calls before a ratio is believed. */
  readonly callsMin: number;
}

export interface RouterPolicy {
  /** Deadline of one call with all its attempts; below the 60 s after which SDK clients give up. */
  readonly callMs: number;
  /** reference `fallback.fallback_timeout`: 60 s for one call with its fallback. */
  readonly fallbackMs: number;
  /** Kept back from the client's own deadline. */
  readonly deadlineMarginMs: number;
  readonly connectMs: number;
  /** Finagle, Linkerd: 20 % of the calls may be retries. */
  readonly retryBudget: number;
  readonly retriesPerSecondMin: number;
  readonly attemptsMax: number;
  /** How long a write that the active endpoint refused waits for the fleet to move it; under the 2 s in which a failover is due. */
  readonly epochWaitMs: number;
  /** Writes of one upstream that wait so at once; the others fail at once. */
  readonly epochWaitersMax: number;
  /** Time-out of a connect to an endpoint that failed just now: with two of them dead, a call still fails in under a second. */
  readonly panicConnectMs: number;
  /** Envoy panic threshold: 50 %. */
  readonly panicRatio: number;
  /** reference: instances under 0.3 get nothing. */
  readonly scoreMin: number;
  readonly slowStartMs: number;
  /** An endpoint that says `Retry-After` is left alone at most this long. Linkerd: 300 s. */
  readonly restMsMax: number;
  /** Static stability: writes on a route older than this, with the log out of reach, are served and said to be stale. */
  readonly staleMsMax: number;
  readonly windowMs: number;
  /** Design, "Breaker": slow is over max(1 s, 4 x p95); 5 s while fewer than `hungCallsMin` calls of the last 10 min are known. */
  readonly hungMsMin: number;
  readonly hungFactor: number;
  readonly hungUnknownMs: number;
  readonly hungCallsMin: number;
  /** Design, "Probes": confirming probes time out after 500 ms. */
  readonly lookMs: number;
  readonly hedge: HedgePolicy;
  /** Statuses that the operator says to be proof that a call did not run. */
  readonly notExecutedStatuses: readonly number[];
  /** Null: as many calls as come. */
  readonly admission: (AdmissionPolicy & { readonly criticalTools: readonly string[]; readonly criticalAgents: readonly string[] }) | null;
  readonly fallback: { readonly tool: boolean; readonly agent: boolean; readonly system: boolean };
  readonly legacyMode: boolean;
}

export interface Policy {
  readonly health: HealthPolicy;
  readonly breaker: BreakerPolicy;
  readonly localBreaker: LocalBreakerPolicy;
  readonly failover: FailoverPolicy;
  readonly rollback: RollbackPolicy;
  readonly router: RouterPolicy;
}

const secondMs = 1000;
const minuteMs = 60 * secondMs;

export const defaultPolicy: Policy = {
  health: {
    intervalMs: 5 * secondMs,
    timeoutMs: 5 * secondMs,
    failuresDown: 3,
    successesUp: 2,
    fastRetryMs: 250,
    downIntervalMs: secondMs,
    confirmTimeoutMs: 500,
    confirmUsualFactor: 4,
    jitterRatio: 0.1,
    flapChanges: 4,
    flapWindowMs: 10 * minuteMs,
    holdDownMs: 5 * minuteMs,
    freshMs: 15 * secondMs,
    graceMs: 5 * secondMs,
    scoreWeight: 0.3,
    scoreStep: 0.25,
    scoreEveryMs: 30 * secondMs,
    degradedScoreMax: 0.6,
    zoneScoreMin: 0.5,
    monitored: true,
  },
  breaker: {
    windowMs: 30 * secondMs,
    windowMsMax: minuteMs,
    windowCalls: null,
    bucketMs: secondMs,
    consecutiveFailures: 5,
    minimumCalls: 20,
    failureRatio: 0.1,
    slowRatio: 0.05,
    evaluations: 3,
    slowMsMin: secondMs,
    slowFactor: 4,
    openMs: 5 * secondMs,
    openMsMax: 300 * secondMs,
    openFactor: 2,
    halfOpenCalls: 10,
    permitMs: 30 * secondMs,
    halfOpenSuccesses: 3,
    evidenceFreshMs: 10 * secondMs,
    baselineMs: 10 * minuteMs,
    openingDecayMs: minuteMs,
    routerLiveMs: 10 * secondMs,
  },
  localBreaker: {
    failures: 3,
    runMs: 30 * secondMs,
    ejectMs: secondMs,
    ejectMsMax: 30 * secondMs,
    ejectFactor: 2,
    panicTrialMs: secondMs,
    trialMs: 5 * secondMs,
    decayMs: 30 * secondMs,
  },
  failover: {
    automatic: true,
    cooldownMs: minuteMs,
    movesPerHour: 3,
    fleetMoves: 10,
    fleetWindowMs: minuteMs,
    fleetCriticalShare: 0.25,
    reservationMs: 5 * secondMs,
    dryRun: false,
    graceMs: 5 * secondMs,
    evidenceFreshMs: 10 * secondMs,
    observerWindowMs: 10 * minuteMs,
    clockGapMs: 2 * secondMs,
    tiltMs: 30 * secondMs,
    failback: "manual",
    failbackAfterMs: 300 * secondMs,
    failbackBackoffMax: 64,
    flapWindowMs: 10 * minuteMs,
    flapChangesMax: 2,
    verifyMs: 30 * secondMs,
    verifyMovesMax: 2,
    verifyFailures: 5,
    verifyCallsMin: 20,
    verifyRatio: 0.1,
    applyWaitMs: secondMs,
    routerLiveMs: 5 * secondMs,
    slowInFlightMs: 5 * secondMs,
    proofWaitMs: 1500,
    gatherEveryMs: 300,
    gatherEveryMsMax: 2 * secondMs,
  },
  rollback: {
    enabled: true,
    automatic: true,
    errorRate: 0.1,
    responseMsMax: 5 * secondMs,
    minimumCalls: 20,
    windowMs: 30 * secondMs,
    samples: 5,
    samplesOver: 3,
    switchMs: 30 * secondMs,
    rampPercent: [1, 5, 25, 50, 100],
    rampStepMs: 30 * secondMs,
  },
  router: {
    callMs: 55 * secondMs,
    fallbackMs: 60 * secondMs,
    deadlineMarginMs: 500,
    connectMs: 2 * secondMs,
    retryBudget: 0.2,
    retriesPerSecondMin: 10,
    attemptsMax: 3,
    epochWaitMs: 1500,
    epochWaitersMax: 1000,
    panicConnectMs: 450,
    panicRatio: 0.5,
    scoreMin: 0.3,
    slowStartMs: minuteMs,
    restMsMax: 300 * secondMs,
    staleMsMax: 10 * minuteMs,
    windowMs: 250,
    hungMsMin: secondMs,
    hungFactor: 4,
    hungUnknownMs: 5 * secondMs,
    hungCallsMin: 20,
    lookMs: 500,
    hedge: { enabled: true, ratio: 0.05, burst: 10, afterMsMin: 100, callsMin: 20 },
    notExecutedStatuses: [],
    admission: null,
    fallback: { tool: true, agent: true, system: true },
    legacyMode: false,
  },
};

/** An upstream that no configuration names was asked for. */
export class UnknownUpstreamError extends Error {
  override readonly name = "UnknownUpstreamError";
  readonly code = "unknown_upstream";
  readonly retriable = false;
  constructor(upstream: string, known: readonly string[]) {
    super(`no upstream ${JSON.stringify(upstream)} is configured; known: ${known.join(", ") || "none"}`);
  }
}

/** The policy of one upstream: the defaults, what the configuration sets for all, what it sets for this one. */
export function policyFor(topology: Topology, upstreamName: string, environment: "development" | "production"): Policy {
  const upstream = topology.upstreams[upstreamName];
  if (upstream === undefined) throw new UnknownUpstreamError(upstreamName, Object.keys(topology.upstreams));
  const block = topology[environment];
  const { health, breaker, localBreaker, failover, rollback, router } = defaultPolicy;
  const intervalMs =
    upstream.probe.interval_ms ??
    topology.probes.interval_ms ??
    (topology.rollback.health_check_interval === undefined ? health.intervalMs : topology.rollback.health_check_interval * secondMs);
  const timeoutMs = upstream.probe.timeout_ms ?? topology.probes.timeout_ms ?? health.timeoutMs;
  const fallbackOn = topology.fallback.enabled && (block?.fallback_enabled ?? true);
  const moves = { ...definedOf(topology.failover), ...definedOf(upstream.failover) };
  return {
    health: {
      ...health,
      intervalMs,
      timeoutMs,
      failuresDown: upstream.probe.failures_down ?? health.failuresDown,
      successesUp: upstream.probe.successes_up ?? health.successesUp,
      holdDownMs: upstream.probe.hold_down_ms ?? health.holdDownMs,
      confirmTimeoutMs: Math.min(health.confirmTimeoutMs, timeoutMs),
      freshMs: 2 * intervalMs + timeoutMs,
      monitored: block?.monitoring_enabled ?? true,
    },
    breaker: {
      ...breaker,
      consecutiveFailures: upstream.breaker.failure_threshold ?? breaker.consecutiveFailures,
      failureRatio: upstream.breaker.failure_ratio ?? breaker.failureRatio,
      slowRatio: upstream.breaker.slow_ratio ?? breaker.slowRatio,
      // As in resilience4j, a window of fewer calls than the minimum sample is a sample itself.
      minimumCalls: Math.min(upstream.breaker.minimum_calls ?? breaker.minimumCalls, upstream.breaker.window?.calls ?? 100_000),
      windowMs: upstream.breaker.window_ms ?? breaker.windowMs,
      windowCalls: upstream.breaker.window?.calls ?? breaker.windowCalls,
      ...(upstream.breaker.reset_timeout_ms === undefined
        ? {}
        : { openMs: upstream.breaker.reset_timeout_ms, openMsMax: upstream.breaker.reset_timeout_ms, openFactor: 1 }),
    },
    localBreaker: { ...localBreaker, failures: upstream.breaker.failure_threshold ?? localBreaker.failures },
    failover: {
      ...failover,
      automatic: moves.automatic ?? failover.automatic,
      cooldownMs: moves.cooldown_ms ?? failover.cooldownMs,
      movesPerHour: moves.moves_per_hour ?? failover.movesPerHour,
      fleetMoves: topology.failover.fleet_moves ?? failover.fleetMoves,
      fleetWindowMs: topology.failover.fleet_window_ms ?? failover.fleetWindowMs,
      failback: moves.failback ?? failover.failback,
      failbackAfterMs: moves.failback_after_ms ?? failover.failbackAfterMs,
      dryRun: moves.dry_run ?? failover.dryRun,
      verifyMs: moves.verify_ms ?? failover.verifyMs,
      verifyMovesMax: moves.verify_moves ?? failover.verifyMovesMax,
      verifyFailures: upstream.breaker.failure_threshold ?? failover.verifyFailures,
      verifyCallsMin: upstream.breaker.minimum_calls ?? failover.verifyCallsMin,
      verifyRatio: upstream.breaker.failure_ratio ?? failover.verifyRatio,
    },
    rollback: {
      ...rollback,
      enabled: topology.rollback.enabled && (block?.rollback_enabled ?? true),
      automatic: topology.rollback.automatic_rollback,
      errorRate: topology.rollback.rollback_thresholds.error_rate,
      responseMsMax: topology.rollback.rollback_thresholds.response_time * secondMs,
      minimumCalls: topology.rollback.minimum_calls,
      switchMs: topology.rollback.fallback_timeout * secondMs,
    },
    router: {
      ...router,
      hedge: hedgeOf(upstream.retry?.hedge),
      notExecutedStatuses: upstream.retry?.not_executed_statuses ?? router.notExecutedStatuses,
      admission: admissionOf(upstream.admission),
      callMs: upstream.call_timeout_ms ?? upstream.breaker.timeout_ms ?? router.callMs,
      fallbackMs: topology.fallback.fallback_timeout * secondMs,
      fallback: {
        tool: fallbackOn && topology.fallback.tool_fallback,
        agent: fallbackOn && topology.fallback.agent_fallback,
        system: fallbackOn && topology.fallback.system_fallback,
      },
      legacyMode: topology.fallback.legacy_mode || (block?.legacy_mode ?? false) || block?.mcp_enabled === false,
    },
  };
}

function hedgeOf(config: HedgeConfig | undefined): HedgePolicy {
  const { hedge } = defaultPolicy.router;
  if (config === undefined) return hedge;
  const { enabled, budget, after_ms_min, minimum_calls } = config;
  return {
    enabled: enabled ?? hedge.enabled,
    ratio: budget ?? hedge.ratio,
    burst: hedge.burst,
    afterMsMin: after_ms_min ?? hedge.afterMsMin,
    callsMin: minimum_calls ?? hedge.callsMin,
  };
}

/** Envoy: 1024 pending requests of a cluster; ours is smaller, because a tool takes longer. Sentinel: a queued call waits 500 ms. */
const queueDefault = { queueMax: 100, queueMsMax: secondMs } as const;

function admissionOf(config: Topology["upstreams"][string]["admission"]): RouterPolicy["admission"] {
  if (config === undefined) return defaultPolicy.router.admission;
  return {
    concurrencyMax: config.concurrency_max,
    queueMax: config.queue_max ?? queueDefault.queueMax,
    queueMsMax: config.queue_ms_max ?? queueDefault.queueMsMax,
    criticalTools: config.critical_tools,
    criticalAgents: config.critical_agents,
  };
}

const hashes = new WeakMap<object, string>();

/** Identity of a policy, on every decision that it made. Worked out once for each: a policy is never altered. */
export function policyHash(policy: object): string {
  let hash = hashes.get(policy);
  if (hash === undefined) {
    hash = hashOf(policy).slice(0, 16);
    hashes.set(policy, hash);
  }
  return hash;
}

function definedOf<T extends object>(value: T): Partial<T> {
  return Object.fromEntries(Object.entries(value).filter(([, inner]) => inner !== undefined)) as Partial<T>;
}
