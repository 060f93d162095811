import type { BreakerStatus } from "@mcp-failover/contracts";
import { CallBreaker, type CallOutcome, callFailed, callIgnored, callOk, callSlow, defaultCallLimits, denied } from "@mcp-failover/domain";
import { attempt, foreverMs } from "./attempt.ts";
import { type BreakerContext, Call, type CallOwner, type CallSpec } from "./breaker-call.ts";
import { BreakerListeners } from "./breaker-events.ts";
import { type BreakerOptions, policyOf } from "./breaker-options.ts";
import { talliesCount, tally } from "./breaker-stats.ts";
import { DeadlineList } from "./deadline-list.ts";
import { BreakerOpenError, BulkheadFullError, CallTimeoutError, OutcomeUnknownError } from "./errors.ts";
import { countsByDefault, type Failure, failureOf, isBadResponse } from "./failure.ts";
import { WaitingLine } from "./waiting-line.ts";

export type Work<T> = (context: BreakerContext) => T | PromiseLike<T>;

/**
 * Runs single calls through one {@link CallBreaker}: admits them, follows them and counts how they end. What it does on every call is kept small: a call has one
 * object and, where something may end it before its function, one promise; the time is read once.
 *
 * Invariants, cited by the tests:
 * S1  At most `concurrencyMax` functions run at once and `queueMax` calls wait; a function that goes on after its end keeps its place, 30 s at most.
 * S2  No call outlives its time: then its caller has an error, and its signal is aborted.
 * S3  Every call ends in exactly one of the counts of `stats`, and its permit comes back exactly once.
 * S4  A listener, a fallback, `isFailure`, `isFailureResult` or `classify` that throws harms no other call, and keeps none from its answer. Nor does a fallback that
 *     fails make a call that may have run, or a fallback that may have, look like one that may be repeated.
 */
export class BreakerRunner implements CallOwner {
  readonly core: CallBreaker;
  readonly listeners: BreakerListeners;
  readonly #name: string;
  readonly #nowMs: () => number;
  readonly #timeoutMs: number | null;
  readonly #slowMs: number | null;
  readonly #measures: boolean;
  readonly #concurrencyMax: number;
  readonly #queueMax: number;
  readonly #line: WaitingLine;
  readonly #isFailure: (error: unknown) => boolean;
  readonly #isFailureResult: (value: unknown) => boolean;
  readonly #classify: (error: unknown) => Failure | null;
  /** Where calls with the usual time-out begin. Null: nothing is watched. */
  readonly #firstList: DeadlineList | null;
  /** Where those go on that are late but not over. */
  readonly #secondList: DeadlineList | null;
  #running = 0;
  #admitting = false;

  constructor(options: BreakerOptions<unknown>, timeoutMs: number | null) {
    this.#name = options.name ?? "function";
    const policy = policyOf(options, talliesCount);
    this.core = new CallBreaker(`${this.#name}/${(options.random ?? Math.random)()}`, policy);
    this.listeners = new BreakerListeners(
      options.onError ?? ((error) => process.emitWarning(error instanceof Error ? error : String(error))),
    );
    this.#nowMs = options.nowMs ?? (() => performance.now());
    this.#timeoutMs = timeoutMs;
    const slowMs = options.slowMs ?? null;
    this.#slowMs = slowMs;
    this.#measures = slowMs !== null || options.measureLatency === true;
    this.#concurrencyMax = options.concurrencyMax ?? defaultCallLimits.concurrencyMax;
    this.#queueMax = options.queueMax ?? defaultCallLimits.queueMax;
    this.#line = new WaitingLine(this.#queueMax);
    const { isFailure, isFailureResult, classify } = options;
    this.#isFailure = isFailure === undefined ? countsByDefault : this.listeners.guard(isFailure, true);
    this.#isFailureResult = isFailureResult === undefined ? isBadResponse : this.listeners.guard(isFailureResult, false);
    this.#classify = classify === undefined ? () => null : this.listeners.guard(classify, null);
    const onTimeout = (call: Call): void => this.#timeOut(call);
    if (slowMs !== null && (timeoutMs === null || slowMs < timeoutMs)) {
      this.#firstList = new DeadlineList(slowMs, (entry) => this.#grewSlow(entry as Call));
      this.#secondList = timeoutMs === null ? null : new DeadlineList(timeoutMs - slowMs, (entry) => onTimeout(entry as Call));
    } else {
      this.#firstList = timeoutMs === null ? null : new DeadlineList(timeoutMs, (entry) => onTimeout(entry as Call));
      this.#secondList = null;
    }
  }

  get running(): number {
    return this.#running;
  }
  get waiting(): number {
    return this.#line.length;
  }

  /** Makes a call, or says at once why not. */
  run<T>(work: Work<T>, spec: CallSpec): Promise<T> {
    if (spec.signal?.aborted) return this.#cancelled(spec.signal.reason);
    if (this.#running >= this.#concurrencyMax) return this.#wait(work, spec);
    const { core } = this;
    let permit = core.passPermit;
    if (!core.passing) {
      permit = this.#acquire();
      if (permit === denied) return this.#refuse<T>(spec);
    }
    const call = new Call(this, spec, permit);
    if (this.#measures || this.listeners.wantsLatency) call.startMs = this.#nowMs();
    this.#running += 1;
    let result: T | PromiseLike<T>;
    let promised: Promise<T> | null;
    try {
      result = work(call);
      // A promise comes back as it is. Of any other thenable, which may do its work in `then` and throw there, this makes one.
      promised = isThenable(result) ? Promise.resolve(result) : null;
    } catch (error) {
      return this.#settled(call, this.#failed<T>(call, error));
    }
    if (promised !== null) return this.#follow(call, promised);
    this.#succeeded(call, result);
    this.#leave(call);
    return Promise.resolve(result);
  }

  #follow<T>(call: Call, result: Promise<T>): Promise<T> {
    const { signal, timeoutMs } = call.spec;
    if (timeoutMs === this.#timeoutMs) this.#firstList?.add(call);
    else this.#timeByItself(call, timeoutMs);
    if (timeoutMs === null && signal === undefined) {
      // Nothing ends it before its function, so the function's own promise is all it needs.
      return result.then(
        (value) => {
          this.#unwatch(call);
          this.#succeeded(call, value);
          this.#leave(call);
          return value;
        },
        (error: unknown) => {
          this.#unwatch(call);
          return this.#settled(call, this.#failed<T>(call, error));
        },
      );
    }
    const promise = new Promise<T>((resolve) => {
      call.resolve = resolve as (value: unknown) => void;
    });
    signal?.addEventListener("abort", call, { once: true });
    result.then(
      (value) => {
        this.#unwatch(call);
        if (!call.ended) {
          call.ended = true;
          this.#succeeded(call, value);
          call.resolve?.(value);
        }
        this.#leave(call);
      },
      (error: unknown) => {
        this.#unwatch(call);
        if (!call.ended) {
          call.ended = true;
          call.resolve?.(this.#failed(call, error));
        }
        this.#leave(call);
      },
    );
    // It was aborted while the function began, when nobody listened yet.
    if (signal?.aborted) this.cancel(call);
    return promise;
  }

  /** The caller of a call went away. */
  cancel(call: Call): void {
    if (call.ended) return;
    call.ended = true;
    this.#unwatch(call);
    this.core.release(call.permit);
    const reason: unknown = call.spec.signal?.reason;
    this.#abandon(call, reason);
    call.resolve?.(this.#cancelled(reason));
  }

  /** A call with a time of its own has a timer of its own: once when it grows slow, then for the rest. */
  #timeByItself(call: Call, timeoutMs: number | null): void {
    const slowMs = this.#slowMs;
    const rest = (ms: number): void => {
      if (timeoutMs !== null) call.timer = setTimeout(() => this.#timeOut(call), ms);
    };
    if (slowMs === null || (timeoutMs !== null && timeoutMs <= slowMs)) {
      rest(timeoutMs ?? 0);
      return;
    }
    call.timer = setTimeout(() => {
      this.#grewSlow(call);
      rest((timeoutMs ?? 0) - slowMs);
    }, slowMs);
  }

  #timeOut(call: Call): void {
    call.ended = true;
    this.#unwatch(call);
    const error = new CallTimeoutError(this.#name, call.spec.wholeMs ?? 0, !call.spec.idempotent);
    this.#fail(call, this.#nowMs());
    this.#count(tally.timeout);
    this.listeners.emit("timeout", { error });
    this.#abandon(call, error);
    call.resolve?.(this.answer(error, call.spec, true));
  }

  #grewSlow(call: Call): void {
    call.late = true;
    if (call.spec.timeoutMs === this.#timeoutMs) this.#secondList?.add(call);
    const nowMs = this.#nowMs();
    const { core } = this;
    const { generation, status } = core;
    core.grewLate(call.permit, nowMs);
    if (core.generation !== generation) this.#changed(status);
    this.#countSlow(nowMs - call.startMs);
  }

  /** A function that goes on after its call keeps its place until it ends, or for long enough. */
  #abandon(call: Call, reason: unknown): void {
    call.timer = setTimeout(() => this.#leave(call), defaultCallLimits.abandonedMs);
    call.timer.unref();
    call.abort(reason);
  }

  #unwatch(call: Call): void {
    call.list?.remove(call);
    if (call.timer !== undefined) clearTimeout(call.timer);
    call.spec.signal?.removeEventListener("abort", call);
  }

  /** The place is free once the breaker has judged: whoever waits for it goes by that. */
  #settled<T>(call: Call, answer: Promise<T>): Promise<T> {
    this.#leave(call);
    return answer;
  }

  #leave(call: Call): void {
    if (!call.placed) return;
    call.placed = false;
    this.#running -= 1;
    if (this.#line.length > 0) this.#admit();
  }

  /** A call that ends at once leaves from within its own start: the loop goes on by itself, however long the line is. */
  #admit(): void {
    if (this.#admitting) return;
    this.#admitting = true;
    try {
      while (this.#running < this.#concurrencyMax) {
        const next = this.#line.next();
        if (next === null) return;
        next.start();
      }
    } finally {
      this.#admitting = false;
    }
  }

  #succeeded(call: Call, value: unknown): void {
    const nowMs = this.#nowMs();
    const failed = this.#isFailureResult(value);
    const latencyMs = this.#measured(call, nowMs);
    if (failed) this.#fail(call, nowMs);
    else if (call.late) this.core.endLate(call.permit, false, nowMs);
    else if (this.#slowMs !== null && latencyMs !== null && latencyMs > this.#slowMs) {
      this.#judge(call.permit, callSlow, nowMs);
      this.#countSlow(latencyMs);
    } else this.#judge(call.permit, callOk, nowMs);
    this.core.tally(failed ? tally.failure : tally.success, 1, nowMs);
    if (!this.listeners.any) return;
    if (failed) this.listeners.emit("failure", { error: value, latencyMs });
    else this.listeners.emit("success", { latencyMs });
  }

  /** The function failed: the fallback's answer, or the error. */
  #failed<T>(call: Call, error: unknown): Promise<T> {
    const nowMs = this.#nowMs();
    const latencyMs = this.#measured(call, nowMs);
    if (!this.#isFailure(error)) {
      this.#judge(call.permit, callIgnored, nowMs);
      this.core.tally(tally.ignored, 1, nowMs);
      this.listeners.emit("ignored", { error });
      return Promise.reject(error);
    }
    this.#fail(call, nowMs);
    this.core.tally(tally.failure, 1, nowMs);
    this.listeners.emit("failure", { error, latencyMs });
    return this.answer<T>(error, call.spec, true);
  }

  #measured(call: Call, nowMs: number): number | null {
    if (Number.isNaN(call.startMs)) return null;
    const latencyMs = nowMs - call.startMs;
    this.core.tally(tally.latencyMs, latencyMs, nowMs);
    this.core.tally(tally.measured, 1, nowMs);
    return latencyMs;
  }

  #countSlow(latencyMs: number): void {
    this.#count(tally.slow);
    this.listeners.emit("slow", { latencyMs });
  }

  #count(index: number): void {
    this.core.tally(index, 1, this.#nowMs());
  }

  #fail(call: Call, nowMs: number): void {
    if (!call.late) {
      this.#judge(call.permit, callFailed, nowMs);
      return;
    }
    const { core } = this;
    const { generation, status } = core;
    core.endLate(call.permit, true, nowMs);
    if (core.generation !== generation) this.#changed(status);
  }

  #judge(permit: number, outcome: CallOutcome, nowMs: number): void {
    const { core } = this;
    const { generation, status } = core;
    core.record(permit, outcome, nowMs);
    if (core.generation !== generation) this.#changed(status);
  }

  #acquire(): number {
    const { core } = this;
    const { generation, status } = core;
    const permit = core.acquire(this.#nowMs());
    if (core.generation !== generation) this.#changed(status);
    return permit;
  }

  /** An operator's word. */
  set(status: Exclude<BreakerStatus, "half_open">, reason: string): void {
    const from = this.core.status;
    this.core.set(status, this.#nowMs(), reason);
    this.#changed(from);
  }

  #changed(from: BreakerStatus): void {
    const { status: to, generation, reason } = this.core;
    const change = { from, to, generation, reason };
    this.listeners.emit("change", change);
    if (to === "open" || to === "forced_open") {
      this.listeners.emit("open", change);
      this.#line.refuseAll(() => this.#openError());
    }
    if (to === "half_open") this.listeners.emit("half_open", change);
    if (to === "closed") this.listeners.emit("close", change);
  }

  #openError(): BreakerOpenError {
    const { status, reason, openUntilMs } = this.core;
    const again = openUntilMs === null ? "" : `, for ${Math.ceil(Math.max(0, openUntilMs - this.#nowMs()))} ms more`;
    return new BreakerOpenError(this.#name, `${status.replaceAll("_", " ")}: ${reason}${again}`);
  }

  #refuse<T>(spec: CallSpec, error = this.#openError()): Promise<T> {
    this.#count(tally.rejected);
    this.listeners.emit("reject", { error });
    return this.answer(error, spec, false);
  }

  #cancelled(reason: unknown): Promise<never> {
    this.#count(tally.cancelled);
    this.listeners.emit("cancel", { reason });
    return Promise.reject(reason);
  }

  /** All places are taken: the call waits for one, or is told at once. */
  #wait<T>(work: Work<T>, spec: CallSpec): Promise<T> {
    if (!this.core.allows(this.#nowMs())) return this.#refuse(spec);
    const { signal, timeoutMs } = spec;
    const sinceMs = performance.now();
    return new Promise<T>((resolve) => {
      const leave = (answer: () => Promise<T>): void => {
        this.#line.leave(waiting);
        clearTimeout(timer);
        signal?.removeEventListener("abort", onAbort);
        resolve(answer());
      };
      const waiting = {
        start: (): void => {
          const waitedMs = performance.now() - sinceMs;
          leave(() => this.run(work, timeoutMs === null ? spec : { ...spec, timeoutMs: Math.max(0, timeoutMs - waitedMs) }));
        },
        refuse: (error: BreakerOpenError): void => leave(() => this.#refuse(spec, error)),
      };
      const onAbort = (): void => leave(() => this.#cancelled(signal?.reason));
      const onTimeout = (): void => {
        const error = new CallTimeoutError(this.#name, timeoutMs ?? 0, false);
        leave(() => {
          this.#count(tally.timeout);
          this.listeners.emit("timeout", { error });
          return this.answer(error, spec, false);
        });
      };
      const timer = timeoutMs === null ? undefined : setTimeout(onTimeout, timeoutMs);
      signal?.addEventListener("abort", onAbort, { once: true });
      if (this.#line.join(waiting)) return;
      const error = new BulkheadFullError(this.#name, this.#concurrencyMax, this.#queueMax);
      leave(() => {
        this.#count(tally.full);
        this.listeners.emit("full", { error, running: this.#running, waiting: this.#line.length });
        return this.answer(error, spec, false);
      });
    });
  }

  /** What an error of the function proves. */
  failureOf(error: unknown): Failure {
    return this.#classify(error) ?? failureOf(error);
  }

  /** Ends a call with whatever its fallback says, or with its error. `called`: its function was. */
  answer<T>(error: unknown, spec: CallSpec, called: boolean): Promise<T> {
    const { fallback, signal, wholeMs, note } = spec;
    if (note !== null) note.called = called;
    if (fallback === undefined) return Promise.reject(error);
    this.#count(tally.fallback);
    this.listeners.emit("fallback", { error });
    const outcomeUnknown = called && !spec.idempotent && this.failureOf(error).executed !== "no";
    const timeoutMs = wholeMs ?? foreverMs;
    const late = (): Error => new CallTimeoutError(this.#name, timeoutMs, !spec.idempotent, error);
    const options = { timeoutMs, timeoutReason: late, signal, onSettled: () => undefined };
    return attempt((of) => fallback(error, { signal: of, outcomeUnknown }), options).then((end) => {
      if (end.kind === "value") return end.value as T;
      if (end.kind === "error" && end.error !== error && outcomeUnknown) throw new OutcomeUnknownError(this.#name, null, error, end.error);
      throw end.kind === "timeout" ? late() : end.kind === "cancelled" ? end.reason : end.error;
    });
  }
}

function isThenable<T>(value: T | PromiseLike<T>): value is PromiseLike<T> {
  return typeof (value as PromiseLike<T> | null | undefined)?.then === "function";
}
