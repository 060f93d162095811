import { defaultPolicy } from "./policy.ts";

/**
 * The defaults of the breaker around one function (`call-breaker.ts`), with their sources. They stand apart from `policy.ts` because no configuration of a fleet
 * sets them: the program that makes the breaker does. Durations are milliseconds, ratios 0 to 1.
 */
export interface CallBreakerPolicy {
  readonly windowMs: number;
  readonly bucketMs: number;
  /** A window of so many calls instead of a time; null: by time. cockatiel `CountBreaker`, resilience4j `COUNT_BASED`. */
  readonly windowCalls: number | null;
  /** Null: no such rule. */
  readonly consecutiveFailures: number | null;
  readonly minimumCalls: number;
  readonly failureRatio: number | null;
  readonly slowRatio: number | null;
  /** True: the ratio itself, as opossum and cockatiel have it. False: its 95 % Wilson lower bound (research: 0 against 33 % of runs trip falsely). */
  readonly plainRatio: boolean;
  readonly openMs: number;
  readonly openMsMax: number;
  readonly openFactor: number;
  /** Share of the open time that is spread, so that many processes do not try again at one moment. */
  readonly openJitter: number;
  /** Trials at once. */
  readonly halfOpenCalls: number;
  /** Successful trials that close. */
  readonly halfOpenSuccesses: number;
  readonly trialMs: number;
  readonly openingDecayMs: number;
  /** How many numbers the caller counts in the same window beside. */
  readonly tallies: number;
}

export const defaultCallBreakerPolicy: CallBreakerPolicy = {
  windowMs: defaultPolicy.breaker.windowMs,
  bucketMs: defaultPolicy.breaker.bucketMs,
  windowCalls: null,
  consecutiveFailures: defaultPolicy.breaker.consecutiveFailures,
  minimumCalls: defaultPolicy.breaker.minimumCalls,
  // Hystrix, opossum, resilience4j: 50 %. Higher than the fleet's 10 %, which several observers and three evaluations stand behind.
  failureRatio: 0.5,
  // Polly and resilience4j have the rule off; it needs a limit that only the caller knows.
  slowRatio: null,
  plainRatio: false,
  openMs: defaultPolicy.breaker.openMs,
  openMsMax: defaultPolicy.breaker.openMsMax,
  openFactor: defaultPolicy.breaker.openFactor,
  // Finagle's equal jitter.
  openJitter: 0.5,
  // opossum, cockatiel, Finagle: 1.
  halfOpenCalls: 1,
  halfOpenSuccesses: 1,
  trialMs: defaultPolicy.localBreaker.trialMs,
  openingDecayMs: defaultPolicy.breaker.openingDecayMs,
  tallies: 0,
};

/** What stands around the breaker of one function. */
export const defaultCallLimits = {
  /** reference: 5 s. */
  timeoutMs: 5000,
  /** The SDK's bulkhead of an upstream. */
  concurrencyMax: 100,
  /** Calls that wait only make an overload longer. */
  queueMax: 0,
  /** Where `slowMs` is given and no ratio: resilience4j has 100 %, the fleet 5 %; half of the calls, as for failures. */
  slowRatio: 0.5,
  attemptsMax: defaultPolicy.router.attemptsMax,
  retryDelayMs: 50,
  retryDelayMsMax: 1000,
  /** A function that goes on after its signal was aborted keeps its place this long at most. */
  abandonedMs: 30_000,
};
