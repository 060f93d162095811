import { decideBreaker, decideFailover, decideHealth, decideReservation, decideRollback, type Recompute } from "@mcp-failover/domain";

/** The pure functions that take decisions, by the name that certificates give. Their inputs are read as they were recorded. */
export const deciders: Readonly<Record<string, Recompute>> = {
  decideHealth: (input) => decideHealth(input as Parameters<typeof decideHealth>[0]),
  decideBreaker: (input) => decideBreaker(input as Parameters<typeof decideBreaker>[0]),
  decideFailover: (input) => decideFailover(input as Parameters<typeof decideFailover>[0]),
  decideReservation: (input) => decideReservation(input as Parameters<typeof decideReservation>[0]),
  decideRollback: (input) => decideRollback(input as Parameters<typeof decideRollback>[0]),
};
