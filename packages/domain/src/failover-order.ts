import { activeTierOf } from "./failback.ts";
import { coolingFrom, isReservedFor, reserveFor } from "./failover-move.ts";
import {
  candidatesOf,
  decided,
  type FailoverDecision,
  type FailoverInput,
  type FailoverOrder,
  gather,
  type Rejection,
  rejectionsOf,
} from "./failover-outcome.ts";
import { type CandidateCode, type EndpointSlice, type HealthSlice, weighCandidate } from "./failover-proof.ts";

/** An operator's move: refused like an automatic one unless forced, and never to what is not proven unless forced by name (F5, F6, F8). */
export function obeyMove(input: FailoverInput, given: Extract<FailoverOrder, { kind: "failover" | "failback" }>): FailoverDecision {
  const { policy, state, nowMs, endpoints } = input;
  const isFailback = given.kind === "failback";
  const order = isFailback ? { ...given, to: null } : given;
  const no = (rule: string, reason: string, rejected: Rejection[] = []): FailoverDecision => ({
    kind: "rejected",
    rule,
    reason,
    automatic: false,
    sinceMs: nowMs,
    rejected,
    targets: [],
  });
  const overrode: string[] = [];
  const named = endpoints.find((endpoint) => endpoint.name === order.to);
  if (order.to !== null && named === undefined) {
    const known = endpoints.map((endpoint) => endpoint.name).join(", ");
    return no("unknown_endpoint", `${input.upstream} has no endpoint ${JSON.stringify(order.to)}; it has: ${known}`);
  }
  if (given.kind === "failover" && given.to === null && given.from !== undefined && given.from !== state.active) {
    const reason = `${input.upstream} was moved off ${given.from} to ${state.active} (epoch ${state.epoch}) while this order was looked at`;
    return no("moved_meanwhile", `${reason}; ask again, or name the endpoint, to move it once more`);
  }
  const activeTier = activeTierOf(input);
  if (isFailback && !endpoints.some(({ role, tier }) => role === "write" && tier < activeTier)) {
    return no("not_failed_over", `${state.active} is of the best tier (${activeTier}) already; there is nothing to go back to`);
  }
  if (named?.name === state.active) return no("already_active", `${named.name} is active already (epoch ${state.epoch})`);
  if (state.held !== null) {
    if (!order.force)
      return no("held", `${input.upstream} is held by ${state.held.by.id} (${state.held.reason}); release it, or use --force`);
    overrode.push("hold");
  }
  const last = coolingFrom(input);
  if (last !== null) {
    const until = new Date(last.atMs + policy.cooldownMs).toISOString();
    if (!order.force) return no("cooldown", `it was moved automatically at epoch ${last.epoch}; wait until ${until}, or use --force`);
    overrode.push("cooldown");
  }
  const context = order.force ? withoutHoldDown(input) : input;
  const all = named === undefined ? candidatesOf(context, 0, order.afterSeq) : [weighCandidate(named, context, 0, order.afterSeq)];
  const candidates = isFailback ? all.filter(({ tier }) => tier < activeTier) : all;
  const to = candidates.find((candidate) => candidate.refusal === null);
  const rejected = rejectionsOf(candidates, to);
  if (order.force) overrode.push(...heldDown(input, named ?? to));
  const move = (rule: string, target: { name: string; tier: number }): FailoverDecision => {
    if (input.ruled === true) {
      if (!isReservedFor(input, target.name)) return reserveFor(input, nowMs, { rule, reason: order.reason, to: target });
      if (input.fleet?.granted !== true) return no(input.fleet?.rule ?? "safety_rule", input.fleet?.reason ?? "", rejected);
      overrode.push(...(input.fleet.overrode ?? []));
    }
    return decided(input, "moved", { rule, reason: order.reason, to: target, overrode, rejected });
  };
  if (named !== undefined && order.force && to === undefined) {
    const refused = candidates[0]?.refusal;
    if (refused?.code === "read_only") return no("read_only", `${named.name} cannot become active: ${refused.why}`, rejected);
    overrode.push(...overriddenOf(named, context, order.afterSeq));
    return move("operator_forced", named);
  }
  const better = candidates.some((candidate) => candidate.pending && (to === undefined || candidate.tier < to.tier));
  if (better && !order.gatherOver) {
    const targets = candidates.filter((candidate) => candidate.pending).map((candidate) => candidate.name);
    return { ...gather(input, "the operator's target has to be proven first"), targets };
  }
  if (to === undefined) {
    const first = candidates[0];
    const why = rejected.map(({ option, why }) => `${option}: ${why}`).join("; ");
    return no(first?.refusal?.code ?? "no_candidate", why === "" ? `${input.upstream} has no other endpoint` : why, rejected);
  }
  return move(isFailback ? "operator_failback" : order.force ? "operator_forced" : "operator", to);
}

const overrideNames: Record<CandidateCode, string> = {
  read_only: "role",
  candidate_maintenance: "maintenance",
  candidate_held_down: "hold_down",
  candidate_unhealthy: "unhealthy",
  candidate_breaker_open: "breaker",
  candidate_calls_failing: "calls",
  candidate_unknown: "proof",
};

/** All that speaks against an endpoint: the first refusal hides those behind it. Proof only where nothing else does. */
function overriddenOf(named: EndpointSlice, input: FailoverInput, afterSeq: number): string[] {
  const codes = new Set<CandidateCode>();
  let context = input;
  for (;;) {
    const code = weighCandidate(named, context, 0, afterSeq).refusal?.code ?? "candidate_unknown";
    if (codes.has(code) || (code === "candidate_unknown" && codes.size > 0)) break;
    codes.add(code);
    context = { ...context, ...without[code] };
  }
  return [...codes].map((code) => overrideNames[code]);
}

/** With what a candidate is looked at again, as if nothing of the kind stood against it. */
const without: Partial<Record<CandidateCode, Partial<FailoverInput>>> = {
  candidate_maintenance: { maintained: {} },
  candidate_unhealthy: { health: {} },
  candidate_calls_failing: { calls: {} },
  candidate_breaker_open: { breakers: {} },
};

/** What is held down is called unhealthy for that alone; whether it lives its proof has to say. */
function withoutHoldDown(input: FailoverInput): FailoverInput {
  const free = ([name, known]: [string, HealthSlice]): [string, HealthSlice] => {
    const held = (known.heldDownUntilMs ?? 0) > input.nowMs;
    return [name, held ? { ...known, status: "unknown", heldDownUntilMs: null } : known];
  };
  return { ...input, health: Object.fromEntries(Object.entries(input.health).map(free)) };
}
function heldDown(input: FailoverInput, endpoint: { readonly name: string } | undefined): string[] {
  if (endpoint === undefined) return [];
  return (input.health[endpoint.name]?.heldDownUntilMs ?? 0) > input.nowMs ? ["hold_down"] : [];
}

export function obeyHold(input: FailoverInput, order: Extract<FailoverOrder, { kind: "hold" | "release" }>): FailoverDecision {
  const { upstream, state, nowMs } = input;
  const no = (rule: string, reason: string): FailoverDecision => ({
    kind: "rejected",
    rule,
    reason,
    automatic: false,
    sinceMs: nowMs,
    rejected: [],
    targets: [],
  });
  if (order.kind === "hold") {
    if (order.untilMs === undefined || order.untilMs > nowMs) return decided(input, "held", { rule: "operator", reason: order.reason });
    const times = `${new Date(order.untilMs).toISOString()} is over: it is ${new Date(nowMs).toISOString()} by the store's clock`;
    return no("until_over", `${times}; give a time that is still to come`);
  }
  if (state.held !== null) return decided(input, "released", { rule: "operator", reason: order.reason });
  return no("not_held", `${upstream} is not held; there is nothing to release`);
}
