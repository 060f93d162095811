import { z } from "zod";
import { atMs, failureCode, implementation } from "./primitives.ts";

const count = z.number().int().nonnegative();

/** Upper bounds, in milliseconds, of the latency histogram in {@link trafficEndpoint}; the last bucket has no bound. */
export const latencyBucketsMs = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000] as const;

/** What one router process saw of one endpoint in one window. */
export const trafficEndpoint = z.looseObject({
  upstream: z.string(),
  endpoint: z.string(),
  /**
   * Generation of the fleet's breaker under which these calls were let through; a window with calls of two generations has two items.
   * The breaker does not count calls of an older one. Without it, calls count when even the slowest of the window must have begun after the breaker's last change.
   */
  breakerGeneration: count.optional(),
  ok: count,
  hard: count,
  soft: count,
  auth: count,
  caller: count,
  inFlight: count,
  /** Age of the oldest call in flight; 0 when there is none. */
  oldestInFlightMs: z.number().nonnegative(),
  /** Of those in flight, how many for longer than the policy's `slowInFlightMs`: one may be a slow tool, several are not. */
  slowInFlight: count.optional(),
  /** Calls are overdue, and a look at the endpoint in the same silence had no answer either. */
  hung: z.boolean().optional(),
  /** How much longer the endpoint has asked to be left alone (`Retry-After` of a 429 or 503). */
  retryAfterMs: z.number().nonnegative().optional(),
  /** Reads that waited here for longer than usual and were made at another endpoint too; and how many of them the other one answered. */
  hedged: count.optional(),
  hedgeWon: count.optional(),
  /** Hard failures before the first call that was not one, and after the last: so that runs are carried over windows. */
  hardRunHead: count,
  hardRunTail: count,
  lastCode: failureCode.nullable(),
  lastHardAtMs: atMs.nullable(),
  lastOkAtMs: atMs.nullable(),
  /** Ended calls per bucket of {@link latencyBucketsMs}, one more than there are bounds. */
  latency: z.array(count).length(latencyBucketsMs.length + 1),
  latencyMsSum: z.number().nonnegative(),
  latencyMsMax: z.number().nonnegative(),
});
export type TrafficEndpoint = z.infer<typeof trafficEndpoint>;

/** What one router process saw of one tool in one window; `errors` counts hard failures, JSON-RPC errors of the server and `isError` results. */
export const trafficTool = z.looseObject({
  upstream: z.string(),
  tool: z.string(),
  agent: z.string().nullable(),
  implementation,
  calls: count,
  errors: count,
  latency: z.array(count).length(latencyBucketsMs.length + 1),
});
export type TrafficTool = z.infer<typeof trafficTool>;

/** A call that may have run, and of which its caller was told nothing better (`outcome_unknown`). */
const trafficUnknown = z.looseObject({
  /** As in the error and in the header `mcpf-operation-id`. */
  operationId: z.string().max(128),
  upstream: z.string(),
  /** Where it was sent last; null: to the legacy API. */
  endpoint: z.string().nullable(),
  method: z.string(),
  tool: z.string().nullable(),
  agent: z.string().nullable(),
  /** Null: the caller went away first. */
  code: failureCode.nullable(),
  atMs,
});
export type TrafficUnknown = z.infer<typeof trafficUnknown>;

/** The route that a router holds for an upstream: which decision it has applied. */
export const routeHeld = z.looseObject({
  generation: count,
  epoch: count,
  eventId: z.string().nullable(),
  active: z.string(),
});
export type RouteHeld = z.infer<typeof routeHeld>;

/**
 * `traffic.observed.<router>`: one message a router process and window (250 ms while there is traffic, at once when a route was
 * applied, at least every 2 s). Stream SIGNALS.
 */
export const trafficObserved = z.looseObject({
  router: z.string(),
  fromMs: atMs,
  toMs: atMs,
  endpoints: z.array(trafficEndpoint).max(5000),
  tools: z.array(trafficTool).max(5000),
  /** Those of this window; when there are very many, the first ones and how many more. */
  unknown: z.array(trafficUnknown).max(1000).optional(),
  unknownMore: count.optional(),
  routes: z.record(z.string(), routeHeld),
  /** `scope/name` to the epoch of the rollback decision that this router has applied. */
  rollbacks: z.record(z.string(), count),
  /** The same to the id of that decision's event, as far as it is known: another log may have had the same epoch. */
  rollbackIds: z.record(z.string(), z.string()).optional(),
});
export type TrafficObserved = z.infer<typeof trafficObserved>;
