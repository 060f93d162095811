import type { ProberPolicy } from "@mcp-failover/domain";

type Lane = "scheduled" | "confirm";
type Refusal = "fleet_limit" | "host_limit";

/** Probes in flight, limited in all and per host. Nothing waits here: who gets no place is skipped and counted. */
export interface Limits {
  /** Takes a place, or says which limit is in the way. */
  acquire(host: string, lane: Lane, critical?: boolean): Refusal | null;
  release(host: string, lane: Lane): void;
  readonly inFlight: number;
}

/**
 * Confirming probes have a reserve that regular ones cannot take, and places of their own on each host: a decision waits for them. Of the
 * regular ones, those of critical upstreams have a reserve too.
 */
export function createLimits(
  policy: Pick<ProberPolicy, "inFlightMax" | "inFlightReserved" | "inFlightCritical" | "inFlightPerHostMax" | "confirmPerHostMax">,
): Limits {
  const perHost = { scheduled: new Map<string, number>(), confirm: new Map<string, number>() };
  let inFlight = 0;
  const placesFor = (lane: Lane, critical: boolean): number =>
    lane === "confirm" ? policy.inFlightMax : policy.inFlightMax - policy.inFlightReserved - (critical ? 0 : policy.inFlightCritical);
  return {
    acquire(host, lane, critical = true) {
      if (inFlight >= placesFor(lane, critical)) return "fleet_limit";
      const onHost = perHost[lane].get(host) ?? 0;
      if (onHost >= (lane === "scheduled" ? policy.inFlightPerHostMax : policy.confirmPerHostMax)) return "host_limit";
      perHost[lane].set(host, onHost + 1);
      inFlight += 1;
      return null;
    },
    release(host, lane) {
      const onHost = (perHost[lane].get(host) ?? 1) - 1;
      if (onHost === 0) perHost[lane].delete(host);
      else perHost[lane].set(host, onHost);
      inFlight -= 1;
    },
    get inFlight() {
      return inFlight;
    },
  };
}
