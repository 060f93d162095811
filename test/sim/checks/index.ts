import type { Check } from "../world-types.ts";
import { honestOutcomes, neverTheLast, neverTwice } from "./calls.ts";
import { epochsWithoutGap, fencedWithoutGap, oneActiveEndpointAnEpoch } from "./epochs.ts";
import { callsOfMany, fleetLimit, freshProof, holdsAreKept, moveLimit, noSingleWord } from "./moves.ts";
import { recovers } from "./recovery.ts";
import { decisionsReplay } from "./replay.ts";

/** Every guarantee that a run is held to, at every step. */
export const checks: readonly Check[] = [
  oneActiveEndpointAnEpoch,
  epochsWithoutGap,
  fencedWithoutGap,
  freshProof,
  neverTheLast,
  moveLimit,
  noSingleWord,
  callsOfMany,
  neverTwice,
  honestOutcomes,
  recovers,
  decisionsReplay,
  fleetLimit,
  holdsAreKept,
];
