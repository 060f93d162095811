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
  state: breakerState,
  certificate,
});
export type BreakerChanged = z.infer<typeof breakerChanged>;
