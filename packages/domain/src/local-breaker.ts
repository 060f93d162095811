import type { FailureCode, OutcomeClass } from "@mcp-failover/contracts";
import { defaultPolicy, type LocalBreakerPolicy } from "./policy.ts";

/**
 * The breaker that one process (a router, an SDK client) keeps of one endpoint: it acts on the very next call, without asking the log.
 * The fleet's breaker (`breaker.ts`) is slower and agreed on; a call needs both.
 *
 * Invariants, cited by the tests:
 * L1  It is ejected only by a `refused`, by a judgement on the whole endpoint, or by `failures` hard results in a row, none `runMs` after the one before, of calls that it let
 *     through in its present generation.
 * L2  `soft`, `auth` and `caller` results never eject: the endpoint answered.
 * L3  An ejection lasts at most `ejectMsMax`, and the time alone makes a trial possible: no timer, nothing to get stuck.
 * L4  In half-open at most one trial is out at a time. A trial that never reports stops counting after `trialMs`.
 * L5  A result of an older generation changes nothing: it neither opens nor closes.
 * L6  The same calls at the same times give the same states.
 */
export type LocalBreaker =
  /** `ejections` is the exponent of the next ejection; it falls by one for each quiet `decayMs` after `sinceMs`. */
  | {
      readonly status: "closed";
      readonly generation: number;
      readonly failureRun: number;
      readonly lastFailedAtMs: number;
      readonly ejections: number;
      readonly sinceMs: number;
    }
  | { readonly status: "ejected"; readonly generation: number; readonly untilMs: number; readonly ejections: number }
  | { readonly status: "half_open"; readonly generation: number; readonly trialUntilMs: number; readonly ejections: number };

/** What a call was let through with; it comes back with the call's result. */
export interface LocalPermit {
  readonly generation: number;
}
export interface LocalOutcome {
  readonly class: OutcomeClass;
  readonly code: FailureCode | null;
  /** Judged was the endpoint as a whole (it hangs), not one call. */
  readonly whole?: boolean;
}

export const initialLocalBreaker: LocalBreaker = {
  status: "closed",
  generation: 0,
  failureRun: 0,
  lastFailedAtMs: 0,
  ejections: 0,
  sinceMs: 0,
};

/** Whether {@link localAcquire} would give a permit now. */
export function localAllows(state: LocalBreaker, nowMs: number): boolean {
  switch (state.status) {
    case "closed":
      return true;
    case "ejected":
      return nowMs >= state.untilMs;
    case "half_open":
      return nowMs >= state.trialUntilMs;
  }
}

/**
 * Asks to send one call. `permit: null` means: go elsewhere. After an ejection the first caller gets the trial.
 * `force` is panic routing (every endpoint looks dead, so all are tried): it gives a permit whatever the state, and a success with it
 * closes the breaker, because the call began after the ejection.
 */
export function localAcquire(
  state: LocalBreaker,
  nowMs: number,
  options: { readonly force?: boolean; readonly policy?: LocalBreakerPolicy } = {},
): { readonly state: LocalBreaker; readonly permit: LocalPermit | null } {
  const { trialMs } = options.policy ?? defaultPolicy.localBreaker;
  if (state.status === "closed") return { state, permit: { generation: state.generation } };
  if (!localAllows(state, nowMs)) return { state, permit: options.force ? { generation: state.generation } : null };
  // A second trial after a hung one stays in the same generation: endpoints whose calls take longer than `trialMs` could never close else.
  const generation = state.status === "ejected" ? state.generation + 1 : state.generation;
  return {
    state: { status: "half_open", generation, trialUntilMs: nowMs + trialMs, ejections: state.ejections },
    permit: { generation },
  };
}

/** Folds the result of a call. A result of an older generation is ignored (L5). */
export function localRecord(
  state: LocalBreaker,
  permit: LocalPermit,
  outcome: LocalOutcome,
  nowMs: number,
  policy: LocalBreakerPolicy = defaultPolicy.localBreaker,
): LocalBreaker {
  if (permit.generation !== state.generation) return state;
  const hard = outcome.class === "hard";
  switch (state.status) {
    case "closed": {
      if (!hard) return state.failureRun === 0 ? state : { ...state, failureRun: 0 };
      const failureRun = nowMs - state.lastFailedAtMs < policy.runMs ? state.failureRun + 1 : 1;
      if (outcome.code !== "refused" && outcome.whole !== true && failureRun < policy.failures)
        return { ...state, failureRun, lastFailedAtMs: nowMs };
      const decayed = Math.floor(Math.max(0, nowMs - state.sinceMs) / policy.decayMs);
      return eject(state.generation, Math.max(0, state.ejections - decayed), nowMs, policy);
    }
    case "ejected":
      // Only a forced call has this generation. Its failure says nothing new, and must not lengthen the ejection.
      return hard ? state : close(state, nowMs);
    case "half_open":
      return hard ? eject(state.generation, state.ejections, nowMs, policy) : close(state, nowMs);
  }
}

/** Gives a permit back unused (the caller went away before a result): the next caller may try at once. */
export function localRelease(state: LocalBreaker, permit: LocalPermit): LocalBreaker {
  return state.status === "half_open" && permit.generation === state.generation ? { ...state, trialUntilMs: 0 } : state;
}

function eject(generation: number, ejections: number, nowMs: number, policy: LocalBreakerPolicy): LocalBreaker {
  const forMs = Math.min(policy.ejectMsMax, policy.ejectMs * policy.ejectFactor ** ejections);
  // Ejections stop growing where their time does, so that quiet time takes them back soon.
  const next = forMs < policy.ejectMsMax ? ejections + 1 : ejections;
  return { status: "ejected", generation: generation + 1, untilMs: nowMs + forMs, ejections: next };
}

function close(state: LocalBreaker, nowMs: number): LocalBreaker {
  return {
    status: "closed",
    generation: state.generation + 1,
    failureRun: 0,
    lastFailedAtMs: 0,
    ejections: state.ejections,
    sinceMs: nowMs,
  };
}
