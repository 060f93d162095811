import type { BreakerState, Permit } from "@mcp-failover/contracts";
import { defaultPolicy } from "./policy.ts";
import { isOfAnotherClock } from "./store-time.ts";

/**
 * Reads the fleet's breaker for one call of this process. No request, no wait: the permits are in the breaker's state.
 *
 * Invariants, cited by the tests:
 * G1  `forced_open` lets nothing through, whatever else is true; `disabled` and `metrics_only` never stop a call.
 * G2  While somebody keeps the breaker, a half-open one lets this process send as many calls as its permit of this generation says, and an
 *     open one none. A process that came when the permits had been given, and everybody there had got some, makes one call at a time:
 *     until they are renewed it would have nowhere to go with a read, however well the endpoint is.
 * G3  Static stability: with the log out of reach, or with nobody left to move the breaker on, one trial at a time is let through once its
 *     open time is over; so many good ones as close the fleet's breaker make this process take it for closed, until it hears of the next state.
 */
export type BreakerGate =
  | "allow"
  | "permit"
  /** Only when no other trial of this process is out. */
  | "trial"
  /** Half-open: only when no other call of this process is out, as one without a permit; else `surplus`. */
  | "turn"
  /** Half-open, and the permit is used: the fleet's verdict is due soon. */
  | "surplus"
  | "deny";

export interface BreakerGateQuestion {
  /** Null: no breaker was ever heard of. */
  readonly state: (Pick<BreakerState, "status" | "openUntilMs" | "sinceMs"> & { readonly permits: readonly Permit[] }) | null;
  readonly router: string;
  /** Permits of this state's generation that this process has used. */
  readonly permitsUsed: number;
  /** Answers in a row to calls that were let through in this generation; absent: not counted. */
  readonly answeredRun?: number;
  /** The log can be heard, so that the next state of the breaker would be. */
  readonly logReachable: boolean;
  readonly nowMs: number;
}

/** Nobody moved a breaker on for this long after its time: its keepers are gone, and local trials take over. */
const keeperGoneMs = 5000;

export function breakerGate({ state, router, permitsUsed, answeredRun = 0, logReachable, nowMs }: BreakerGateQuestion): BreakerGate {
  if (state === null) return "allow";
  const graceMs = logReachable ? keeperGoneMs : 0;
  const onTrial = answeredRun >= defaultPolicy.breaker.halfOpenSuccesses ? "allow" : "trial";
  switch (state.status) {
    case "closed":
    case "disabled":
    case "metrics_only":
      return "allow";
    case "forced_open":
      return "deny";
    case "open":
      // ST2: what the store's clock said before it was set back is over.
      return nowMs >= (state.openUntilMs ?? 0) + graceMs || isOfAnotherClock(state.sinceMs, nowMs) ? onTrial : "deny";
    case "half_open": {
      const mine = state.permits.find((permit) => permit.router === router);
      if (mine !== undefined && nowMs < mine.expiresAtMs && permitsUsed < mine.calls) return "permit";
      // Nobody can hear what the permits' calls showed: this process goes by its own.
      if (!logReachable) return onTrial;
      const lastExpiryMs = state.permits.reduce((latest, permit) => Math.max(latest, permit.expiresAtMs), 0);
      if (nowMs >= lastExpiryMs + graceMs || isOfAnotherClock(state.sinceMs, nowMs)) return onTrial;
      // Where one got more than one call, no router that was there went without.
      return mine === undefined && state.permits.some(({ calls }) => calls > 1) ? "turn" : "surplus";
    }
  }
}
