import type { Actor, BreakerAction, BreakerState, BreakerStatus, Permit } from "@mcp-failover/contracts";
import type { Evaluation, ObserverEvidence } from "./breaker-evidence.ts";
import type { BreakerPolicy } from "./policy.ts";
import { isOfAnotherClock } from "./store-time.ts";
import { fractionOf } from "./string-hash.ts";
import { wilsonLowerBound, wilsonUpperBound } from "./wilson.ts";

/**
 * The fleet's circuit breaker of one endpoint.
 *
 * Invariants, cited by the property tests and the simulator:
 * C1  By itself it opens only when an observer has `consecutiveFailures` hard failures in a row, or says that the endpoint hangs, or has
 *     `minimumCalls` and more with the Wilson lower bound of its failure or slow ratio over the threshold on `evaluations` seconds in a row.
 * C2  `soft`, `auth` and `caller` results never open it.
 * C3  Observers that say so have to outnumber those whose own fresh evidence says otherwise: an answer newer than the run, or enough calls
 *     for a ratio. One alone moves nothing while any other has a fresh answer, even an older one, and has seen nothing of the kind itself.
 * C4  Only evidence since the last change counts; results of an older generation neither open nor close.
 * C5  The generation grows by exactly one at every change, and nothing else changes without it.
 * C6  Open ends by time alone: `openUntilMs` is set, at most `openMsMax` ahead; not before the endpoint's own `Retry-After`, up to that.
 *     Where the store's clock was set back since, it ends at once, as half-open's permits do (ST2): nobody waits for another clock's time.
 * C7  Half-open is never stuck: it opens on failures, closes on successes, and permits that expire without a verdict are renewed.
 * C8  Permits let through at most max(`halfOpenCalls`, 1) calls in all, each router at most once, each with an expiry.
 * C9  `forced_open`, `disabled` and `metrics_only` are an operator's: nothing automatic changes them, and a command is done whatever the
 *     evidence says. Each command is one change, also to what it was already: so the log has who wants it so, and why.
 * C10 The same input gives the same decision: time, jitter and evidence are data.
 */
export interface BreakerInput {
  readonly upstream: string;
  readonly endpoint: string;
  readonly policy: BreakerPolicy;
  /** A store's timestamp or 1 s boundary. */
  readonly nowMs: number;
  readonly state: BreakerState;
  /** Since the last change of `state` (`evidenceOf`). */
  readonly evidence: readonly ObserverEvidence[];
  /** Routers that have reported lately; they get the permits. */
  readonly routers: readonly string[];
  /** Absent: decide by the evidence. */
  readonly command?: BreakerOrder;
}
/** What an operator wants of a breaker. */
export interface BreakerOrder {
  readonly action: BreakerAction;
  readonly commandId: string;
  readonly by: Actor;
  readonly reason: string;
}
export type BreakerRule =
  | "consecutive_failures"
  | "hung"
  | "failure_ratio"
  | "slow_ratio"
  | "open_time_over"
  | "half_open_failed"
  | "half_open_succeeded"
  | "permits_expired"
  | "operator"
  | "none";
export interface BreakerDecision {
  readonly rule: BreakerRule;
  readonly changed: boolean;
  /** One sentence for people. */
  readonly reason: string;
  /** The whole state after it. */
  readonly state: BreakerState;
  readonly rejected: readonly { readonly option: string; readonly why: string }[];
  /** Only of `metrics_only`: it would have opened. */
  readonly wouldOpen?: true;
}

/** Before the first `breaker.changed` of an endpoint; needs no event. */
export const initialBreakerState: BreakerState = {
  status: "closed",
  generation: 0,
  sinceMs: 0,
  openUntilMs: null,
  openings: 0,
  permits: [],
};

/** Decides what becomes of one breaker at `nowMs`. Pure; `changed: false` gives back the same state. */
export function decideBreaker(input: BreakerInput): BreakerDecision {
  if (input.command !== undefined) return obey(input, input.command);
  switch (input.state.status) {
    case "closed":
      return decideClosed(input);
    case "open":
      return decideOpen(input);
    case "half_open":
      return decideHalfOpen(input);
    case "metrics_only": {
      const trip = findTrip(input);
      if (!trip.found) return stay(input, "operator", "metrics only");
      return { ...stay(input, "operator", `metrics only; it would open: ${trip.reason}`), wouldOpen: true };
    }
    case "forced_open":
    case "disabled":
      return stay(input, "operator", `${input.state.status} by an operator`);
  }
}

/** Whether the time alone may change a breaker in this state, so that nobody has to look at it before unless something is heard. */
export function isBreakerDue(state: BreakerState, policy: BreakerPolicy, nowMs: number): boolean {
  if (state.status === "open") return !waitsForItsTime(state, nowMs);
  return state.status === "half_open" && permitsAreOver(state, policy, nowMs);
}

/** Open, and its time is not over: whatever is heard changes nothing. */
export function waitsForItsTime({ status, openUntilMs, sinceMs }: BreakerState, nowMs: number): boolean {
  return status === "open" && nowMs < (openUntilMs ?? 0) && !isOfAnotherClock(sinceMs, nowMs);
}

const ordered: Readonly<Record<BreakerAction, { readonly status: BreakerStatus; readonly done: string }>> = {
  force_open: { status: "forced_open", done: "forced open" },
  disable: { status: "disabled", done: "disabled" },
  metrics_only: { status: "metrics_only", done: "set to metrics only" },
  reset: { status: "closed", done: "reset" },
};

function obey(input: BreakerInput, { action, by, reason }: BreakerOrder): BreakerDecision {
  const { status, done } = ordered[action];
  // What it had to wait for its failures is forgotten by a reset, and kept through an operator's state.
  const openings = action === "reset" ? 0 : input.state.openings;
  return change(input, "operator", `${done} by ${by.id}: ${reason}`, { status, openUntilMs: null, openings, permits: [] });
}

function decideClosed(input: BreakerInput): BreakerDecision {
  const { policy, state, nowMs } = input;
  const trip = findTrip(input);
  if (!trip.found) return { ...stay(input, "none", "nothing trips it"), rejected: trip.rejected };
  const quiet = Math.floor(Math.max(0, nowMs - state.sinceMs) / policy.openingDecayMs);
  const openings = Math.max(0, state.openings - quiet);
  return { ...change(input, trip.rule, trip.reason, opened(input, openings, trip.accusing)), rejected: trip.rejected };
}

function decideOpen(input: BreakerInput): BreakerDecision {
  const { state, nowMs } = input;
  if (waitsForItsTime(state, nowMs)) return stay(input, "none", "open until its time is over");
  return change(input, "open_time_over", "its open time is over; some calls and all probes may try it", {
    status: "half_open",
    openUntilMs: null,
    openings: state.openings,
    permits: permitsFor(input, input.policy.permitMs),
  });
}

function decideHalfOpen(input: BreakerInput): BreakerDecision {
  const { policy, state, nowMs, evidence } = input;
  const fails = (one: ObserverEvidence): boolean => one.hardRun > 0 || one.hungSinceMs !== undefined;
  const failing = evidence.filter(fails);
  const working = evidence.filter((one) => !fails(one) && one.answered > 0);
  const successes = (state.renewed?.successes ?? 0) + evidence.reduce((all, one) => all + one.answered, 0);
  const expired = permitsAreOver(state, policy, nowMs);
  const counts = `${say(failing.length, "observer")} failing, ${working.length} working, ${say(successes, "success", "successes")}`;
  // On a draw the permits' time is waited out, then caution wins.
  if (failing.length > working.length || (failing.length > 0 && expired)) {
    return change(input, "half_open_failed", `half-open failed: ${counts}`, opened(input, state.openings, failing));
  }
  if (successes >= policy.halfOpenSuccesses && working.length > failing.length) {
    return change(input, "half_open_succeeded", `half-open succeeded: ${counts}`, {
      status: "closed",
      openUntilMs: null,
      openings: state.openings,
      permits: [],
    });
  }
  // With no router there is nobody to renew them for: probes alone decide, and a router that comes gets its share then.
  if (!expired || input.routers.length === 0) return stay(input, "none", `half-open, no verdict yet: ${counts}`);
  const times = (state.renewed?.times ?? 0) + 1;
  const permitMs = Math.min(Math.max(policy.permitMs, policy.openMsMax), policy.permitMs * 2 ** Math.min(times, 16));
  return change(input, "permits_expired", `the permits expired without a verdict and are renewed: ${counts}`, {
    status: "half_open",
    // The same half-open goes on: calls that began in it still count.
    sinceMs: isOfAnotherClock(state.sinceMs, nowMs) ? nowMs : state.sinceMs,
    openUntilMs: null,
    openings: state.openings,
    permits: permitsFor(input, permitMs),
    renewed: { times, atMs: nowMs, successes },
  });
}

type TripRule = "consecutive_failures" | "hung" | "failure_ratio" | "slow_ratio";
type Trip =
  | {
      readonly found: true;
      readonly rule: TripRule;
      readonly reason: string;
      readonly accusing: readonly ObserverEvidence[];
      readonly rejected: BreakerDecision["rejected"];
    }
  | { readonly found: false; readonly rejected: BreakerDecision["rejected"] };

interface Charge {
  readonly rule: TripRule;
  readonly what: string;
  readonly accusing: readonly ObserverEvidence[];
  readonly contradicting: readonly ObserverEvidence[];
}

/** The first rule that opens the breaker, and those that only a minority of the observers sees broken (C3). */
function findTrip(input: BreakerInput): Trip {
  const rejected: { option: string; why: string }[] = [];
  const fresh = input.evidence.filter((one) => one.lastAtMs > input.nowMs - input.policy.evidenceFreshMs);
  for (const charge of [
    bySuccession(input, fresh),
    byHanging(input, fresh),
    byRatio(input, fresh, "hard"),
    byRatio(input, fresh, "slow"),
  ]) {
    const { rule, what, accusing, contradicting } = charge;
    if (accusing.length === 0) continue;
    const accusers = namesOf(accusing);
    if (accusing.length > contradicting.length) {
      const outvoted = contradicting.length === 0 ? "" : `; outvoted: ${namesOf(contradicting)}`;
      return { found: true, rule, reason: `${accusers}: ${what}${outvoted}`, accusing, rejected };
    }
    rejected.push({ option: `open by ${rule}`, why: `${accusers}: ${what}, but ${namesOf(contradicting)} saw otherwise` });
  }
  return { found: false, rejected };
}

function bySuccession(input: BreakerInput, fresh: readonly ObserverEvidence[]): Charge {
  const { consecutiveFailures } = input.policy;
  const accusing = fresh.filter((one) => one.hardRun >= consecutiveFailures);
  const sinceMs = Math.min(...accusing.map((one) => one.runSinceMs ?? 0));
  return {
    rule: "consecutive_failures",
    what: `${consecutiveFailures} or more hard failures in a row`,
    accusing,
    contradicting: fresh.filter((one) => !accusing.includes(one) && hasAnswer(input, one, accusing, sinceMs)),
  };
}

/** Calls are overdue and a look had no answer: known long before they time out. */
function byHanging(input: BreakerInput, fresh: readonly ObserverEvidence[]): Charge {
  const accusing = fresh.filter((one) => one.hungSinceMs !== undefined);
  const sinceMs = Math.min(...accusing.map((one) => one.hungSinceMs ?? 0));
  return {
    rule: "hung",
    what: "calls are overdue, and a look had no answer either",
    accusing,
    contradicting: fresh.filter((one) => !accusing.includes(one) && hasAnswer(input, one, accusing, sinceMs)),
  };
}

/**
 * Whether an observer got an answer that contradicts: one after the failures had begun or, against a single accuser, any fresh one that no
 * failure of its own has followed. One who has only failures since, or nothing, does not contradict.
 */
function hasAnswer(input: BreakerInput, one: ObserverEvidence, accusing: readonly ObserverEvidence[], sinceMs: number): boolean {
  const atMs = one.lastNotHardAtMs;
  if (atMs === null || atMs <= input.nowMs - input.policy.evidenceFreshMs) return false;
  return atMs >= sinceMs || (accusing.length === 1 && one.hardRun === 0 && one.hungSinceMs === undefined);
}

function byRatio(input: BreakerInput, fresh: readonly ObserverEvidence[], kind: "hard" | "slow"): Charge {
  const { policy } = input;
  const threshold = kind === "hard" ? policy.failureRatio : policy.slowRatio;
  const over = (one: Evaluation): boolean => one.calls >= policy.minimumCalls && wilsonLowerBound(one[kind], one.calls) > threshold;
  const accusing = fresh.filter((one) => one.evaluations.length >= policy.evaluations && one.evaluations.every(over));
  const [first, ...more] = accusing;
  const alone = more.length === 0 ? first?.evaluations.at(-1) : undefined;
  const certain = alone === undefined ? 1 : wilsonLowerBound(alone[kind], alone.calls);
  const contradicting = fresh.filter((one) => {
    if (accusing.includes(one)) return false;
    const last = one.evaluations.at(-1) ?? { calls: 0, hard: 0, slow: 0 };
    // A ratio is contradicted by as many calls as it takes to state one. One who is over it, but not yet for long enough, does not.
    if (last.calls >= policy.minimumCalls) return !over({ ...last, atMs: 0 });
    // Against a single accuser a few answers do, with nothing of the kind among them or certainly less than the accuser saw.
    if (alone === undefined || !hasAnswer(input, one, accusing, Number.POSITIVE_INFINITY)) return false;
    return last[kind] === 0 || wilsonUpperBound(last[kind], last.calls) < certain;
  });
  return {
    rule: kind === "hard" ? "failure_ratio" : "slow_ratio",
    what: `${kind === "hard" ? "failures" : "slow calls"} certainly over ${threshold} on ${policy.evaluations} evaluations in a row`,
    accusing,
    contradicting,
  };
}

function namesOf(observers: readonly ObserverEvidence[]): string {
  return observers.map((one) => one.observer).join(", ");
}

type Next = Pick<BreakerState, "status" | "openUntilMs" | "openings" | "permits" | "renewed"> & { readonly sinceMs?: number };

/** Finagle's equal jitter: half of the back-off is fixed, half is spread, here by a hash so that a replay gets the same (C10). */
function opened(input: BreakerInput, openings: number, accusing: readonly ObserverEvidence[]): Next {
  const { policy, state, nowMs } = input;
  const wholeMs = Math.min(policy.openMsMax, policy.openMs * policy.openFactor ** openings);
  const spread = fractionOf(`${input.upstream}/${input.endpoint}/${state.generation + 1}`);
  // A time that an operator set (no growth) is kept to the millisecond.
  const openMs = policy.openFactor === 1 ? wholeMs : Math.round(wholeMs / 2 + (spread * wholeMs) / 2);
  const restMs = Math.max(0, ...accusing.map((one) => (one.restUntilMs ?? 0) - nowMs));
  const openUntilMs = nowMs + Math.min(policy.openMsMax, Math.max(openMs, restMs));
  // Openings stop growing where the open time does, so that quiet time takes them back soon.
  return { status: "open", openUntilMs, openings: wholeMs < policy.openMsMax ? openings + 1 : openings, permits: [] };
}

/**
 * Splits the calls of half-open over the routers. With more routers than calls some of them have their turn, by a hash: a step at each generation would come back
 * to the same ones where it and their number fit, and others never had any.
 */
function permitsFor(input: BreakerInput, forMs: number): Permit[] {
  const routers = [...new Set(input.routers)].sort();
  if (routers.length === 0) return [];
  const calls = Math.max(1, input.policy.halfOpenCalls);
  const chosen = Math.min(routers.length, calls);
  const turn = fractionOf(`${input.upstream}/${input.endpoint}/${input.state.generation}/permits`);
  const first = chosen === routers.length ? 0 : Math.floor(turn * routers.length);
  return Array.from({ length: chosen }, (_, index) => ({
    router: routers[(first + index) % routers.length] ?? "",
    calls: Math.floor(calls / chosen) + (index < calls % chosen ? 1 : 0),
    expiresAtMs: input.nowMs + forMs,
  }));
}

/** Whether the permits have ended; without any, whether they would have. */
function permitsAreOver({ permits, renewed, sinceMs }: BreakerState, policy: BreakerPolicy, nowMs: number): boolean {
  const givenMs = renewed?.atMs ?? sinceMs;
  return isOfAnotherClock(givenMs, nowMs) || nowMs >= (permits[0]?.expiresAtMs ?? givenMs + policy.permitMs);
}

function change(input: BreakerInput, rule: BreakerRule, reason: string, next: Next): BreakerDecision {
  const { sinceMs = input.nowMs, ...rest } = next;
  return { rule, changed: true, reason, state: { ...rest, generation: input.state.generation + 1, sinceMs }, rejected: [] };
}

function stay(input: BreakerInput, rule: BreakerRule, reason: string): BreakerDecision {
  return { rule, changed: false, reason, state: input.state, rejected: [] };
}

function say(count: number, one: string, many = `${one}s`): string {
  return `${count} ${count === 1 ? one : many}`;
}
