import type { Event } from "@mcp-failover/contracts";
import { decideReservation, type ReservationInput } from "@mcp-failover/domain";

interface FleetOrder {
  /** How many upstreams had got a place when the last critical one got its first; of so many in all. */
  readonly lastCritical: number;
  readonly placed: number;
  /** Critical upstreams that were refused in a reservation that let one through that is not critical. */
  readonly passedOver: readonly string[];
}

/** In which order the fleet's places were given away. */
export function orderOfPlaces(reserved: readonly Event<"fleet.reserved">[], isCritical: (upstream: string) => boolean): FleetOrder {
  const passedOver = reserved.flatMap(({ data }) => {
    const { answers } = decideReservation(JSON.parse(JSON.stringify(data.certificate.input)) as ReservationInput);
    const of = (granted: boolean): string[] => answers.filter((one) => one.granted === granted).map(({ upstream }) => upstream);
    return of(true).every(isCritical) ? [] : of(false).filter(isCritical);
  });
  const first = [...new Set(reserved.flatMap(({ data }) => data.reservations.map(({ upstream }) => upstream)))];
  return { lastCritical: first.findLastIndex(isCritical) + 1, placed: first.length, passedOver };
}
