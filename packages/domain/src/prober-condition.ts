import type { FailureCode } from "@mcp-failover/contracts";
import type { ProberPolicy } from "./prober-policy.ts";

/**
 * What a prober knows of its own state, so that its own trouble is not told as a target's.
 *
 * P1  Isolated: every reference fails, and of the targets some have been silent since that began, and none has answered (within
 *     `answerProvesMs`). A reference that fails while targets answer has failed itself, and one that fails while nobody has tried a target
 *     says nothing yet. Without references nobody is ever called isolated.
 * P2  Overloaded: over the last `conditionSamples` samples the event loop came over `lagMsMax` late on average, or more than
 *     `refusedShareMax` of the due probes found no place; until neither is so for as many samples.
 * P3  A time-out during which this process stood still for `stallMs` proves nothing, and neither does any failure without an answer while
 *     isolated. An answer always proves what it says.
 */
export type ConditionPolicy = Pick<ProberPolicy, "answerProvesMs" | "conditionSamples" | "lagMsMax" | "refusedShareMax" | "stallMs">;

/** One second of a prober. */
export interface LoadSample {
  readonly lagMs: number;
  /** Probes that were due, and those of them that found no place in flight. */
  readonly due: number;
  readonly refused: number;
}

/** P2. The newest samples come last; `before` is what was said last. */
export function judgeOverload(samples: readonly LoadSample[], before: boolean, policy: ConditionPolicy): boolean {
  const newest = samples.slice(-policy.conditionSamples);
  if (newest.length < policy.conditionSamples) return before;
  const lagMs = newest.reduce((sum, sample) => sum + sample.lagMs, 0) / newest.length;
  const due = newest.reduce((sum, sample) => sum + sample.due, 0);
  const refused = newest.reduce((sum, sample) => sum + sample.refused, 0);
  const over = lagMs > policy.lagMsMax || refused > due * policy.refusedShareMax;
  // Half of the limit ends it, so that it is not said anew every second.
  const stillOver = lagMs > policy.lagMsMax / 2 || refused > (due * policy.refusedShareMax) / 2;
  return before ? stillOver : over;
}

/** P1. All times are of one clock; null: never. */
export function judgeIsolation(
  seen: {
    /** The references. */
    readonly failingSinceMs: number | null;
    /** When the last probe of any target began that was answered. */
    readonly lastAnswerMs: number | null;
    /** When one ended without any answer. */
    readonly lastSilenceMs: number | null;
    readonly nowMs: number;
  },
  policy: ConditionPolicy,
): boolean {
  const { failingSinceMs, lastAnswerMs, lastSilenceMs, nowMs } = seen;
  if (failingSinceMs === null || lastSilenceMs === null || lastSilenceMs < failingSinceMs) return false;
  return lastAnswerMs === null || lastAnswerMs <= failingSinceMs || nowMs - lastAnswerMs > policy.answerProvesMs;
}

/** Failures in which nothing came back from the endpoint: those that an isolated prober sees everywhere. */
const withoutAnswer: ReadonlySet<FailureCode> = new Set(["refused", "reset", "timeout", "dns", "closed", "unreachable", "other"]);

/** Whether a failure could as well be this prober's own. */
export function isWithoutAnswer(code: FailureCode | null): boolean {
  return code !== null && withoutAnswer.has(code);
}
