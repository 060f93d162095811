import { z } from "zod";
import { actor, atMs, breakerStatus, certificate } from "./primitives.ts";

/** Calls that one router may send through a half-open breaker. */
export const permit = z.looseObject({ router: z.string(), calls: z.number().int().positive(), expiresAtMs: atMs });
export type Permit = z.infer<typeof permit>;

export const breakerState = z.looseObject({
  status: breakerStatus,
  /** Grows by one at every change; results of an older generation are ignored. */
  generation: z.number().int().nonnegative(),
  sinceMs: atMs,
  /** Set while `open`. */
  openUntilMs: atMs.nullable(),
  /** How many times it opened without a quiet period between: the exponent of the open time. */
  openings: z.number().int().nonnegative(),
  /** Set while `half_open`. */
  permits: z.array(permit).max(1000),
  /**
   * Set when the permits of this `half_open` ran out without a verdict and were renewed: how often, when last, and the successes seen
   * before that. Calls of the generations since its beginning count.
   */
  renewed: z.looseObject({ times: z.number().int().positive(), atMs, successes: z.number().int().nonnegative() }).optional(),
});
export type BreakerState = z.infer<typeof breakerState>;

/** `breaker.changed.<upstream>.<endpoint>`, fenced. */
export const breakerChanged = z.looseObject({
  service: z.string(),
  endpoint: z.string(),
  status: breakerStatus,
  previousStatus: breakerStatus,
  timestamp: z.iso.datetime(),
  reason: z.string(),
  by: actor,
  /** Set where an operator's command did it. */
  commandId: z.string().optional(),
  state: breakerState,
  certificate,
});
export type BreakerChanged = z.infer<typeof breakerChanged>;
