import type { FailoverState, Topology } from "@mcp-failover/contracts";
import { decideFailback } from "./failback.ts";
import { decideAhead } from "./failover-ahead.ts";
import { decideMove, type Failed, workingGroup } from "./failover-move.ts";
import { obeyHold, obeyMove } from "./failover-order.ts";
import { decided, type FailoverDecision, type FailoverInput, gather, refuse } from "./failover-outcome.ts";
import { type EndpointSlice, type Suspicion, weighActive, weighCalls } from "./failover-proof.ts";
import { judgeTrial, trialInForce } from "./failover-verify.ts";
import { UnknownUpstreamError } from "./policy.ts";
import { timeOfThisClock } from "./store-time.ts";

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
 * F7  At most `movesPerHour` automatic moves; the next needed one holds the upstream instead, until an operator releases it. Their release
 *     begins a new count.
 * F8  What an operator's force overrode is recorded.
 * F9  Better tiers first; within a tier the order of the configuration.
 * F10 Equal inputs give equal decisions; the input is not altered.
 * F11 After an automatic move or a failback its endpoint is verified by real traffic. Where that is no better, the next candidate that was
 *     not tried follows without a cool-down, at most `verifyMovesMax` times in a row; then the upstream is held, and that is a dead end.
 * F12 A failback goes to a better tier that is proven; by itself only after steady health (longer after each failback that had to be
 *     undone), with no flapping, no breaker but a closed one, and nothing else under way.
 * F13 Where every endpoint is dead nothing is moved, and it is said once: the routers try all.
 * F14 No move against a safety rule; an operator's force overrides it, by name, on record.
 * F15 Maintenance: what is in it is no reason to move, and nothing is moved to it but by an operator's force.
 * F16 Nothing automatic before the grace after a start is over, but to replace what is not configured any more.
 * F17 In a dry run what would be done by itself is said, and nothing is done.
 * F18 An endpoint whose breaker an operator forced open serves nothing at all, whatever the observers say: where it is active (in a pool: where that,
 *     or failure, goes for all of the tier) there is a move off it, with all that holds an automatic move back.
 * F19 An endpoint that answers probes and fails calls is moved off when a strict majority of the routers that call it, and at least two, say so
 *     (`failover-calls.ts`); never on the word of one router, however many calls it made. During a verification F11 judges instead.
 * F20 Where live routers hold a route that the log does not know, the next epoch is above it at once (`failover-ahead.ts`).
 */

/** The route before the first decision: the first write endpoint of the lowest tier, at epoch 0. */
export function initialFailoverState(topology: Topology, upstreamName: string, generation: number): FailoverState {
  const upstream = topology.upstreams[upstreamName];
  if (upstream === undefined) throw new UnknownUpstreamError(upstreamName, Object.keys(topology.upstreams));
  const [first] = upstream.endpoints.filter((endpoint) => endpoint.role === "write").sort((a, b) => a.tier - b.tier);
  if (first === undefined) throw new RangeError(`the upstream ${upstreamName} has no endpoint with role: write; add one`);
  return { generation, epoch: 0, active: first.name, tier: first.tier, sinceMs: 0, held: null, moves: [] };
}

/** Decides about one upstream (F1 to F20). Pure. */
export function decideFailover(input: FailoverInput): FailoverDecision {
  const { command, state, nowMs, signals } = input;
  if (command?.kind === "failover" || command?.kind === "failback") return obeyMove(input, command);
  if (command !== null) return obeyHold(input, command);
  const ahead = decideAhead(input);
  if (ahead !== null) return ahead;
  if (state.held?.untilMs != null && state.held.untilMs <= nowMs) {
    return decided(input, "released", { rule: "hold_expired", reason: `the hold ended (${state.held.reason})` });
  }
  if (signals.seq < (state.signalsSeq ?? 0) && signals.atMs <= (state.decidedAtMs ?? 0)) {
    return { kind: "none", rule: "evidence_behind", reason: "the decision in force was taken on later evidence than this" };
  }
  const active = input.endpoints.find((endpoint) => endpoint.name === state.active && endpoint.role === "write");
  if (active === undefined) return decideFailed(input, vanished(input), false);
  if (state.trial?.failed === true && state.held !== null) {
    const reason = `${state.held.reason}: look at it, then release ${input.upstream}`;
    return { kind: "failing", rule: "verify_failed", reason, sinceMs: state.held.sinceMs, rejected: [], targets: [] };
  }
  const group = workingGroup(input, active);
  if (group.length === 0) {
    const window = input.maintained?.[active.name]?.name;
    return { kind: "none", rule: "maintenance", reason: `${active.name} is in maintenance (${window}): nothing is moved because of it` };
  }
  const suspicion = weighGroup(input, active, group);
  if (suspicion.kind === "failed") return decideFailed(input, suspicion, true);
  const noHelp = judgeTrial(input);
  if (noHelp !== null) {
    // Proof of another endpoint has to be younger than the question.
    return decideFailed(input, { kind: "failed", sinceMs: input.gatherSinceMs ?? nowMs, rule: "verify_failed", why: noHelp }, true);
  }
  if (suspicion.kind === "none") return decideFailback(input, suspicion.proven);
  if (suspicion.answered) return { kind: "none", rule: "no_majority", reason: `${state.active}: ${suspicion.why}` };
  return gather(input, `${state.active}: ${suspicion.why}`);
}

/** What holds back every automatic move (F6, F16). */
function decideFailed(input: FailoverInput, failed: Failed, activeExists: boolean): FailoverDecision {
  const { graceUntilMs = null, nowMs, clock, state } = input;
  if (activeExists && graceUntilMs !== null && nowMs < graceUntilMs) {
    const why = `${state.active}: ${failed.why}; but the grace after the start lasts until ${new Date(graceUntilMs).toISOString()}`;
    return { ...gather(input, why), rule: "grace" };
  }
  if (!clock.tilted) return decideMove(input, failed, activeExists);
  return refuse(input, "clock_gap", `${failed.why}; but the clock jumped, and nothing is moved until it has run evenly`, failed);
}

function vanished({ state, nowMs, policy }: FailoverInput): Failed {
  return {
    kind: "failed",
    sinceMs: Math.max(0, nowMs - policy.evidenceFreshMs),
    rule: "active_vanished",
    why: `${state.active} is not configured any more as an endpoint that takes writes`,
  };
}

/** F18. Proof of another endpoint has to be younger than the question, because nothing failed since when it could be asked. */
function weighMember(endpoint: string, input: FailoverInput): Suspicion {
  const activeSinceMs = timeOfThisClock(input.state.sinceMs, input.nowMs);
  const said = weighActive(endpoint, input, activeSinceMs);
  if (said.kind === "failed") return said;
  if (input.breakers[endpoint] !== "forced_open")
    return (trialInForce(input) === null ? weighCalls(endpoint, input, activeSinceMs) : null) ?? said;
  const sinceMs = input.gatherSinceMs ?? input.nowMs;
  return { kind: "failed", sinceMs, rule: "breaker_forced_open", why: "an operator forced its breaker open, so nothing is sent there" };
}

/** The active endpoint, or in a pool all of its tier together: the group has failed when each member has. */
function weighGroup(input: FailoverInput, active: EndpointSlice, group: readonly EndpointSlice[]): Suspicion {
  const weighed = group.map((endpoint) => ({ endpoint, verdict: weighMember(endpoint.name, input) }));
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
    const forced = failed.some(({ rule }) => rule === "breaker_forced_open");
    const byCalls = failed.some(({ rule }) => rule === "calls_failing");
    const rule = forced ? "breaker_forced_open" : byCalls ? "calls_failing" : "majority_unhealthy";
    const why = `all ${failed.length} endpoints of tier ${active.tier} ${forced ? "fail or are forced open" : "fail"}`;
    return { kind: "failed", sinceMs, rule, why };
  }
  const suspected = weighed.filter(({ verdict }) => verdict.kind !== "none");
  if (suspected.length === 0) return { kind: "none", proven: false };
  const why = `${failed.length} of ${weighed.length} endpoints of tier ${active.tier} fail, ${suspected.length - failed.length} more may`;
  return { kind: "suspected", sinceMs: null, why, answered: false };
}
