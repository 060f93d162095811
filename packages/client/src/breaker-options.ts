import type { BreakerStatus } from "@mcp-failover/contracts";
import { type CallBreakerPolicy, defaultCallBreakerPolicy, defaultCallLimits } from "@mcp-failover/domain";
import { foreverMs } from "./attempt.ts";
import { checkNumber } from "./checks.ts";
import type { Failure } from "./failure.ts";

/** What a breaker remembers over a restart: from `toJSON`, for {@link BreakerOptions.initial}. */
export interface BreakerMemory {
  readonly status: BreakerStatus;
  readonly openings: number;
  /** What was left of the open time, and when (`Date.now`). */
  readonly openForMs: number;
  readonly savedAtMs: number;
}

export interface FallbackContext {
  readonly signal: AbortSignal;
  /** The call may have run, and it is not idempotent: a fallback that does the same again would be the second time. */
  readonly outcomeUnknown: boolean;
}
export type Fallback<R> = (error: unknown, context: FallbackContext) => R | PromiseLike<R>;

export interface RetryOptions {
  /** With the first. Default 3. */
  readonly attemptsMax?: number;
  /** Before the second attempt; doubles, up to `delayMsMax`, and is spread by half. Default 50 and 1000. */
  readonly delayMs?: number;
  readonly delayMsMax?: number;
  /** For one attempt; the call has `timeoutMs` with all of them. Default: what is left of it. */
  readonly attemptTimeoutMs?: number;
}

/** Options of `createBreaker`. Defaults with their sources: `call-breaker-policy.ts` of the domain. A value that makes no sense is a `RangeError`. */
export interface BreakerOptions<R = never> {
  /** In errors. Default "function". */
  readonly name?: string;
  /** At its end the caller has its error and the function's signal is aborted. Late by 5 % at most. Null: none. Default 5000. */
  readonly timeoutMs?: number | null;
  /** Functions that run at once, those included that go on after their time. Default 100. */
  readonly concurrencyMax?: number;
  /** Calls that wait for a place; one more is told at once. Default 0. */
  readonly queueMax?: number;
  readonly consecutiveFailures?: number | null;
  /** Calls in the window under which no ratio opens it (opossum: `volumeThreshold`). Default 20. */
  readonly minimumCalls?: number;
  readonly failureRatio?: number | null;
  /** `certain`: 95 % sure that the ratio is over it. `plain`: the ratio itself, as opossum and cockatiel. Default `certain`. */
  readonly ratioRule?: "certain" | "plain";
  /** A call over this counts as slow, judged while it is still out. Null: not judged. Default null. */
  readonly slowMs?: number | null;
  readonly slowRatio?: number | null;
  readonly windowMs?: number;
  /** The window's buckets (opossum: `rollingCountBuckets`). Default one a second. */
  readonly buckets?: number;
  /** A window of the last so many calls instead. */
  readonly windowCalls?: number | null;
  readonly openMs?: number;
  readonly openMsMax?: number;
  readonly openFactor?: number;
  /** 0 to 1: the share of the open time that is spread. Default 0.5. */
  readonly openJitter?: number;
  /** Trials at once in half-open. Default 1. */
  readonly halfOpenCalls?: number;
  /** Successful trials that close it. Default 1. */
  readonly halfOpenSuccesses?: number;
  /** Trials that have not reported after this make way. Default 5000. */
  readonly trialMs?: number;
  /** A repeat changes nothing that the first did not. Default false: sent again only after proof that it did not run. */
  readonly idempotent?: boolean;
  readonly retry?: RetryOptions;
  /** Whether an error counts against the function (the opposite of opossum's `errorFilter`). Default: all but 4xx, JSON-RPC errors and 429. */
  readonly isFailure?: (error: unknown) => boolean;
  /** Whether a value counts against it; it is returned all the same. Default: a `Response` with 5xx. */
  readonly isFailureResult?: (value: unknown) => boolean;
  /** What an error of the function proves, for retries and `outcomeUnknown`, where the default (`failureOf`) does not know it. */
  readonly classify?: (error: unknown) => Failure | null;
  /** Answers for the function: when it failed, timed out, or was not called. Not when the caller cancels, or by an error that does not count. */
  readonly fallback?: Fallback<R>;
  /** Measures the latency of every call for `stats`; costs a look at the clock. Default: only where `slowMs` or a listener needs it. */
  readonly measureLatency?: boolean;
  /** One that makes no sense (of another version, a file that broke off) is told to `onError` and forgotten: the breaker begins closed. */
  readonly initial?: BreakerMemory;
  /** Told of listeners that throw, of rules that do, and of an `initial` that makes no sense. Default: a process warning. */
  readonly onError?: (error: unknown) => void;
  /** Monotonic; for tests. Deadlines always go by the real time. */
  readonly nowMs?: () => number;
  readonly random?: () => number;
}

/** For one call. */
export interface BreakerCallOptions<R = never> {
  readonly signal?: AbortSignal | undefined;
  /** Over 0; anything else is a `RangeError`, and the function is not called. Null, or longer than a timer can wait: none, or that. */
  readonly timeoutMs?: number | null | undefined;
  readonly idempotent?: boolean | undefined;
  readonly fallback?: Fallback<R> | undefined;
}

/** Throws `RangeError` on the first option that makes no sense. */
export function policyOf(options: BreakerOptions<unknown>, tallies: number): CallBreakerPolicy {
  const defaults = defaultCallBreakerPolicy;
  const { windowMs = defaults.windowMs, openMs = defaults.openMs } = options;
  for (const name of ["windowMs", "openMs", "openMsMax", "trialMs", "slowMs", "timeoutMs"] as const)
    checkNumber(name, options[name], 1, foreverMs, false);
  for (const name of [
    "minimumCalls",
    "consecutiveFailures",
    "windowCalls",
    "halfOpenCalls",
    "halfOpenSuccesses",
    "concurrencyMax",
  ] as const)
    checkNumber(name, options[name], 1, 1_000_000, true);
  checkNumber("buckets", options.buckets, 1, 1000, true);
  checkNumber("queueMax", options.queueMax, 0, 1_000_000, true);
  checkNumber("openFactor", options.openFactor, 1, 100, false);
  for (const name of ["failureRatio", "slowRatio", "openJitter"] as const) checkNumber(name, options[name], 0, 1, false);
  checkNumber("retry.attemptsMax", options.retry?.attemptsMax, 1, 1_000_000, true);
  for (const name of ["delayMs", "delayMsMax"] as const) checkNumber(`retry.${name}`, options.retry?.[name], 0, foreverMs, false);
  checkNumber("retry.attemptTimeoutMs", options.retry?.attemptTimeoutMs, 1, Number.POSITIVE_INFINITY, false);
  if (options.slowRatio != null && options.slowMs == null) throw new RangeError("slowRatio needs slowMs: from when on is a call slow?");
  return {
    windowMs,
    bucketMs: windowMs / (options.buckets ?? Math.max(1, Math.round(windowMs / defaults.bucketMs))),
    windowCalls: options.windowCalls === undefined ? defaults.windowCalls : options.windowCalls,
    consecutiveFailures: options.consecutiveFailures === undefined ? defaults.consecutiveFailures : options.consecutiveFailures,
    minimumCalls: options.minimumCalls ?? defaults.minimumCalls,
    failureRatio: options.failureRatio === undefined ? defaults.failureRatio : options.failureRatio,
    slowRatio: options.slowRatio === undefined ? (options.slowMs == null ? null : defaultCallLimits.slowRatio) : options.slowRatio,
    plainRatio: options.ratioRule === "plain",
    openMs,
    openMsMax: Math.max(openMs, options.openMsMax ?? defaults.openMsMax),
    openFactor: options.openFactor ?? defaults.openFactor,
    openJitter: options.openJitter ?? defaults.openJitter,
    halfOpenCalls: options.halfOpenCalls ?? defaults.halfOpenCalls,
    halfOpenSuccesses: options.halfOpenSuccesses ?? defaults.halfOpenSuccesses,
    trialMs: options.trialMs ?? defaults.trialMs,
    openingDecayMs: defaults.openingDecayMs,
    tallies,
  };
}
