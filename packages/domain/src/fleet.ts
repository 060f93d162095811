import type { FleetReserved } from "@mcp-failover/contracts";
import type { FailoverPolicy } from "./policy.ts";

/**
 * The limit on automatic moves of the whole fleet: a place is reserved on one fenced subject before an upstream is moved.
 *
 * L1  Never more than `fleetMoves` reservations count at once: those that were used within `fleetWindowMs`, and those that still may be.
 * L2  A reservation that was not used ends after `reservationMs`; one that was used counts for the whole window, from when it was made.
 * L3  A reservation belongs to an upstream and an epoch, not to a decider: who finds it there goes on with it, and reserves nothing.
 * L4  Equal inputs give equal decisions; the input is not altered.
 */
export type Reservation = Pick<FleetReserved["reservations"][number], "upstream" | "epoch" | "atMs" | "expiresAtMs" | "used">;

export type ReservationInput = {
  upstream: string;
  /** Of the move that it is for. */
  epoch: number;
  state: { reservations: Reservation[] };
  /** Moves that were decided, by upstream and epoch: what makes a reservation a used one. */
  moved: { upstream: string; epoch: number }[];
  policy: Pick<FailoverPolicy, "fleetMoves" | "fleetWindowMs" | "reservationMs">;
  nowMs: number;
};

export type ReservationDecision = {
  kind: "granted" | "refused";
  rule: "reserved" | "reserved_already" | "fleet_limit";
  reason: string;
  expiresAtMs: number;
  /** Whether the state after this is to be said in a `fleet.reserved`. */
  publish: boolean;
  state: { reservations: Reservation[] };
  rejected: { option: string; why: string }[];
};

/** Limits above this are no limit: the reservations are in every decision of the fleet, and a decision is to stay small. */
const reservationsKeptMax = 200;

/** Reserves a place among the fleet's moves (L1 to L4). Pure. */
export function decideReservation(input: ReservationInput): ReservationDecision {
  const { upstream, epoch, policy, nowMs } = input;
  const wasMoved = (one: Reservation): boolean => input.moved.some((move) => move.upstream === one.upstream && move.epoch === one.epoch);
  const counted = input.state.reservations
    .map((one) => (one.used || !wasMoved(one) ? one : { ...one, used: true }))
    .filter((one) => (one.used ? nowMs - one.atMs < policy.fleetWindowMs : nowMs < one.expiresAtMs));
  const own = counted.find((one) => one.upstream === upstream && one.epoch === epoch);
  const before = { state: { reservations: counted }, rejected: [], publish: false };
  if (own !== undefined) {
    const reason = `epoch ${epoch} of ${upstream} has its place already`;
    return { ...before, kind: "granted", rule: "reserved_already", reason, expiresAtMs: own.expiresAtMs };
  }
  if (counted.length >= policy.fleetMoves && policy.fleetMoves <= reservationsKeptMax) {
    const others = counted.map((one) => `${one.upstream} (epoch ${one.epoch})`).join(", ");
    const why = `the fleet may make ${policy.fleetMoves} automatic moves in ${policy.fleetWindowMs} ms, and made: ${others}`;
    return { ...before, kind: "refused", rule: "fleet_limit", reason: why, expiresAtMs: nowMs, rejected: [{ option: upstream, why }] };
  }
  const expiresAtMs = nowMs + policy.reservationMs;
  return {
    kind: "granted",
    rule: "reserved",
    reason: `${counted.length + 1} of ${policy.fleetMoves} automatic moves in ${policy.fleetWindowMs} ms`,
    expiresAtMs,
    publish: true,
    state: { reservations: [...counted, { upstream, epoch, atMs: nowMs, expiresAtMs, used: false }].slice(-reservationsKeptMax) },
    rejected: [],
  };
}
