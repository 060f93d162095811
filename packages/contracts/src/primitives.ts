import { z } from "zod";

/** The last moment that a `Date` can hold: a later one cannot be shown, and would end whoever tries. */
const dateMsMax = 8_640_000_000_000_000;
/** Milliseconds since the Unix epoch. */
export const atMs = z.number().int().nonnegative().max(dateMsMax);
/** A name that an operator wrote in the configuration: of an upstream, endpoint, channel, process. */
export const name = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$/, "use 1 to 63 letters, digits, '-' or '_', beginning with a letter or digit");

export const healthStatus = z.enum(["healthy", "degraded", "unhealthy", "unknown"]);
export type HealthStatus = z.infer<typeof healthStatus>;

/**
 * How one call or probe ended, as far as the endpoint's health is concerned (design, "Outcome classes").
 * `hard`: transport error, time-out, 5xx, malformed answer. `soft`: 429. `auth`: 401/403, alive with wrong credentials.
 * `caller`: JSON-RPC method errors, other 4xx, `isError` results: never the breaker's business.
 */
export const outcomeClass = z.enum(["ok", "hard", "soft", "auth", "caller"]);
export type OutcomeClass = z.infer<typeof outcomeClass>;

/** Why a call or probe was `hard`; stable strings that operators grep for. */
export const failureCode = z.enum(["refused", "reset", "timeout", "dns", "tls", "http_5xx", "malformed", "closed", "unreachable", "other"]);
export type FailureCode = z.infer<typeof failureCode>;

export const breakerStatus = z.enum(["closed", "open", "half_open", "forced_open", "disabled", "metrics_only"]);
export type BreakerStatus = z.infer<typeof breakerStatus>;

export const implementation = z.enum(["mcp", "legacy"]);
export type Implementation = z.infer<typeof implementation>;
export const rollbackScope = z.enum(["tool", "agent", "system"]);
export type RollbackScope = z.infer<typeof rollbackScope>;

/** Where an event stands in a stream. */
export const logRef = z.object({ stream: z.string(), seq: z.number().int().positive() });
export type LogRef = z.infer<typeof logRef>;

/** The range of one stream that a decision had folded; null where it had read none of it. */
export const foldedRange = z.object({ first: z.number().int().nonnegative(), last: z.number().int().nonnegative() }).nullable();

/**
 * One observer's word on one endpoint, as it was weighed in a decision.
 * `ref` names the observation in the log; null for a reply that was not (yet) stored.
 */
export const vote = z.looseObject({
  observer: z.string(),
  kind: z.enum(["prober", "router"]),
  verdict: z.enum(["healthy", "unhealthy", "unknown"]),
  outcome: outcomeClass,
  code: failureCode.nullable(),
  atMs,
  responseTimeMs: z.number().nonnegative().nullable(),
  /** Where the observer stands; absent or null: it does not say. */
  zone: z.string().max(64).nullable().optional(),
  ref: logRef.nullable(),
});
export type Vote = z.infer<typeof vote>;

/**
 * Why a decision was taken: enough to take it again. `input` is the exact argument of the pure function that decided;
 * `mcpf events verify` calls the function on it again and compares.
 */
export const certificate = z.looseObject({
  /** Name of the pure function in `packages/domain`, for example `decideFailover`. */
  decider: z.string(),
  rule: z.string(),
  policyHash: z.string(),
  /** The time that the decision was taken for: a store timestamp or a 1 s boundary, never a reading inside the function. */
  nowMs: atMs,
  folded: z.object({ AUDIT: foldedRange, SIGNALS: foldedRange }),
  input: z.unknown(),
  rejected: z.array(z.looseObject({ option: z.string(), why: z.string() })),
});
export type Certificate = z.infer<typeof certificate>;

/** Who caused a change. `kind: "service"` is the system itself. */
export const actor = z.looseObject({ kind: z.enum(["operator", "service"]), id: z.string() });
export type Actor = z.infer<typeof actor>;
