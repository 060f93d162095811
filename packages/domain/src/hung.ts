import { defaultPolicy, type RouterPolicy } from "./policy.ts";

/**
 * Whether an endpoint hangs: calls are out, and nothing comes back (design, "Breaker": judged by the age of what is in flight too).
 * A read that waits for it can be sent elsewhere long before its deadline.
 *
 * Invariants, cited by the tests:
 * N1  It hangs only when it has been silent, with a call out, for max(`hungMsMin`, `hungFactor` x its usual p95); for `hungUnknownMs` while
 *     nobody knows what is usual. An endpoint that hung, and has not been heard since, needs no second patience.
 * N2  Silence alone is never enough, because a tool may take its time: a look in the same silence must have had no answer either.
 */
export interface HungQuestion {
  /** The oldest call that is out now; null: none. */
  readonly oldestBegunMs: number | null;
  /** The last sign of life; null: none yet. */
  readonly heardAtMs: number | null;
  /** When the last look that had no answer began; null: none. */
  readonly silentLookAtMs: number | null;
  /** It hung, and has not been heard since. */
  readonly hung: boolean;
  readonly p95Ms: number | null;
  readonly nowMs: number;
}

export type HungPolicy = Pick<RouterPolicy, "hungMsMin" | "hungFactor" | "hungUnknownMs" | "lookMs">;

/** `look`: see whether it answers at all; `hung`: send elsewhere what may go elsewhere. */
export function judgeHung(question: HungQuestion, policy: HungPolicy = defaultPolicy.router): "well" | "look" | "hung" {
  const { oldestBegunMs, heardAtMs, silentLookAtMs, hung, p95Ms, nowMs } = question;
  if (oldestBegunMs === null) return "well";
  const silentSinceMs = Math.max(oldestBegunMs, heardAtMs ?? Number.NEGATIVE_INFINITY);
  const silentMs = nowMs - silentSinceMs;
  const limitMs = overdueMs(p95Ms, policy);
  const looked = silentLookAtMs !== null && silentLookAtMs >= silentSinceMs;
  if (looked && (hung || silentMs >= limitMs)) return "hung";
  return hung || silentMs >= limitMs - lookMsFor(limitMs, policy) ? "look" : "well";
}

/** The age from which a call is late. */
export function overdueMs(p95Ms: number | null, policy: HungPolicy = defaultPolicy.router): number {
  return p95Ms === null ? policy.hungUnknownMs : Math.max(policy.hungMsMin, policy.hungFactor * p95Ms);
}

/** How long a look waits: longer where everything takes longer. */
export function lookMsFor(limitMs: number, policy: Pick<HungPolicy, "lookMs"> = defaultPolicy.router): number {
  return Math.max(policy.lookMs, limitMs / 2);
}
