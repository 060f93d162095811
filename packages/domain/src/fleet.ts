import type { FleetReserved } from "@mcp-failover/contracts";
import type { FailoverPolicy } from "./policy.ts";
import { breachOf, brokenAlready, type SafetyFacts } from "./safety-rules.ts";
import { isOfAnotherClock } from "./store-time.ts";

/**
 * What spans upstreams: the limit on automatic moves of the whole fleet, and the safety rules. A place is reserved on one fenced subject
 * before an upstream is moved, for many upstreams at once where many wait.
 *
 * L1  Never more than `fleetMoves` reservations count at once: those that were used within `fleetWindowMs`, and those that still may be. An
 *     operator's counts for nothing.
 * L2  A reservation that was not used ends after `reservationMs`; one that was used counts for the whole window, from when it was made.
 * L3  A reservation belongs to an upstream, an epoch and a target, not to a decider: who finds it there goes on with it, and reserves nothing. But
 *     an operator's is for operators alone, and one that overrides a rule for force alone.
 * L4  Equal inputs give equal decisions; the input is not altered.
 * L5  Of those that ask together critical upstreams come first, then who has failed for longest; failbacks come last.
 * L6  The last places, `fleetCriticalShare` of them, are for critical upstreams alone: others that failed a moment before cannot take them.
 * L7  No place for a move against a safety rule (S1 to S5); an operator's force overrides the rule, and the reservation names it.
 * L8  The time of places does not go back: a decider a little behind the one before it (`behindMsMax`) decides at the time of the latest place. Else it
 *     would count too few: what the other left out as older than the window is still within its own.
 */
export type Reservation = FleetReserved["reservations"][number];

/** A move that asks for a place. */
export type Want = {
  upstream: string;
  /** Of the move that it is for. */
  epoch: number;
  critical: boolean;
  /** Since when it is needed. */
  sinceMs: number;
  from: string;
  to: string;
  toBackup: boolean;
  failback: boolean;
  operator: boolean;
  force: boolean;
};

export type ReservationInput = {
  wants: Want[];
  state: { reservations: Reservation[] };
  /** Moves that were decided, by upstream and epoch: what makes a reservation a used one. */
  moved: { upstream: string; epoch: number }[];
  rules: SafetyFacts[];
  policy: Pick<FailoverPolicy, "fleetMoves" | "fleetWindowMs" | "fleetCriticalShare" | "reservationMs">;
  nowMs: number;
};

export type ReservationAnswer = {
  upstream: string;
  epoch: number;
  granted: boolean;
  rule: "reserved" | "reserved_already" | "fleet_limit" | "safety_rule";
  reason: string;
  expiresAtMs: number;
  /** When a place may be free again; null: that is not what it was refused for. */
  retryAtMs: number | null;
  overrode: string[];
};

export type ReservationDecision = {
  kind: "granted" | "refused";
  rule: ReservationAnswer["rule"];
  reason: string;
  /** One for each want, in the order in which they were looked at. */
  answers: ReservationAnswer[];
  /** Whether the state after this is to be said in a `fleet.reserved`. */
  publish: boolean;
  state: { reservations: Reservation[] };
  rejected: { option: string; why: string }[];
};

/** Limits above this are no limit: the reservations are in every decision of the fleet, and a decision is to stay small. */
const reservationsKeptMax = 200;
/** So many moves are looked at in one decision; the others come in the next. */
export const wantsMax = 200;

/** Two deciders' times of the same moment differ by less: by a boundary of a second, and by how well each knows the clock of the store. */
const behindMsMax = 5000;

/** Reserves places for moves (L1 to L8). Pure. */
export function decideReservation(asked: ReservationInput): ReservationDecision {
  const latestMs = Math.max(0, ...asked.state.reservations.map(({ atMs }) => atMs));
  const nowMs = latestMs - asked.nowMs <= behindMsMax ? Math.max(asked.nowMs, latestMs) : asked.nowMs;
  const input = { ...asked, nowMs };
  const { policy } = input;
  const movedKeys = new Set(input.moved.map(({ upstream, epoch }) => `${epoch} ${upstream}`));
  const wasMoved = (one: Reservation): boolean => movedKeys.has(`${one.epoch} ${one.upstream}`);
  let counted = input.state.reservations
    .map((one) => (one.used || !wasMoved(one) ? one : { ...one, used: true }))
    .filter((one) => !isOfAnotherClock(one.atMs, nowMs) && (one.used ? nowMs - one.atMs < policy.fleetWindowMs : nowMs < one.expiresAtMs));
  const answers: ReservationAnswer[] = [];
  const taken: string[] = [];
  for (const want of [...input.wants].sort(compareWants)) {
    const same = counted.find((one) => one.upstream === want.upstream && one.epoch === want.epoch);
    const others = counted.filter((one) => one !== same);
    const answer = answerTo(want, same, others, input);
    answers.push(answer);
    if (!answer.granted || answer.rule === "reserved_already") continue;
    counted = [...others, placeFor(want, answer, nowMs)];
    taken.push(want.upstream);
  }
  const [first] = answers;
  const publish = taken.length > 0;
  const rule = publish ? "reserved" : (first?.rule ?? "fleet_limit");
  const reason = publish ? `places for ${taken.join(", ")}` : (first?.reason ?? "nobody asks for a place");
  return {
    kind: answers.some(({ granted }) => granted) ? "granted" : "refused",
    rule,
    reason,
    answers,
    publish,
    state: { reservations: keptOf(counted) },
    rejected: answers.filter(({ granted }) => !granted).map(({ upstream, reason: why }) => ({ option: upstream, why })),
  };
}

/** The latest of each kind, in the order in which they were reserved: operators' take no place from what the limit counts (L1). */
function keptOf(counted: readonly Reservation[]): Reservation[] {
  if (counted.length <= reservationsKeptMax) return [...counted];
  const operators = counted.filter(({ operator }) => operator === true).slice(-reservationsKeptMax);
  const automatic = counted.filter(({ operator }) => operator !== true).slice(-reservationsKeptMax);
  return counted.filter((one) => operators.includes(one) || automatic.includes(one));
}

/** The order in which moves are given places (L5). */
export function compareWants(a: Want, b: Want): number {
  return rankOf(a) - rankOf(b) || a.sinceMs - b.sinceMs || (a.upstream < b.upstream ? -1 : a.upstream > b.upstream ? 1 : 0);
}

/** Deciders look at what waits at each boundary of a second. */
const boundaryMs = 1000;

/**
 * What the policy promises: `count` upstreams that fail together, each with an endpoint to go to, are all moved within this time after they
 * were found to have failed. Each window of the limit moves what is not kept for critical ones; between two windows lie at most one boundary
 * and one round of proofs.
 */
export function settledWithinMs(count: number, policy: ReservationInput["policy"] & Pick<FailoverPolicy, "proofWaitMs">): number {
  const moves = policy.fleetMoves > reservationsKeptMax ? count : policy.fleetMoves - placesKept(policy);
  const windows = Math.ceil(count / Math.max(1, moves));
  return (windows - 1) * (policy.fleetWindowMs + boundaryMs) + windows * policy.proofWaitMs;
}

function rankOf({ operator, failback, critical }: Want): number {
  if (operator) return 0;
  return (failback ? 3 : 1) + (critical ? 0 : 1);
}

const placesKept = ({ fleetMoves, fleetCriticalShare }: ReservationInput["policy"]): number => Math.floor(fleetMoves * fleetCriticalShare);

function answerTo(
  want: Want,
  same: Reservation | undefined,
  others: readonly Reservation[],
  { policy, rules, nowMs }: ReservationInput,
): ReservationAnswer {
  const { upstream, epoch } = want;
  const base = { upstream, epoch, retryAtMs: null, overrode: [] };
  if (same?.operator === true && !want.operator) {
    // Else what the controller does by itself would go past a limit or a rule because an operator orders it at that moment.
    const reason = `an operator moves ${upstream} at epoch ${epoch}, and their place is for their order alone`;
    const rule = (same.overrode ?? []).length > 0 ? "safety_rule" : "fleet_limit";
    return { ...base, granted: false, rule, reason, expiresAtMs: nowMs };
  }
  const isItsOwn = same !== undefined && (same.to === undefined || same.to === want.to);
  if (isItsOwn && (want.force || (same.overrode ?? []).length === 0)) {
    const reason = `epoch ${epoch} of ${upstream} has its place already`;
    return { ...base, granted: true, rule: "reserved_already", reason, expiresAtMs: same.expiresAtMs, overrode: same.overrode ?? [] };
  }
  const changes = others.flatMap(({ upstream: of, from, to, toBackup = false, used }) =>
    from === undefined || to === undefined ? [] : [{ upstream: of, from, to, toBackup, made: used }],
  );
  const breach = breachOf(rules, want, changes, nowMs);
  if (breach !== null && !want.force) {
    const reason = `the safety rule ${JSON.stringify(breach.name)} forbids it: ${breach.why}`;
    return { ...base, granted: false, rule: "safety_rule", reason, expiresAtMs: nowMs };
  }
  const overrode = breach === null ? [] : [`safety_rule:${breach.name}`];
  const broken = brokenAlready(rules, want, changes).map(
    ({ name, why }) => `; the safety rule ${JSON.stringify(name)} is broken already: ${why}`,
  );
  const expiresAtMs = nowMs + policy.reservationMs;
  if (want.operator) {
    const reason = `an operator's move counts for no limit${broken.join("")}`;
    return { ...base, granted: true, rule: "reserved", reason, expiresAtMs, overrode };
  }
  const automatic = others.filter(({ operator }) => operator !== true);
  const ordinary = automatic.filter(({ critical }) => critical !== true);
  const kept = placesKept(policy);
  const full = automatic.length >= policy.fleetMoves;
  const keptOnly = !want.critical && ordinary.length >= policy.fleetMoves - kept;
  if ((full || keptOnly) && policy.fleetMoves <= reservationsKeptMax) {
    const named = automatic.slice(0, 10).map((one) => `${one.upstream} (epoch ${one.epoch})`);
    const more = automatic.length > 10 ? ` and ${automatic.length - 10} more` : "";
    const rest = full ? "" : `; the last ${kept} are kept for critical upstreams`;
    const reason = `the fleet may make ${policy.fleetMoves} automatic moves in ${policy.fleetWindowMs} ms, and made: ${named.join(", ")}${more}${rest}`;
    const ends = (full ? automatic : ordinary).map((one) => (one.used ? one.atMs + policy.fleetWindowMs : one.expiresAtMs));
    return { ...base, granted: false, rule: "fleet_limit", reason, expiresAtMs: nowMs, retryAtMs: Math.min(...ends) };
  }
  const reason = `${automatic.length + 1} of ${policy.fleetMoves} automatic moves in ${policy.fleetWindowMs} ms${broken.join("")}`;
  return { ...base, granted: true, rule: "reserved", reason, expiresAtMs, overrode };
}

function placeFor(want: Want, { expiresAtMs, overrode }: ReservationAnswer, nowMs: number): Reservation {
  const { upstream, epoch, critical, from, to, toBackup, operator } = want;
  return {
    upstream,
    epoch,
    atMs: nowMs,
    expiresAtMs,
    used: false,
    critical,
    from,
    to,
    toBackup,
    ...(operator ? { operator } : {}),
    ...(overrode.length > 0 ? { overrode } : {}),
  };
}
