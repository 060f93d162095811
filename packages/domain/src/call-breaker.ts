import { type BreakerStatus, breakerStatus } from "@mcp-failover/contracts";
import { type CallBreakerPolicy, defaultCallBreakerPolicy } from "./call-breaker-policy.ts";
import { RollingCounts } from "./rolling-counts.ts";
import { fractionOf } from "./string-hash.ts";
import { wilsonLowerBound } from "./wilson.ts";

/**
 * The breaker around one function of one process (`createBreaker` of the SDK). It is kept in place and its permits are plain numbers, because it stands on
 * every call; it reads neither clock nor chance, so that the same calls at the same times give the same states.
 *
 * Invariants, cited by the tests:
 * K1  It opens only by `consecutiveFailures` failures in a row, none `windowMs` after the one before, or at `minimumCalls` and more in the window with the failure
 *     or the slow ratio over its threshold: certainly (95 % Wilson lower bound), or plainly where the policy says so.
 * K2  What was ignored (the caller's own errors, a caller that went away) never opens it.
 * K3  It stays open for at most `openMsMax`; the time alone makes a trial possible: no timer, nothing to get stuck.
 * K4  In half-open at most `halfOpenCalls` trials are out at once. Trials that have not reported after `trialMs` stop counting. One that was answered in a way that
 *     does not count is a good one, as for the fleet's breakers: a function whose usual answer is "there is none" could never close it else.
 * K5  A result of an older generation neither opens nor closes. Nor does the window of a generation reach into the next.
 * K6  The open time grows by `openFactor` with each opening, and falls by one step for each quiet `openingDecayMs`.
 * K7  `forced_open`, `disabled` and `metrics_only` are the operator's: nothing automatic changes them. The last two let every call through.
 */
export class CallBreaker {
  readonly #policy: CallBreakerPolicy;
  readonly #seed: string;
  readonly #counts: RollingCounts;
  /** Of a window by count: outcomes of the last `windowCalls` calls, in a ring. */
  readonly #ring: Uint8Array | null;
  #ringAt = 0;
  #ringSize = 0;
  readonly #ringTotals = [0, 0, 0, 0];
  #status: BreakerStatus = "closed";
  #generation = 0;
  #sinceMs = 0;
  #openUntilMs = 0;
  #openings = 0;
  #failureRun = 0;
  #lastFailedAtMs = 0;
  #trialsOut = 0;
  #trialSuccesses = 0;
  #trialUntilMs = 0;
  #round = 0;
  #withheld = 0;
  #reason = "";
  /** Gives permits without a look at the time: `closed`, `disabled`, `metrics_only`. */
  passing = true;
  /** What a passing call is let through with. */
  passPermit = 0;

  /** `seed` spreads the open times of breakers that fail together; another for each process. */
  constructor(seed: string, policy: CallBreakerPolicy = defaultCallBreakerPolicy) {
    this.#policy = policy;
    this.#seed = seed;
    this.#ring = policy.windowCalls === null ? null : new Uint8Array(policy.windowCalls);
    const buckets = Math.max(1, Math.round(policy.windowMs / policy.bucketMs));
    this.#counts = new RollingCounts({ kinds: kinds + policy.tallies, buckets, bucketMs: policy.bucketMs });
  }

  get status(): BreakerStatus {
    return this.#status;
  }
  get generation(): number {
    return this.#generation;
  }
  get openUntilMs(): number | null {
    return this.#status === "open" ? this.#openUntilMs : null;
  }
  get openings(): number {
    return this.#openings;
  }
  get sinceMs(): number {
    return this.#sinceMs;
  }
  /** Why it stands as it stands, for people. */
  get reason(): string {
    return this.#reason;
  }
  /** Times that it would have opened in `metrics_only`. */
  get withheld(): number {
    return this.#withheld;
  }

  /** Whether {@link acquire} would let a call through now. */
  allows(nowMs: number): boolean {
    if (this.passing) return true;
    if (this.#status === "open") return nowMs >= this.#openUntilMs;
    return this.#status === "half_open" && (this.#trialsOut < this.#policy.halfOpenCalls || nowMs >= this.#trialUntilMs);
  }

  /** Asks to make one call: a permit that comes back with its result, or {@link denied}. */
  acquire(nowMs: number): number {
    if (this.passing) return this.passPermit;
    if (!this.allows(nowMs)) return denied;
    if (this.#status === "open") this.#become("half_open", nowMs, "its open time is over");
    else if (this.#trialsOut >= this.#policy.halfOpenCalls) {
      // The ones that are out hang. A new round in the same generation: they may still close it, but hold nobody up.
      this.#trialsOut = 0;
      this.#round = (this.#round + 1) % rounds;
    }
    this.#trialsOut += 1;
    this.#trialUntilMs = nowMs + this.#policy.trialMs;
    return this.#generation * rounds + this.#round;
  }

  /** Folds the end of a call. */
  record(permit: number, outcome: CallOutcome, nowMs: number): void {
    if (Math.floor(permit / rounds) !== this.#generation) return;
    if (this.#status === "half_open") this.#recordTrial(permit, outcome, nowMs);
    else if (outcome !== callIgnored && this.passing && this.#status !== "disabled") this.#recordCall(outcome, nowMs);
  }

  /** A call has taken longer than it may and is still out: it counts as slow from now on. Its end is for {@link endLate}. */
  grewLate(permit: number, nowMs: number): void {
    if (Math.floor(permit / rounds) !== this.#generation) return;
    if (this.#status === "half_open") this.#recordTrial(permit, callSlow, nowMs);
    // Whether it is one more failure in a row only its end tells.
    else if (this.passing && this.#status !== "disabled") this.#recordCall(callSlow, nowMs, this.#failureRun);
  }

  /** Folds the end of a call that {@link grewLate}: one that failed then is the same one call of the window, slow and failed. */
  endLate(permit: number, failed: boolean, nowMs: number): void {
    if (Math.floor(permit / rounds) !== this.#generation || !this.passing || this.#status === "disabled") return;
    if (!failed) {
      this.#failureRun = 0;
      return;
    }
    if (!this.#takeBackSlow(nowMs)) this.#count(callSlowAndFailed, nowMs);
    this.#addFailure(nowMs);
    this.#judge(nowMs);
  }

  /** Gives a permit back without a word on the function: the next caller may try at once. */
  release(permit: number): void {
    if (this.#status === "half_open" && permit === this.#generation * rounds + this.#round) this.#trialsOut -= 1;
  }

  /** An operator's word: it holds until the next one, except `closed` and `open`, from which the breaker goes on by itself. */
  set(status: Exclude<BreakerStatus, "half_open">, nowMs: number, reason: string): void {
    if (status === "open") this.#open(nowMs, reason);
    else {
      if (status === "closed") this.#openings = 0;
      this.#become(status, nowMs, reason);
    }
  }

  /** Takes up what an earlier process knew. Throws `RangeError`, and changes nothing, on what makes no sense: by a time that is no number it would stay open for ever. */
  restore(state: { readonly status: BreakerStatus; readonly openings: number; readonly openForMs: number }, nowMs: number): void {
    if (!breakerStatus.options.includes(state.status)) throw new RangeError(`restore: status is ${state.status}: give one of a breaker's`);
    for (const name of ["openings", "openForMs"] as const)
      if (!Number.isFinite(state[name])) throw new RangeError(`restore: ${name} is ${state[name]}: give a finite number`);
    this.#openings = Math.max(0, Math.floor(state.openings));
    if (state.status === "closed") return;
    const open = state.status === "open" || state.status === "half_open";
    this.#become(open ? "open" : state.status, nowMs, "restored");
    if (open) this.#openUntilMs = nowMs + Math.min(this.#policy.openMsMax, Math.max(0, state.openForMs));
  }

  /** Counts something for {@link tallies} that decides nothing. */
  tally(index: number, amount: number, nowMs: number): void {
    this.#counts.advance(nowMs);
    this.#counts.add(kinds + index, amount);
  }

  /** Totals of the window by the index of {@link tally}. */
  tallies(nowMs: number): readonly number[] {
    this.#counts.advance(nowMs);
    return [...this.#counts.totals.subarray(kinds)];
  }

  #recordCall(outcome: CountedOutcome, nowMs: number, runAfterSlow = 0): void {
    this.#count(outcome, nowMs);
    if (outcome === callOk) {
      this.#failureRun = 0;
      return;
    }
    if (outcome === callFailed) this.#addFailure(nowMs);
    else this.#failureRun = runAfterSlow;
    this.#judge(nowMs);
  }

  #addFailure(nowMs: number): void {
    this.#failureRun = nowMs - this.#lastFailedAtMs < this.#policy.windowMs ? this.#failureRun + 1 : 1;
    this.#lastFailedAtMs = nowMs;
  }

  #judge(nowMs: number): void {
    const why = this.#trip();
    if (why === null) return;
    if (this.#status === "closed") {
      this.#open(nowMs, why);
      return;
    }
    this.#withheld += 1;
    this.#reason = `metrics only; it would have opened: ${why}`;
    this.#forget();
  }

  #recordTrial(permit: number, outcome: CallOutcome, nowMs: number): void {
    if (permit === this.#generation * rounds + this.#round) this.#trialsOut -= 1;
    if (outcome !== callOk && outcome !== callIgnored) {
      this.#open(nowMs, outcome === callFailed ? "a trial failed" : "a trial was slow");
      return;
    }
    this.#trialSuccesses += 1;
    if (this.#trialSuccesses < this.#policy.halfOpenSuccesses) return;
    this.#become("closed", nowMs, `${this.#trialSuccesses} successful trials`);
  }

  /** Marks a slow call of the window as failed too. False: none is left in it. */
  #takeBackSlow(nowMs: number): boolean {
    const ring = this.#ring;
    if (ring === null) {
      this.#counts.advance(nowMs);
      return this.#counts.move(callSlow, callSlowAndFailed);
    }
    for (let back = 1; back <= this.#ringSize; back += 1) {
      const at = (this.#ringAt - back + ring.length) % ring.length;
      if (ring[at] !== callSlow) continue;
      ring[at] = callSlowAndFailed;
      this.#ringTotals[callSlow] = (this.#ringTotals[callSlow] as number) - 1;
      this.#ringTotals[callSlowAndFailed] = (this.#ringTotals[callSlowAndFailed] as number) + 1;
      return true;
    }
    return false;
  }

  #count(outcome: CountedOutcome | typeof callSlowAndFailed, nowMs: number): void {
    const ring = this.#ring;
    if (ring === null) {
      this.#counts.advance(nowMs);
      this.#counts.add(outcome, 1);
      return;
    }
    const totals = this.#ringTotals;
    if (this.#ringSize === ring.length) {
      const oldest = ring[this.#ringAt] as number;
      totals[oldest] = (totals[oldest] as number) - 1;
    } else this.#ringSize += 1;
    ring[this.#ringAt] = outcome;
    totals[outcome] = (totals[outcome] as number) + 1;
    this.#ringAt = (this.#ringAt + 1) % ring.length;
  }

  #trip(): string | null {
    const { consecutiveFailures, minimumCalls, failureRatio, slowRatio } = this.#policy;
    if (consecutiveFailures !== null && this.#failureRun >= consecutiveFailures) return `${this.#failureRun} failures in a row`;
    const totals = this.#ring === null ? this.#counts.totals : this.#ringTotals;
    const both = totals[callSlowAndFailed] as number;
    const failed = (totals[callFailed] as number) + both;
    const slow = (totals[callSlow] as number) + both;
    const calls = (totals[callOk] as number) + failed + slow - both;
    if (calls < minimumCalls) return null;
    if (this.#over(failed, calls, failureRatio)) return `${failed} of ${calls} calls failed`;
    return this.#over(slow, calls, slowRatio) ? `${slow} of ${calls} calls were slow` : null;
  }

  #over(events: number, calls: number, ratio: number | null): boolean {
    if (ratio === null) return false;
    if (this.#policy.plainRatio) return events > 0 && events / calls >= ratio;
    // The bound is never over the ratio itself, so that most calls need no square root.
    return events / calls > ratio && wilsonLowerBound(events, calls) > ratio;
  }

  #open(nowMs: number, why: string): void {
    const { openMs, openMsMax, openFactor, openJitter, openingDecayMs } = this.#policy;
    const quiet = this.#status === "closed" ? Math.floor(Math.max(0, nowMs - this.#sinceMs) / openingDecayMs) : 0;
    const openings = Math.max(0, this.#openings - quiet);
    const wholeMs = Math.min(openMsMax, openMs * openFactor ** openings);
    const spread = openJitter === 0 ? 0 : openJitter * fractionOf(`${this.#seed}/${this.#generation + 1}`);
    this.#become("open", nowMs, why);
    this.#openUntilMs = nowMs + wholeMs * (1 - spread);
    // Openings stop growing where the open time does, so that quiet time takes them back soon.
    this.#openings = wholeMs < openMsMax ? openings + 1 : openings;
  }

  #become(status: BreakerStatus, nowMs: number, reason: string): void {
    this.#status = status;
    this.#generation += 1;
    this.#sinceMs = nowMs;
    this.#reason = reason;
    this.#trialsOut = 0;
    this.#trialSuccesses = 0;
    this.#round = 0;
    this.passing = status === "closed" || status === "disabled" || status === "metrics_only";
    this.passPermit = this.#generation * rounds;
    this.#forget();
  }

  #forget(): void {
    this.#failureRun = 0;
    this.#counts.clear(0, kinds);
    this.#ringAt = 0;
    this.#ringSize = 0;
    this.#ringTotals.fill(0);
  }
}

/** {@link CallBreaker.acquire} gave no permit. */
export const denied = -1;
export const callOk = 0;
export const callFailed = 1;
/** It succeeded, later than it may. */
export const callSlow = 2;
/** It was answered with an error that does not count: in half-open a good trial, else no call at all. */
export const callIgnored = 4;
type CountedOutcome = typeof callOk | typeof callFailed | typeof callSlow;
export type CallOutcome = CountedOutcome | typeof callIgnored;
/** It was slow while it was out, and failed then: one call that counts for both ratios. */
const callSlowAndFailed = 3;

const kinds = 4;
/** Rounds of trials within a generation that are told apart. */
const rounds = 1024;
