import type { Check } from "../world-types.ts";

/** Every guarantee that a run is held to, at every step. */
export const checks: readonly Check[] = [];
