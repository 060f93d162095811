import type { FailoverState, Topology } from "@mcp-failover/contracts";
import { obeyHold, obeyMove } from "./failover-order.ts";
import {
  candidatesOf,
  decided,
  type FailoverDecision,
  type FailoverInput,
  gather,
  groupOf,
  hourMs,
  movesKeptMax,
  nextEpoch,
  refuse,
  rejectionsOf,
  targetsOf,
} from "./failover-outcome.ts";
import { type Candidate, type EndpointSlice, isProvenByMost, type Suspicion, weighActive, weighCandidate } from "./failover-proof.ts";
import { UnknownUpstreamError } from "./policy.ts";

/**
 * Which endpoint of an upstream is active (in a pool: which tier), as a function of one input.
 *
 * F1  A decision raises the epoch by one above all that was seen of it; nothing else changes the state.
 * F2  An automatic move off an endpoint needs a strict majority of its observers against it, at least two where two exist. Observers that
 *     have gone silent still count; those that can reach nothing at all (suspects) are silent.
 * F3  A lone observer moves something only by a second probe of its own made for the purpose, once others had time to speak.
 * F4  Unknown is not unhealthy: silence, stale words, `auth`, `soft` and `caller` answers move nothing. Nor does what was seen before the
 *     decision in force, or behind it in SIGNALS.
 * F5  Nothing is moved to that is not freshly proven by a probe made for the purpose, after the suspicion (or the command); only an
 *     operator's force to an endpoint that they named goes without, and says so. `role: read` never becomes active. An open breaker keeps
 *     an endpoint from being moved to; only where there is no other is one taken that most observers have proven since (routers, which make
 *     no probes, by their calls), because the breaker may stay open for minutes after the endpoint came back. Recorded as overridden; `forced_open` never is.
 * F6  An automatic move respects hold, cool-down, limits of the upstream and of the fleet, and the clock's gaps. Only an active endpoint
 *     that is not configured any more is replaced in spite of hold and cool-down.
 * F7  At most `movesPerHour` automatic moves; the next needed one holds the upstream instead, until an operator releases it.
 * F8  What an operator's force overrode is recorded.
 * F9  Better tiers first; within a tier the order of the configuration.
 * F10 Equal inputs give equal decisions; the input is not altered.
 */

/** The route before the first decision: the first write endpoint of the lowest tier, at epoch 0. */
export function initialFailoverState(topology: Topology, upstreamName: string, generation: number): FailoverState {
  const upstream = topology.upstreams[upstreamName];
  if (upstream === undefined) throw new UnknownUpstreamError(upstreamName, Object.keys(topology.upstreams));
  const [first] = upstream.endpoints.filter((endpoint) => endpoint.role === "write").sort((a, b) => a.tier - b.tier);
  if (first === undefined) throw new RangeError(`the upstream ${upstreamName} has no endpoint with role: write; add one`);
  return { generation, epoch: 0, active: first.name, tier: first.tier, sinceMs: 0, held: null, moves: [] };
}

/** Decides about one upstream (F1 to F10). Pure. */
export function decideFailover(input: FailoverInput): FailoverDecision {
  if (input.command?.kind === "failover") return obeyMove(input, input.command);
  if (input.command !== null) return obeyHold(input, input.command);
  const { state, nowMs, clock, signals } = input;
  if (state.held?.untilMs != null && state.held.untilMs <= nowMs) {
    return decided(input, "released", { rule: "hold_expired", reason: `the hold ended (${state.held.reason})` });
  }
  if (signals.seq < (state.signalsSeq ?? 0) && signals.atMs <= (state.decidedAtMs ?? 0)) {
    return { kind: "none", rule: "evidence_behind", reason: "the decision in force was taken on later evidence than this" };
  }
  const active = input.endpoints.find((endpoint) => endpoint.name === state.active && endpoint.role === "write");
  const suspicion = active === undefined ? vanished(input) : weighGroup(input, active);
  if (suspicion.kind === "none") return decideFailback(input, suspicion.proven);
  if (suspicion.kind === "suspected") {
    if (suspicion.answered) return { kind: "none", rule: "no_majority", reason: `${state.active}: ${suspicion.why}` };
    return gather(input, `${state.active}: ${suspicion.why}`);
  }
  if (!clock.tilted) return decideMove(input, suspicion, active !== undefined);
  return refuse(input, "clock_gap", `${suspicion.why}; but the clock jumped, and nothing is moved until it has run evenly`, suspicion);
}

function vanished({ state, nowMs, policy }: FailoverInput): Failed {
  return {
    kind: "failed",
    sinceMs: Math.max(0, nowMs - policy.evidenceFreshMs),
    rule: "active_vanished",
    why: `${state.active} is not configured any more as an endpoint that takes writes`,
  };
}
type Failed = { kind: "failed"; sinceMs: number; rule: string; why: string };

/** The active endpoint, or in a pool all of its tier together: the group has failed when each member has. */
function weighGroup(input: FailoverInput, active: EndpointSlice): Suspicion {
  const { state } = input;
  const weighed = groupOf(input, active).map((endpoint) => ({ endpoint, verdict: weighActive(endpoint.name, input, state.sinceMs) }));
  const first = weighed[0];
  if (first === undefined) return { kind: "none", proven: false };
  if (weighed.length === 1) return first.verdict;
  const sound = weighed.find(({ verdict }) => verdict.kind === "none" && verdict.proven);
  if (sound) return { kind: "none", proven: true };
  const doubted = weighed.find(({ verdict }) => verdict.kind === "suspected" && verdict.answered);
  if (doubted) return doubted.verdict;
  const failed = weighed.flatMap(({ verdict }) => (verdict.kind === "failed" ? [verdict] : []));
  if (failed.length === weighed.length) {
    const sinceMs = Math.min(...failed.map((verdict) => verdict.sinceMs));
    return { kind: "failed", sinceMs, rule: "majority_unhealthy", why: `all ${failed.length} endpoints of tier ${active.tier} fail` };
  }
  const suspected = weighed.filter(({ verdict }) => verdict.kind !== "none");
  if (suspected.length === 0) return { kind: "none", proven: false };
  const why = `${failed.length} of ${weighed.length} endpoints of tier ${active.tier} fail, ${suspected.length - failed.length} more may`;
  return { kind: "suspected", sinceMs: null, why, answered: false };
}

function decideMove(input: FailoverInput, failed: Failed, activeExists: boolean): FailoverDecision {
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

  const usual = candidatesOf(input, failed.sinceMs);
  const proven = usual.find((candidate) => candidate.refusal === null);
  const best = proven ?? lastResort(input, failed.sinceMs, usual);
  const candidates = usual.map((candidate) => (candidate.name === best?.name ? best : candidate));
  if (best !== proven) overrode.push("breaker");
  const waitedMs = input.gatherSinceMs === null ? 0 : nowMs - input.gatherSinceMs;
  const patienceMs = proven === undefined ? policy.proofWaitMs : policy.confirmTimeoutMs;
  const better = candidates.find((candidate) => candidate.pending && (proven === undefined || candidate.tier < proven.tier));
  if (better !== undefined && waitedMs < patienceMs) return gather(input, `${reason}; ${better.name} is not proven yet`);
  if (best === undefined && candidates.length > 0 && waitedMs < policy.proofWaitMs) {
    // One probe that a busy moment swallowed is no dead end, and a dead end wakes people.
    return gather(input, `${reason}; no other endpoint is proven yet`);
  }
  if (best === undefined) {
    const rejected = rejectionsOf(candidates);
    const why = rejected.length === 0 ? "there is no other endpoint" : rejected.map(({ option, why }) => `${option}: ${why}`).join("; ");
    return {
      kind: "failing",
      rule: "no_candidate",
      reason: `${reason}; ${why}`,
      sinceMs: failed.sinceMs,
      rejected,
      targets: targetsOf(input),
    };
  }
  const automatic = state.moves.filter((move) => move.automatic);
  const last = automatic.at(-1);
  if (last !== undefined && nowMs - last.atMs < policy.cooldownMs) {
    const until = new Date(last.atMs + policy.cooldownMs).toISOString();
    if (activeExists)
      return refuse(input, "cooldown", `${reason}; but it was moved already, and the cool-down lasts until ${until}`, failed);
    overrode.push("cooldown");
  }
  const inHour = automatic.filter((move) => nowMs - move.atMs < hourMs).length;
  if (inHour >= policy.movesPerHour && policy.movesPerHour <= movesKeptMax && activeExists) {
    const why = `${inHour} automatic moves within an hour, ${policy.movesPerHour} allowed; held until an operator releases it`;
    return decided(input, "held", { rule: "moves_per_hour", reason: `${reason}; ${why}`, rejected: [{ option: best.name, why }] });
  }
  return decideReserved(input, failed, { rule: failed.rule, reason, to: best, overrode, candidates });
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

/** The last step of an automatic move: the limits that span upstreams (F6). */
function decideReserved(input: FailoverInput, since: { sinceMs: number }, intent: Intent): FailoverDecision {
  const { fleet, nowMs } = input;
  if (fleet === null || (fleet.granted && fleet.expiresAtMs <= nowMs)) {
    return { kind: "reserve", rule: intent.rule, reason: intent.reason, epoch: nextEpoch(input) };
  }
  if (!fleet.granted) return refuse(input, "fleet_limit", `${intent.reason}; but ${fleet.reason}`, since);
  return decided(input, "moved", { ...intent, rejected: rejectionsOf(intent.candidates, intent.to) });
}

function decideFailback(input: FailoverInput, proven: boolean): FailoverDecision {
  const { policy, state, nowMs, clock, health } = input;
  const observers = input.evidence[state.active]?.observers ?? [];
  const blind = observers.filter((observer) => input.suspects.includes(observer)).length;
  const none: FailoverDecision = proven
    ? { kind: "none", rule: "active_healthy", reason: `${state.active} answers` }
    : blind * 2 > observers.length
      ? { kind: "none", rule: "observers_suspect", reason: `${blind} of ${observers.length} observers reach nothing that others reach` }
      : { kind: "none", rule: "no_evidence", reason: `nothing fresh is known of ${state.active}` };
  if (policy.failback !== "automatic" || !policy.automatic || !proven || clock.tilted || state.held !== null) return none;
  const last = state.moves.filter((move) => move.automatic).at(-1);
  if (last !== undefined && nowMs - last.atMs < policy.cooldownMs) return none;
  const recent = state.moves.filter((move) => move.automatic && nowMs - move.atMs < hourMs).length;
  if (recent >= policy.movesPerHour) return none;
  const activeTier = input.endpoints.find((endpoint) => endpoint.name === state.active)?.tier ?? state.tier;
  const well = input.endpoints.filter((endpoint) => {
    const known = health[endpoint.name];
    if (endpoint.role === "read" || endpoint.tier >= activeTier || known?.status !== "healthy") return false;
    return nowMs - known.sinceMs >= policy.failbackAfterMs;
  });
  if (well.length === 0) return none;
  const candidates = well.map((endpoint) => weighCandidate(endpoint, input, 0, 0)).sort((a, b) => a.tier - b.tier);
  const to = candidates.find((candidate) => candidate.refusal === null);
  const reason = `${well[0]?.name} has been healthy for ${policy.failbackAfterMs} ms and is preferred to ${state.active}`;
  if (to === undefined) {
    if (!candidates.some((candidate) => candidate.pending)) return none;
    return gather(input, reason);
  }
  if (input.fleet !== null && !input.fleet.granted) return none;
  return decideReserved(input, { sinceMs: nowMs }, { rule: "failback", reason, to, overrode: [], candidates });
}
