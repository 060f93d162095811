import type { BreakerStatus } from "@mcp-failover/contracts";
import {
  chargeRetry,
  creditCall,
  defaultCallLimits,
  defaultPolicy,
  initialRetryBudget,
  mayRetry,
  type RetryBudget,
} from "@mcp-failover/domain";
import { foreverMs } from "./attempt.ts";
import type { AttemptNote, BreakerContext, CallSpec } from "./breaker-call.ts";
import type { BreakerEvent, BreakerEvents } from "./breaker-events.ts";
import type { BreakerCallOptions, BreakerMemory, BreakerOptions, Fallback, RetryOptions } from "./breaker-options.ts";
import { BreakerRunner, type Work } from "./breaker-runner.ts";
import { type BreakerStats, statsOf, tally } from "./breaker-stats.ts";
import { checkSignal } from "./checks.ts";
import { CallTimeoutError } from "./errors.ts";

/** A circuit breaker around functions of this process, with time-out, bulkhead, retries and fallback; it needs no fleet and no NATS. */
export interface Breaker<R = never> {
  readonly name: string;
  readonly state: BreakerStatus;
  readonly isClosed: boolean;
  /** `open` or `forced_open`. */
  readonly isOpened: boolean;
  readonly isHalfOpen: boolean;
  /** Whether a call would be let through now; true of an open breaker whose time is over. */
  readonly allows: boolean;
  /**
   * Runs the function. Throws what the function throws, else `BreakerOpenError` or `BulkheadFullError` (it was not called), `CallTimeoutError` (its signal was
   * aborted), or the reason of the caller's signal. With a fallback: what that throws, but `OutcomeUnknownError` where the call may have run and is not idempotent.
   */
  execute<T, F = never>(work: Work<T>, options?: BreakerCallOptions<F>): Promise<T | F | R>;
  /** The function with the breaker around it, arguments as they are. */
  wrap<A extends unknown[], T>(fn: (...args: A) => T | PromiseLike<T>): (...args: A) => Promise<T | R>;
  /** The same for a function that takes the call's context, with its signal, before its arguments. */
  wrapWithContext<A extends unknown[], T>(fn: (context: BreakerContext, ...args: A) => T | PromiseLike<T>): (...args: A) => Promise<T | R>;
  /** Calls the listener at each event. Returns what ends that. */
  on<E extends BreakerEvent>(event: E, listener: (event: BreakerEvents[E]) => void): () => void;
  stats(): BreakerStats;
  /** Lets nothing through until another word. */
  forceOpen(reason?: string): void;
  /** Lets everything through and judges nothing until another word. Time-out and bulkhead stay. */
  disable(reason?: string): void;
  /** Lets everything through and counts how often it would have opened, until another word. */
  metricsOnly(reason?: string): void;
  /** Opens it for its open time; from there it goes on by itself. */
  open(reason?: string): void;
  /** Closes it and forgets its back-off; from there it goes on by itself. */
  close(reason?: string): void;
  /** What `initial` takes in the next process. */
  toJSON(): BreakerMemory;
}

/** Makes a breaker. Throws `RangeError` on an option that makes no sense. */
export function createBreaker<R = never>(options: BreakerOptions<R> = {}): Breaker<R> {
  const { name = "function", fallback, initial, idempotent = false, nowMs = () => performance.now() } = options;
  const timeoutMs = options.timeoutMs === undefined ? defaultCallLimits.timeoutMs : options.timeoutMs;
  const runner = new BreakerRunner(options as BreakerOptions<unknown>, timeoutMs);
  const { core } = runner;
  if (initial !== undefined) {
    // Out of a file or a store, so it may be anything, also null.
    const leftMs = initial?.openForMs - Math.max(0, Date.now() - initial?.savedAtMs);
    const restore = runner.listeners.guard(() => core.restore({ ...initial, openForMs: leftMs }, nowMs()), undefined);
    restore(initial);
  }
  const usual: CallSpec = {
    signal: undefined,
    timeoutMs,
    wholeMs: timeoutMs,
    idempotent,
    fallback: fallback as Fallback<unknown> | undefined,
    attempt: 1,
    note: null,
  };
  const specOf = (own: BreakerCallOptions<unknown>, ownMs: number | null): CallSpec => ({
    signal: own.signal,
    timeoutMs: ownMs,
    wholeMs: ownMs,
    idempotent: own.idempotent ?? idempotent,
    fallback: own.fallback ?? usual.fallback,
    attempt: 1,
    note: null,
  });
  const retrying = options.retry === undefined ? null : retries(runner, options as BreakerOptions<unknown>, options.retry);
  const execute = <T>(work: Work<T>, own?: BreakerCallOptions<unknown>): Promise<T> => {
    let spec = usual;
    if (own !== undefined) {
      const ownMs = own.timeoutMs === undefined ? timeoutMs : own.timeoutMs === null ? null : Math.min(foreverMs, own.timeoutMs);
      if (ownMs !== null && !(ownMs > 0)) return Promise.reject(new RangeError(`timeoutMs is ${ownMs}: give a number over 0, or null`));
      try {
        checkSignal(own.signal);
      } catch (error) {
        return Promise.reject(error);
      }
      spec = specOf(own, ownMs);
    }
    return retrying === null ? runner.run(work, spec) : retrying(work, spec);
  };
  return {
    name,
    get state() {
      return core.status;
    },
    get isClosed() {
      return core.status === "closed";
    },
    get isOpened() {
      return core.status === "open" || core.status === "forced_open";
    },
    get isHalfOpen() {
      return core.status === "half_open";
    },
    get allows() {
      return core.allows(nowMs());
    },
    execute,
    wrap:
      (fn) =>
      (...args) =>
        execute(() => fn(...args)),
    wrapWithContext:
      (fn) =>
      (...args) =>
        execute((context) => fn(context, ...args)),
    on: (event, listener) => runner.listeners.on(event, listener),
    stats: () => statsOf(core, { running: runner.running, waiting: runner.waiting, nowMs: nowMs() }),
    forceOpen: (reason = "forced open") => runner.set("forced_open", reason),
    disable: (reason = "disabled") => runner.set("disabled", reason),
    metricsOnly: (reason = "metrics only") => runner.set("metrics_only", reason),
    open: (reason = "opened by hand") => runner.set("open", reason),
    close: (reason = "closed by hand") => runner.set("closed", reason),
    toJSON: () => ({
      status: core.status,
      openings: core.openings,
      openForMs: core.openUntilMs === null ? 0 : Math.max(0, core.openUntilMs - nowMs()),
      savedAtMs: Date.now(),
    }),
  };
}

/**
 * Calls a function again within the time of the call: only after proof that it did not run, or where it is idempotent, and only while retries are few
 * against calls (the same rules and budget as the fleet's, `retry.ts` of the domain).
 */
function retries(
  runner: BreakerRunner,
  { nowMs = () => performance.now(), random = Math.random }: BreakerOptions<unknown>,
  { attemptsMax = defaultCallLimits.attemptsMax, delayMs = defaultCallLimits.retryDelayMs, delayMsMax, attemptTimeoutMs }: RetryOptions,
): <T>(work: Work<T>, spec: CallSpec) => Promise<T> {
  let budget: RetryBudget = initialRetryBudget(nowMs(), defaultPolicy.router);
  return async (work, spec) => {
    const deadlineMs = spec.timeoutMs === null ? Number.POSITIVE_INFINITY : nowMs() + spec.timeoutMs;
    budget = creditCall(budget, nowMs());
    const note: AttemptNote = { called: null };
    for (let attempt = 1; ; attempt += 1) {
      const leftMs = deadlineMs - nowMs();
      const timeMs = Math.min(leftMs, attemptTimeoutMs ?? leftMs);
      // The usual time-out has a timer of its own for all calls, so that the first attempt costs what a call costs.
      const ownMs = timeMs === Number.POSITIVE_INFINITY ? null : Math.min(foreverMs, timeMs);
      const timeoutMs = attempt === 1 && timeMs === leftMs ? spec.timeoutMs : ownMs;
      try {
        note.called = null;
        return await runner.run(work, { ...spec, timeoutMs, wholeMs: timeoutMs, fallback: undefined, attempt, note });
      } catch (error) {
        const { called } = note;
        if (spec.signal?.aborted || called === null) throw error;
        // The time of an attempt can be over in the queue: then another may have more luck, but not after a refusal.
        const refused = !called && !(error instanceof CallTimeoutError);
        const { executed } = runner.failureOf(error);
        const answer = mayRetry({
          safety: spec.idempotent ? "idempotent" : "unsafe",
          executed,
          attempts: attempt,
          attemptsMax,
          budget,
          deadlineMs,
          nowMs: nowMs(),
        });
        const waitMs = Math.min(delayMsMax ?? defaultCallLimits.retryDelayMsMax, delayMs * 2 ** (attempt - 1)) * (1 - random() / 2);
        if (refused || !answer.retry || nowMs() + waitMs >= deadlineMs) return runner.answer(error, spec, called);
        if (answer.charged) budget = chargeRetry(budget, nowMs());
        runner.core.tally(tally.retry, 1, nowMs());
        runner.listeners.emit("retry", { attempt: attempt + 1, error });
        await pause(waitMs, spec.signal);
      }
    }
  };
}

/** Resolves after a time, or when the signal is aborted: the next attempt sees that. */
function pause(forMs: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    const end = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, forMs);
    signal?.addEventListener("abort", end, { once: true });
  });
}
