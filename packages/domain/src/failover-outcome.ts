import type { Actor, FailoverState, Trial } from "@mcp-failover/contracts";
import type { RouteAhead } from "./failover-ahead.ts";
import { type Candidate, type EndpointSlice, type ProofContext, weighCandidate } from "./failover-proof.ts";
import { failbackRecord, type TrafficSlice, trialAfterMove } from "./failover-verify.ts";
import type { SetBack } from "./store-time.ts";

/** Input and outcome of `decideFailover`, and how each outcome is built. The invariants are numbered in `failover.ts`. */
export type FailoverInput = ProofContext & {
  upstream: string;
  mode: "active_standby" | "pool";
  endpoints: EndpointSlice[];
  generation: number;
  /** The highest epoch of this generation that a router holds: above the log's own after a loss of the log. */
  seenEpoch: number;
  /** Absent: routers hold nothing that the log does not know (F20). */
  ahead?: RouteAhead;
  state: FailoverState;
  /** Null: not asked for yet. */
  fleet: FleetAnswer | null;
  command: FailoverOrder | null;
  /** How far SIGNALS was folded. */
  signals: { seq: number; atMs: number };
  /** Since when the observers have been asked for the evidence that was missing; null: they have not. */
  gatherSinceMs: number | null;
  /** Real traffic at the active endpoint; absent: none was heard. */
  traffic?: TrafficSlice;
  /** Nothing automatic before this time; null or absent: no grace. */
  graceUntilMs?: number | null;
  /** A rehearsal that is under way on this upstream. */
  rehearsal?: string | null;
  /** Absent: the store's clock was not set back, as far as is known, or the input is of a time that did not ask. */
  setBack?: SetBack;
  /** A safety rule names this upstream, so that an operator's move has to be reserved too. */
  ruled?: boolean;
};

/** What the fleet answered to the wish to move. */
export type FleetAnswer = {
  granted: boolean;
  reason: string;
  expiresAtMs: number;
  /** Why it was refused: `fleet_limit` or `safety_rule`. */
  rule?: string;
  /** For a move to this endpoint. */
  to?: string;
  /** Safety rules that gave way to an operator's force. */
  overrode?: string[];
};

export type FailoverOrder = {
  commandId: string;
  by: Actor;
  reason: string;
} /** `from`: what was active when the order was taken on; absent in orders of before. */ & (
  | { kind: "failover"; to: string | null; force: boolean; afterSeq: number; gatherOver: boolean; from?: string }
  | { kind: "failback"; force: boolean; afterSeq: number; gatherOver: boolean }
  | { kind: "hold"; forMs: number | null; untilMs?: number }
  | { kind: "release" }
);

export type Rejection = { option: string; why: string };
export type FailoverDecision =
  | { kind: "none"; rule: string; reason: string }
  /** Evidence is missing (or the grace is not over, and it will be): probe these endpoints now. */
  | { kind: "gather"; rule: "evidence_missing" | "grace"; reason: string; targets: string[] }
  /** A move that has to be reserved on the fleet's subject first. */
  | { kind: "reserve"; rule: string; reason: string; epoch: number; to: string; toBackup: boolean; sinceMs: number }
  | {
      kind: "decided";
      rule: string;
      reason: string;
      action: "moved" | "held" | "released";
      automatic: boolean;
      by: Actor;
      previousEndpoint: string;
      currentEndpoint: string;
      overrode: string[];
      rejected: Rejection[];
      state: FailoverState;
    }
  /** A move was needed or asked for, and a rule said no. Keep these proven meanwhile. */
  | { kind: "rejected"; rule: string; reason: string; automatic: boolean; sinceMs: number; rejected: Rejection[]; targets: string[] }
  /** The active endpoint has failed and no other is proven. */
  | { kind: "failing"; rule: string; reason: string; sinceMs: number; rejected: Rejection[]; targets: string[] };

export const hourMs = 3_600_000;
/** Limits above this are no limit: the moves are in every decision, and a decision is to stay small. */
export const movesKeptMax = 200;
const service: Actor = { kind: "service", id: "failover-controller" };

export function groupOf(input: FailoverInput, active: EndpointSlice): EndpointSlice[] {
  if (input.mode === "active_standby") return [active];
  return input.endpoints.filter((endpoint) => endpoint.role === "write" && endpoint.tier === active.tier);
}

/** Whether a tier is behind the upstream's first. */
export function isBackup({ endpoints }: Pick<FailoverInput, "endpoints">, tier: number): boolean {
  return endpoints.some((endpoint) => endpoint.role === "write" && endpoint.tier < tier);
}

/** Candidates in the order in which they are preferred (F9). */
export function candidatesOf(input: FailoverInput, sinceMs: number, afterSeq = 0): Candidate[] {
  const active = input.endpoints.find((endpoint) => endpoint.name === input.state.active && endpoint.role === "write");
  const group = active === undefined ? [] : groupOf(input, active).map((endpoint) => endpoint.name);
  return input.endpoints
    .filter((endpoint) => !group.includes(endpoint.name) && endpoint.name !== input.state.active)
    .map((endpoint) => weighCandidate(endpoint, input, sinceMs, afterSeq))
    .sort((a, b) => a.tier - b.tier);
}
type Outcome = { rule: string; reason: string; to?: { name: string; tier: number }; overrode?: string[]; rejected?: Rejection[] };

export function decided(input: FailoverInput, action: "moved" | "held" | "released", outcome: Outcome): FailoverDecision {
  const { state, command, nowMs, policy } = input;
  const by = command?.by ?? service;
  const epoch = nextEpoch(input);
  const to = outcome.to ?? { name: state.active, tier: state.tier };
  const keptMs = Math.max(hourMs, policy.fleetWindowMs, policy.cooldownMs);
  const moves = state.moves.filter((move) => nowMs - move.atMs < keptMs);
  if (action === "moved") moves.push({ atMs: nowMs, epoch, from: state.active, to: to.name, automatic: command === null });
  const trial = trialAfter(input, action, outcome.rule, epoch);
  const undone = action === "moved" && command === null && outcome.rule !== "failback" ? failbackRecord(input) : {};
  const untilMs = command?.kind === "hold" ? (command.untilMs ?? (command.forMs === null ? null : nowMs + command.forMs)) : null;
  return {
    kind: "decided",
    action,
    rule: outcome.rule,
    reason: outcome.reason,
    automatic: command === null,
    by,
    previousEndpoint: state.active,
    currentEndpoint: to.name,
    overrode: outcome.overrode ?? [],
    rejected: outcome.rejected ?? [],
    state: {
      ...state,
      generation: input.generation,
      epoch,
      active: to.name,
      tier: to.tier,
      sinceMs: action === "moved" ? nowMs : state.sinceMs,
      held: action === "held" ? { by, reason: outcome.reason, sinceMs: nowMs, untilMs } : action === "released" ? null : state.held,
      moves: moves.slice(-movesKeptMax),
      decidedAtMs: nowMs,
      signalsSeq: input.signals.seq,
      ...(trial === null && state.trial === undefined ? {} : { trial }),
      ...(command?.kind === "release" && moves.some((move) => move.automatic) ? { countedFromMs: nowMs } : {}),
      ...undone,
    },
  };
}

function trialAfter(input: FailoverInput, action: "moved" | "held" | "released", rule: string, epoch: number): Trial | null {
  const trial = input.state.trial ?? null;
  if (action === "moved") return trialAfterMove(input, { rule, epoch });
  if (action === "released") return null;
  return trial !== null && rule === "verify_failed" ? { ...trial, failed: true } : trial;
}

export function nextEpoch(input: FailoverInput): number {
  return Math.max(input.state.epoch, input.seenEpoch) + 1;
}

export function gather(input: FailoverInput, reason: string): Extract<FailoverDecision, { kind: "gather" }> {
  const blind =
    input.suspects.length === 0 ? "" : `; not heard, because they reach nothing that others reach: ${input.suspects.join(", ")}`;
  return { kind: "gather", rule: "evidence_missing", reason: `${reason}${blind}`, targets: targetsOf(input) };
}

export function refuse(
  input: FailoverInput,
  rule: string,
  reason: string,
  { sinceMs }: { sinceMs: number },
): Extract<FailoverDecision, { kind: "rejected" }> {
  const rejected = [{ option: "move", why: reason }];
  return { kind: "rejected", rule, reason, automatic: true, sinceMs, rejected, targets: targetsOf(input) };
}

/** What is probed when evidence is missing: the active endpoint and whatever may take its place. */
export function targetsOf(input: FailoverInput): string[] {
  const active = input.endpoints.find((endpoint) => endpoint.name === input.state.active);
  const group = active === undefined ? [] : groupOf(input, active);
  const others = input.endpoints.filter((endpoint) => endpoint.role === "write" && !group.includes(endpoint));
  return [...group, ...others].map((endpoint) => endpoint.name).slice(0, 100);
}

export function rejectionsOf(candidates: readonly Candidate[], chosen?: Candidate): Rejection[] {
  return candidates
    .filter((candidate) => candidate !== chosen)
    .map(({ name, tier, refusal }) => ({
      option: name,
      why: refusal?.why ?? `proven too (tier ${tier}), but ${chosen?.name} comes first`,
    }));
}
