import type { ProberPolicy } from "@mcp-failover/domain";

type Lane = "scheduled" | "confirm";
type Refusal = "fleet_limit" | "host_limit";

/** Probes in flight, limited in all and per host. Nothing waits here: who gets no place is skipped and counted. */
export interface Limits {
  /** Takes a place, or says which limit is in the way. */
  acquire(host: string, lane: Lane): Refusal | null;
  release(host: string, lane: Lane): void;
  readonly inFlight: number;
}

/** Confirming probes have a reserve that regular ones cannot take, and places of their own on each host: a decision waits for them. */
export function createLimits(
  policy: Pick<ProberPolicy, "inFlightMax" | "inFlightReserved" | "inFlightPerHostMax" | "confirmPerHostMax">,
): Limits {
  const perHost = new Map<string, number>();
  let inFlight = 0;
  return {
    acquire(host, lane) {
      if (inFlight >= policy.inFlightMax - (lane === "scheduled" ? policy.inFlightReserved : 0)) return "fleet_limit";
      const hostLane = `${lane} ${host}`;
      const onHost = perHost.get(hostLane) ?? 0;
      if (onHost >= (lane === "scheduled" ? policy.inFlightPerHostMax : policy.confirmPerHostMax)) return "host_limit";
      perHost.set(hostLane, onHost + 1);
      inFlight += 1;
      return null;
    },
    release(host, lane) {
      const hostLane = `${lane} ${host}`;
      const onHost = (perHost.get(hostLane) ?? 1) - 1;
      if (onHost === 0) perHost.delete(hostLane);
      else perHost.set(hostLane, onHost);
      inFlight -= 1;
    },
    get inFlight() {
      return inFlight;
    },
  };
}
