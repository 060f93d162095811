import { z } from "zod";
import { atMs, certificate, healthStatus, vote } from "./primitives.ts";

/** The whole state of one endpoint's health: what a prober that takes over needs to go on. */
export const healthState = z.looseObject({
  status: healthStatus,
  /** 0 (dead) to 1 (well). */
  score: z.number().min(0).max(1),
  sinceMs: atMs,
  okRun: z.number().int().nonnegative(),
  failRun: z.number().int().nonnegative(),
  /** Times of the changes between up and down inside the flap window. */
  changesAtMs: z.array(atMs).max(100),
  heldDownUntilMs: atMs.nullable(),
  lastObservedAtMs: atMs.nullable(),
  /** Alive but credentials refused (`auth`) or rate limited (`soft`) so many times in a row, by `cause`; and well so many times in a row. */
  impairedRun: z.number().int().nonnegative().optional(),
  wellRun: z.number().int().nonnegative().optional(),
  cause: z.enum(["auth", "soft", "degraded", "zone"]).nullable().optional(),
  /** With `degraded`: the code of the degradation that the observations name. */
  causeCode: z.string().max(40).nullable().optional(),
  /** With `zone`: the only zone of probers that sees it fail. */
  failingZone: z.string().max(64).nullable().optional(),
  /** Which side it was last known on: what counts as a change between up and down when `unknown` lay between. */
  side: z.enum(["up", "down"]).nullable().optional(),
  /** Moving average of the response times of answers; null before the first. Time-outs of quick probes follow it. */
  usualMs: z.number().nonnegative().nullable().optional(),
});
export type HealthState = z.infer<typeof healthState>;

/**
 * `health.changed.<upstream>.<endpoint>`, fenced. `service, status, responseTime, error, timestamp, critical` are the fields
 * of the reference's health report; `responseTime` is in milliseconds, null where no answer came.
 */
export const healthChanged = z.looseObject({
  service: z.string(),
  endpoint: z.string(),
  status: healthStatus,
  responseTime: z.number().nonnegative().nullable(),
  error: z.string().nullable(),
  timestamp: z.iso.datetime(),
  critical: z.boolean(),
  previousStatus: healthStatus.nullable(),
  reason: z.string(),
  prober: z.string(),
  votes: z.array(vote),
  /** The planned work that the endpoint is in; nothing is moved or told to people because of this change. */
  maintenance: z.looseObject({ name: z.string(), reason: z.string(), untilMs: atMs }).nullable().optional(),
  state: healthState,
  certificate,
});
export type HealthChanged = z.infer<typeof healthChanged>;
