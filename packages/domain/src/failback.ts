import { coolingFrom, decideReserved, movesCounted } from "./failover-move.ts";
import { type FailoverDecision, type FailoverInput, gather } from "./failover-outcome.ts";
import { type EndpointSlice, weighCandidate } from "./failover-proof.ts";
import { failbackWaitMs, trialInForce } from "./failover-verify.ts";
import { timeSinceSetBack } from "./store-time.ts";

/** Whether an upstream whose active endpoint answers goes back to a preferred one by itself (F12). `proven`: the active endpoint is. */
export function decideFailback(input: FailoverInput, proven: boolean): FailoverDecision {
  const none = noneBecause(input, proven);
  if (!proven || !mayFailBack(input)) return none;
  const { state, policy, nowMs } = input;
  const waitMs = failbackWaitMs(input);
  const preferred = preferredOf(input);
  const well = preferred.filter((endpoint) => isSteady(input, endpoint) && nowMs - wellSinceMs(input, endpoint) >= waitMs);
  // A tier of which half is still sick would be left again at once.
  const ready = well.filter(({ tier }) => {
    const share = (all: readonly EndpointSlice[]): number => all.filter((endpoint) => endpoint.tier === tier).length;
    return input.mode === "active_standby" || share(well) * 2 > share(preferred);
  });
  if (ready.length === 0) return none;
  // Proven by a probe that was asked for since; what a schedule found is not enough (F5).
  const askedMs = input.gatherSinceMs ?? nowMs;
  const candidates = ready.map((endpoint) => weighCandidate(endpoint, input, askedMs, 0)).sort((a, b) => a.tier - b.tier);
  const to = candidates.find((candidate) => candidate.refusal === null);
  const named = (to ?? candidates[0])?.name ?? state.active;
  const reason = `${named} has been healthy for ${waitMs} ms and is preferred to ${state.active}`;
  if (to === undefined) return candidates.some((candidate) => candidate.pending) ? gather(input, reason) : none;
  if (input.fleet !== null && !input.fleet.granted && input.fleet.rule !== "safety_rule" && !policy.dryRun) return none;
  const sinceMs = wellSinceMs(input, to) + waitMs;
  return decideReserved(input, { sinceMs }, { rule: "failback", reason, to, overrode: [], candidates });
}

/**
 * Before this no failback comes by itself, unless the health or the breaker of an endpoint changes: no preferred endpoint has been healthy
 * for long enough. Infinity: none would.
 */
export function failbackDueMs(input: FailoverInput): number {
  if (input.policy.failback !== "automatic") return Number.POSITIVE_INFINITY;
  const healthy = preferredOf(input).filter(({ name }) => input.health[name]?.status === "healthy");
  return Math.min(Number.POSITIVE_INFINITY, ...healthy.map((endpoint) => wellSinceMs(input, endpoint) + failbackWaitMs(input)));
}

function preferredOf(input: FailoverInput): EndpointSlice[] {
  const tier = activeTierOf(input);
  return input.endpoints.filter((endpoint) => endpoint.role === "write" && endpoint.tier < tier);
}

/** A time before the last move, or before a failback that failed, is none of health. */
function wellSinceMs({ health, state, nowMs, setBack }: FailoverInput, { name }: Pick<EndpointSlice, "name">): number {
  const times = [health[name]?.sinceMs ?? nowMs, state.moves.at(-1)?.atMs ?? 0, state.failbackFailedAtMs ?? 0];
  return Math.max(...times.map((atMs) => timeSinceSetBack(atMs, nowMs, setBack)));
}

export function activeTierOf({ endpoints, state }: FailoverInput): number {
  return endpoints.find((endpoint) => endpoint.name === state.active)?.tier ?? state.tier;
}

function noneBecause(input: FailoverInput, proven: boolean): Extract<FailoverDecision, { kind: "none" }> {
  const { state, suspects } = input;
  if (proven) return { kind: "none", rule: "active_healthy", reason: `${state.active} answers` };
  const observers = input.evidence[state.active]?.observers ?? [];
  const blind = observers.filter((observer) => suspects.includes(observer)).length;
  if (blind * 2 > observers.length)
    return { kind: "none", rule: "observers_suspect", reason: `${blind} of ${observers.length} observers reach nothing that others reach` };
  return { kind: "none", rule: "no_evidence", reason: `nothing fresh is known of ${state.active}` };
}

/** Nothing else is under way, and one more move would be left within the hour, should the failback have to be undone. */
function mayFailBack(input: FailoverInput): boolean {
  const { policy, state, nowMs, clock } = input;
  if (policy.failback !== "automatic" || !policy.automatic || clock.tilted || state.held !== null) return false;
  if (trialInForce(input) !== null || (input.graceUntilMs ?? 0) > nowMs || (input.rehearsal ?? null) !== null) return false;
  if (coolingFrom(input) !== null) return false;
  return movesCounted(input) + Math.min(2, policy.movesPerHour) <= policy.movesPerHour && policy.movesPerHour > 0;
}

/** Healthy, whole, at rest: no breaker that is anything but closed, no maintenance, no more changes than one outage makes. */
function isSteady({ health, breakers, policy, maintained }: FailoverInput, { name }: EndpointSlice): boolean {
  const known = health[name];
  if (known?.status !== "healthy" || (known.flaps ?? 0) > policy.flapChangesMax || maintained?.[name] !== undefined) return false;
  return !["open", "half_open", "forced_open"].includes(breakers[name] ?? "closed");
}
