import type { HealthState, Observation } from "@mcp-failover/contracts";
import type { HealthPolicy } from "./policy.ts";
import { fractionOf } from "./string-hash.ts";

/**
 * When to probe an endpoint next, and how long to wait for it.
 *
 * S1  Regular probes lie on a grid that is a function of the endpoint's key, the interval and the clock alone: it does not drift, and a
 *     prober that takes an endpoint over goes on where the other stopped.
 * S2  Neighbouring probes of the grid are at most `jitterRatio` of an interval off it, and never in the wrong order.
 * S3  The next probe is always in the future, and at most one interval (with its jitter) away.
 * S4  A first failure, and a first answer of what was not up, are checked after `fastRetryMs`; what is failing is probed at least
 *     every `downIntervalMs`.
 * S5  A quick probe waits at least `confirmUsualFactor` times the usual response time, and never longer than the time-out.
 * S6  Who limits our rate is probed no sooner than its `Retry-After` says, up to one interval, and never by a fast retry.
 */
export interface ScheduleInput {
  readonly key: string;
  readonly policy: HealthPolicy;
  /** Status as it was last said, with the runs as they are after the last probe. */
  readonly state: Pick<HealthState, "status" | "okRun" | "failRun">;
  readonly lastOutcome: Observation["outcome"] | null;
  /** What the endpoint asked for with `Retry-After`. */
  readonly retryAfterMs: number | null;
  readonly nowMs: number;
}
export interface NextProbe {
  readonly atMs: number;
  readonly purpose: "scheduled" | "retry";
}

/** The next probe after one that has just ended (S1 to S4, S6). Pure. */
export function nextProbe({ key, policy, state, lastOutcome, retryAfterMs, nowMs }: ScheduleInput): NextProbe {
  const slotMs = gridSlot(key, policy, nowMs);
  const regular: NextProbe = { atMs: slotMs, purpose: "scheduled" };
  if (lastOutcome === null) return regular;
  if (lastOutcome === "hard") {
    if (state.failRun < policy.failuresDown) return sooner(regular, { atMs: nowMs + policy.fastRetryMs, purpose: "retry" });
    return sooner(regular, { atMs: nowMs + jittered(key, policy.downIntervalMs, policy.jitterRatio, nowMs), purpose: "retry" });
  }
  // Who limits our rate is not asked again quickly; but two intervals on, its result would prove nothing any more.
  if (lastOutcome === "soft")
    return { atMs: Math.max(slotMs, nowMs + Math.min(retryAfterMs ?? 0, policy.intervalMs)), purpose: "scheduled" };
  const isUp = state.status === "healthy" || state.status === "degraded";
  if (isUp) return regular;
  if (state.okRun < policy.successesUp) return sooner(regular, { atMs: nowMs + policy.fastRetryMs, purpose: "retry" });
  return sooner(regular, { atMs: nowMs + jittered(key, policy.downIntervalMs, policy.jitterRatio, nowMs), purpose: "scheduled" });
}

/** The first time on the grid of a key that is after `afterMs` (S1, S2). */
export function gridSlot(key: string, policy: Pick<HealthPolicy, "intervalMs" | "jitterRatio">, afterMs: number): number {
  const { intervalMs, jitterRatio } = policy;
  const phaseMs = fractionOf(key) * intervalMs;
  for (let n = Math.floor((afterMs - phaseMs) / intervalMs); ; n += 1) {
    const atMs = Math.ceil(phaseMs + n * intervalMs + fractionOf(`${key}#${n}`) * jitterRatio * intervalMs);
    if (atMs > afterMs) return atMs;
  }
}

/** How many times of the grid lie after `fromMs` and not after `toMs`: probes that were due while one was still under way. */
export function slotsBetween(key: string, policy: Pick<HealthPolicy, "intervalMs" | "jitterRatio">, fromMs: number, toMs: number): number {
  let count = 0;
  for (let atMs = gridSlot(key, policy, fromMs); atMs <= toMs && count < 1000; atMs = gridSlot(key, policy, atMs)) count += 1;
  return count;
}

/** Time-out of a probe (S5). `askedMs` is what the asker of a confirming probe wishes. */
export function probeTimeoutMs(
  policy: Pick<HealthPolicy, "timeoutMs" | "confirmTimeoutMs" | "confirmUsualFactor">,
  purpose: Observation["purpose"],
  usualMs: number | null,
  askedMs: number | null = null,
): number {
  if (purpose === "scheduled") return policy.timeoutMs;
  if (purpose === "requested" && askedMs !== null) return askedMs;
  const usualEnoughMs = usualMs === null ? policy.confirmTimeoutMs : Math.ceil(usualMs * policy.confirmUsualFactor);
  return Math.min(policy.timeoutMs, Math.max(askedMs ?? policy.confirmTimeoutMs, usualEnoughMs));
}

function sooner(a: NextProbe, b: NextProbe): NextProbe {
  return b.atMs < a.atMs ? b : a;
}

/** A wait made shorter by up to the jitter, the same for all who ask with the same key and time. */
function jittered(key: string, waitMs: number, ratio: number, nowMs: number): number {
  return Math.max(1, Math.round(waitMs * (1 - ratio * fractionOf(`${key}@${nowMs}`))));
}
