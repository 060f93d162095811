import type { FailoverState } from "@mcp-failover/contracts";
import {
  candidatesOf,
  decided,
  type FailoverDecision,
  type FailoverInput,
  gather,
  groupOf,
  hourMs,
  isBackup,
  movesKeptMax,
  nextEpoch,
  refuse,
  rejectionsOf,
  targetsOf,
} from "./failover-outcome.ts";
import { type Candidate, isProvenByMost, weighCandidate } from "./failover-proof.ts";
import { trialInForce } from "./failover-verify.ts";
import { isOfAnotherClock, timeOfThisClock } from "./store-time.ts";

/** That the active endpoint has to be left, since when, and why. */
export type Failed = { kind: "failed"; sinceMs: number; rule: string; why: string };

/** An automatic move off an endpoint that has failed, or why there is none (F5 to F7, F9, F11, F13). */
export function decideMove(input: FailoverInput, failed: Failed, activeExists: boolean): FailoverDecision {
  const { policy, state, nowMs } = input;
  const reason = `${state.active}: ${failed.why}`;
  const overrode: string[] = [];
  if (state.held !== null) {
    const held = `${reason}; but the upstream is held by ${state.held.by.id}: ${state.held.reason}`;
    if (activeExists) return { ...refuse(input, "held", held, failed), targets: [] };
    overrode.push("hold");
  }
  if ((!policy.automatic || policy.movesPerHour === 0) && activeExists) {
    return { ...refuse(input, "automatic_off", `${reason}; but automatic moves are switched off`, failed), targets: [] };
  }

  const trial = trialInForce(input);
  const noHelp = failed.rule === "verify_failed";
  if (trial !== null && noHelp && trial.round >= policy.verifyMovesMax) {
    const why = `${trial.round + 1} moves in a row made nothing better (tried: ${[...trial.tried, state.active].join(", ")})`;
    return holdInstead(input, failed, {
      rule: "verify_failed",
      reason: `${reason}; ${why}; held until an operator releases it`,
      rejected: [],
    });
  }
  const waitedMs = input.gatherSinceMs === null ? 0 : nowMs - input.gatherSinceMs;
  const all = candidatesOf(input, failed.sinceMs);
  const untried = trial === null ? all : all.filter(({ name }) => !trial.tried.includes(name));
  const hopeful = untried.some((candidate) => candidate.refusal === null || (candidate.pending && waitedMs < policy.proofWaitMs));
  const chained = trial !== null && (noHelp || (trial.round < policy.verifyMovesMax && hopeful));
  const usual = chained ? untried : all;
  const proven = usual.find((candidate) => candidate.refusal === null);
  const best = proven ?? lastResort(input, failed.sinceMs, usual);
  const candidates = usual.map((candidate) => (candidate.name === best?.name ? best : candidate));
  if (best !== proven) overrode.push("breaker");
  const patienceMs = proven === undefined ? policy.proofWaitMs : policy.confirmTimeoutMs;
  const better = candidates.find((candidate) => candidate.pending && (proven === undefined || candidate.tier < proven.tier));
  if (better !== undefined && waitedMs < patienceMs) return gather(input, `${reason}; ${better.name} is not proven yet`);
  if (best === undefined && candidates.length > 0 && waitedMs < policy.proofWaitMs) {
    // One probe that a busy moment swallowed is no dead end, and a dead end wakes people.
    return gather(input, `${reason}; no other endpoint is proven yet`);
  }
  if (best === undefined) return nowhere(input, failed, candidates, noHelp ? "verify_failed" : "no_candidate");

  const last = coolingFrom(input);
  if (last !== null && !chained) {
    const until = new Date(last.atMs + policy.cooldownMs).toISOString();
    if (activeExists)
      return refuse(input, "cooldown", `${reason}; but it was moved already, and the cool-down lasts until ${until}`, failed);
    overrode.push("cooldown");
  }
  const inHour = movesCounted(input);
  if (inHour >= policy.movesPerHour && policy.movesPerHour <= movesKeptMax && activeExists) {
    const why = `${inHour} automatic moves within an hour, ${policy.movesPerHour} allowed; held until an operator releases it`;
    return holdInstead(input, failed, { rule: "moves_per_hour", reason: `${reason}; ${why}`, rejected: [{ option: best.name, why }] });
  }
  return decideReserved(input, failed, { rule: failed.rule, reason, to: best, overrode, candidates });
}

/** The automatic move whose cool-down lasts; null: none does (F7, ST2). */
export function coolingFrom({ policy, state, nowMs }: FailoverInput): FailoverState["moves"][number] | null {
  const last = state.moves.findLast((move) => move.automatic);
  return last === undefined || isOfAnotherClock(last.atMs, nowMs) || nowMs - last.atMs >= policy.cooldownMs ? null : last;
}

/** Automatic moves of the last hour; an operator's release begins a new count (F7). None of another clock (ST2). */
export function movesCounted({ state, nowMs }: FailoverInput): number {
  const fromMs = Math.max(nowMs - hourMs, timeOfThisClock(state.countedFromMs ?? 0, nowMs));
  return state.moves.filter((move) => move.automatic && move.atMs > fromMs && !isOfAnotherClock(move.atMs, nowMs)).length;
}

function holdInstead(
  input: FailoverInput,
  failed: Failed,
  outcome: { rule: string; reason: string; rejected: { option: string; why: string }[] },
): FailoverDecision {
  if (input.policy.dryRun) return refuse(input, "dry_run", `would hold (${outcome.rule}): ${outcome.reason}`, failed);
  return decided(input, "held", outcome);
}

/** F13: a dead end; when nothing of the upstream lives, the routers try all of it. */
function nowhere(input: FailoverInput, failed: Failed, candidates: readonly Candidate[], rule: string): FailoverDecision {
  const rejected = rejectionsOf(candidates);
  const others = rejected.map(({ option, why }) => `${option}: ${why}`).join("; ");
  const dead = candidates.every(({ refusal }) => refusal?.code === "candidate_unhealthy");
  const tried = rule === "no_candidate" && failed.rule !== "breaker_forced_open";
  const panic = dead && tried ? "; every endpoint is down, so the routers try all of them (panic)" : "";
  return {
    kind: "failing",
    rule,
    reason: `${input.state.active}: ${failed.why}; ${others === "" ? "there is no other endpoint" : others}${panic}`,
    sinceMs: failed.sinceMs,
    rejected,
    targets: targetsOf(input),
  };
}

/** Against nothing but its open breaker stands the proof of most observers, given since the failure (F5). */
function lastResort(input: FailoverInput, sinceMs: number, candidates: readonly Candidate[]): Candidate | undefined {
  const trusted = { ...input, breakers: {} };
  return candidates
    .filter(({ name, refusal }) => refusal?.code === "candidate_breaker_open" && input.breakers[name] === "open")
    .flatMap(({ name }) => input.endpoints.filter((endpoint) => endpoint.name === name))
    .filter(({ name }) => isProvenByMost(name, input, sinceMs))
    .map((endpoint) => weighCandidate(endpoint, trusted, sinceMs, 0))
    .find((candidate) => candidate.refusal === null);
}

type Intent = { rule: string; reason: string; to: Candidate; overrode: string[]; candidates: readonly Candidate[] };

/** The last step of an automatic move: the limits and safety rules that span upstreams (F6, F14). */
export function decideReserved(input: FailoverInput, since: { sinceMs: number }, intent: Intent): FailoverDecision {
  const { fleet, policy } = input;
  const { rule, reason, to } = intent;
  const rejected = rejectionsOf(intent.candidates, to);
  if (policy.dryRun) {
    const would = `would move to ${to.name} (${rule}): ${reason}`;
    return { ...refuse(input, "dry_run", would, since), rejected: [{ option: to.name, why: "the policy is a dry run" }, ...rejected] };
  }
  if (!isReservedFor(input, to.name)) return reserveFor(input, since.sinceMs, intent);
  if (fleet?.granted !== true) return refuse(input, fleet?.rule ?? "fleet_limit", `${reason}; but ${fleet?.reason}`, since);
  return decided(input, "moved", { ...intent, overrode: [...intent.overrode, ...(fleet.overrode ?? [])], rejected });
}

/** Whether the fleet has answered for this move; a place that has ended, or is for another endpoint, is none. */
export function isReservedFor({ fleet, nowMs }: FailoverInput, to: string): boolean {
  if (fleet === null || (fleet.to !== undefined && fleet.to !== to)) return false;
  return !fleet.granted || fleet.expiresAtMs > nowMs;
}

export function reserveFor(
  input: FailoverInput,
  sinceMs: number,
  { rule, reason, to }: { rule: string; reason: string; to: { name: string; tier: number } },
): Extract<FailoverDecision, { kind: "reserve" }> {
  return { kind: "reserve", rule, reason, epoch: nextEpoch(input), to: to.name, toBackup: isBackup(input, to.tier), sinceMs };
}

/** The members of the active endpoint's group that are not in maintenance. */
export function workingGroup(input: FailoverInput, active: Parameters<typeof groupOf>[1]): ReturnType<typeof groupOf> {
  return groupOf(input, active).filter(({ name }) => input.maintained?.[name] === undefined);
}
