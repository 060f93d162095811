import type { FailoverState, Trial } from "@mcp-failover/contracts";
import type { FailoverInput } from "./failover-outcome.ts";
import { isOfAnotherClock } from "./store-time.ts";
import { wilsonLowerBound, wilsonUpperBound } from "./wilson.ts";

/**
 * Whether a move helped: the endpoint that it led to is judged by the real traffic that it got since. F11 and F12 of `failover.ts`.
 */

/** How calls ended at an endpoint lately, or since the move to it, as one router says. `run`: hard failures in a row at the end. */
export type RouterCalls = {
  router: string;
  ok: number;
  hard: number;
  run: number;
  /** When it last said anything at all, where that matters. */
  heardAtMs?: number;
  /** When the first of these failures was stored; absent: none failed, or the input is of a time that did not ask. */
  failingSinceMs?: number;
};
export type TrafficSlice = {
  after: RouterCalls[];
  /** At the active endpoint in the last `verifyMs`: what the next move is compared with. */
  before: { ok: number; hard: number };
};

/** The verification that is under way; null: none is. */
export function trialInForce({ state, nowMs }: Pick<FailoverInput, "state" | "nowMs">): Trial | null {
  const { trial } = state;
  return trial == null || trial.failed || nowMs >= trial.untilMs || isOfAnotherClock(trial.atMs, nowMs) ? null : trial;
}

/**
 * Why the endpoint that is being verified is no better than what was left; null: nothing says so. Where two routers or more have called it,
 * most of them have to say so: one that reaches nothing condemns nothing.
 */
export function judgeTrial(input: FailoverInput): string | null {
  const trial = trialInForce(input);
  if (trial === null || input.traffic === undefined) return null;
  const { policy, suspects } = input;
  const speaking = input.traffic.after.filter(({ router, ok, hard }) => ok + hard > 0 && !suspects.includes(`router:${router}`));
  // Of calls that all failed the share is over any ratio, also one that is set to 1.
  const against = speaking.filter(({ ok, hard }) => ok === 0 || hard > policy.verifyRatio * (ok + hard));
  if (speaking.length === 0 || against.length * 2 <= speaking.length) return null;
  const sum = (of: (router: RouterCalls) => number): number => speaking.reduce((all, router) => all + of(router), 0);
  const hard = sum((router) => router.hard);
  const calls = hard + sum((router) => router.ok);
  const run = speaking.every((router) => router.run > 0) ? sum((router) => router.run) : 0;
  const tooMany = calls >= policy.verifyCallsMin && wilsonLowerBound(hard, calls) > policy.verifyRatio;
  if (run < policy.verifyFailures && !tooMany) return null;
  const { before } = trial;
  const callsBefore = before.ok + before.hard;
  const better =
    callsBefore >= policy.verifyCallsMin &&
    wilsonUpperBound(hard, calls) < wilsonLowerBound(Math.min(before.hard, callsBefore), callsBefore);
  if (better) return null;
  const compared = callsBefore === 0 ? "" : `; ${before.hard} of ${callsBefore} did at the endpoint before it`;
  return `${hard} of ${calls} calls failed since it became active at epoch ${trial.epoch}, the last ${run} in a row${compared}`;
}

/** How long a preferred endpoint has to be well before it is failed back to: doubled by each failback in a row that had to be undone. */
export function failbackWaitMs({ state, policy }: Pick<FailoverInput, "state" | "policy">): number {
  return policy.failbackAfterMs * Math.min(2 ** Math.min(state.failbackFailures ?? 0, 30), policy.failbackBackoffMax);
}

/** Moves that are verified: those that the controller makes, and every failback. What an operator chose otherwise is theirs to judge. */
export function trialAfterMove(input: FailoverInput, move: { rule: string; epoch: number }): Trial | null {
  const { policy, nowMs, state, command } = input;
  const isFailback = move.rule === "failback" || move.rule === "operator_failback";
  if (!(policy.verifyMs > 0) || (command !== null && !isFailback)) return null;
  const before = trialInForce(input);
  const chained = before !== null && !isFailback;
  return {
    epoch: move.epoch,
    kind: isFailback ? "failback" : "failover",
    atMs: nowMs,
    untilMs: nowMs + policy.verifyMs,
    round: chained ? before.round + 1 : 0,
    tried: isFailback ? [] : [...(chained ? before.tried : []), state.active].slice(-100),
    before: input.traffic?.before ?? { ok: 0, hard: 0 },
    failed: false,
  };
}

/** The counts of failbacks that had to be undone, after an automatic move off the active endpoint. */
export function failbackRecord(input: FailoverInput): Pick<FailoverState, "failbackFailures" | "failbackFailedAtMs"> {
  const { state, nowMs, policy } = input;
  const { trial, failbackFailures = 0, failbackFailedAtMs } = state;
  if (trial?.kind === "failback" && nowMs - trial.atMs < Math.max(policy.failbackAfterMs, policy.verifyMs)) {
    return { failbackFailures: failbackFailures + 1, failbackFailedAtMs: nowMs };
  }
  if (failbackFailures === 0 || nowMs - state.sinceMs >= failbackWaitMs(input)) {
    return failbackFailures === 0 ? {} : { failbackFailures: 0 };
  }
  return { failbackFailures, ...(failbackFailedAtMs === undefined ? {} : { failbackFailedAtMs }) };
}
