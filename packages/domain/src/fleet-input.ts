import { endpointKey } from "@mcp-failover/contracts";
import { type FailoverAudit, failoverPolicyOf, failoverStateOf, heldDownUntil } from "./failover-input.ts";
import type { FailoverDecision, FailoverInput } from "./failover-outcome.ts";
import type { ReservationInput, Want } from "./fleet.ts";
import { maintenanceAt } from "./maintenance.ts";
import { safetyFacts } from "./safety-rules.ts";

/** The input of a reservation for moves of configured upstreams; at least one. Throws when nothing is configured yet. */
export function reservationInput(audit: FailoverAudit, wants: readonly Want[], nowMs: number): ReservationInput {
  if (audit.config === null) throw new RangeError("no configuration has been applied yet");
  const { topology, environment } = audit.config;
  const [first] = wants;
  if (first === undefined) throw new RangeError("a reservation is for at least one move");
  const { fleetMoves, fleetWindowMs, fleetCriticalShare, reservationMs } = failoverPolicyOf(topology, first.upstream, environment);
  const moved = audit.reservations.flatMap((one) =>
    audit.states.get(one.upstream)?.moves.some((move) => move.epoch === one.epoch) ? [{ upstream: one.upstream, epoch: one.epoch }] : [],
  );
  return {
    wants: [...wants],
    state: { reservations: [...audit.reservations] },
    moved,
    rules: safetyFacts(topology, new Set(wants.map(({ upstream }) => upstream)), {
      offBecause: (upstream, endpoint) => offBecause(audit, upstream, endpoint, nowMs),
      onBackup: (upstream) => isOnBackup(audit, upstream),
    }),
    policy: { fleetMoves, fleetWindowMs, fleetCriticalShare, reservationMs },
    nowMs,
  };
}

/** What is asked of the fleet for a decision that has to be reserved. */
export function wantOf(input: FailoverInput, decision: Extract<FailoverDecision, { kind: "reserve" }>, critical: boolean): Want {
  const { upstream, state, command } = input;
  const { epoch, to, toBackup, sinceMs, rule } = decision;
  const force = command?.kind === "failover" || command?.kind === "failback" ? command.force : false;
  return {
    upstream,
    epoch,
    critical,
    sinceMs,
    from: state.active,
    to,
    toBackup,
    failback: rule === "failback",
    operator: command !== null,
    force,
  };
}

function offBecause(audit: FailoverAudit, upstream: string, endpoint: string, nowMs: number): string | null {
  const topology = audit.config?.topology;
  if (!topology?.upstreams[upstream]?.endpoints.some(({ name }) => name === endpoint)) return "not configured";
  const health = audit.health.get(endpointKey(upstream, endpoint));
  const breaker = audit.breakers.get(endpointKey(upstream, endpoint));
  if (health?.status === "unhealthy") return "unhealthy";
  if (health !== undefined && (heldDownUntil(health, nowMs) ?? 0) > nowMs) return "held down";
  if (breaker === "open" || breaker === "forced_open") return `breaker ${breaker}`;
  return maintenanceAt(topology, upstream, endpoint, nowMs) === null ? null : "in maintenance";
}

function isOnBackup(audit: FailoverAudit, upstream: string): boolean {
  const endpoints = audit.config?.topology.upstreams[upstream]?.endpoints ?? [];
  if (endpoints.length === 0) return false;
  const { active } = failoverStateOf(audit, upstream);
  const tier = endpoints.find(({ name }) => name === active)?.tier ?? Number.POSITIVE_INFINITY;
  return endpoints.some((endpoint) => endpoint.role === "write" && endpoint.tier < tier);
}
