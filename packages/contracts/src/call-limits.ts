import { z } from "zod";
import { milliseconds } from "./secret-ref.ts";

/** How calls of one upstream may be repeated, and how many of them there may be at once. */

const retriableStatus = z
  .number()
  .int()
  .refine((status) => status === 429 || (status >= 500 && status <= 599), "give 429 or a status from 500 to 599");

const hedgeConfig = z.strictObject({
  /** Turn it off where a standby's answers may be older than the active endpoint's, and readers have to see their own writes. */
  enabled: z.boolean().optional(),
  /** At most this share of the calls. */
  budget: z.number().min(0).max(0.2).optional(),
  /** Never before, however fast such calls usually are. */
  after_ms_min: milliseconds(10, 60_000).optional(),
  /** Calls of the last 10 minutes from which the usual time is known. */
  minimum_calls: z.number().int().min(5).max(10_000).optional(),
});
export type HedgeConfig = z.infer<typeof hedgeConfig>;

export const retryConfig = z.strictObject({
  /**
   * Statuses with which this upstream says that the call did not run, so that writes may be sent again. Only the operator can know that: a 503 of a
   * server that stops may come after its work was done.
   */
  not_executed_statuses: z.array(retriableStatus).max(20).default([]),
  /** A read that takes longer than usual is made at a second endpoint too, and the first answer counts. */
  hedge: hedgeConfig.optional(),
});

/** Limits of each router process. */
export const admissionConfig = z.strictObject({
  /** Calls under way at once; further ones wait. */
  concurrency_max: z.number().int().min(1).max(100_000),
  /** Calls that wait at once; further ones are refused. */
  queue_max: z.number().int().min(0).max(10_000).optional(),
  /** How long a call waits at most. */
  queue_ms_max: milliseconds(1, 60_000).optional(),
  /** Calls of these tools and agents go before the others, and take the place of one that waits when the queue is full. */
  critical_tools: z.array(z.string().min(1).max(128)).max(1000).default([]),
  critical_agents: z.array(z.string().min(1).max(128)).max(1000).default([]),
});

const agentRate = z.strictObject({
  /** Lasting rate. */
  calls_per_second: z.number().positive().max(1_000_000),
  /** Calls that may come at once after a pause; default twice the rate, at least one. */
  burst: z.number().int().min(1).max(1_000_000).optional(),
});
export type AgentRate = z.infer<typeof agentRate>;

/** How many calls an agent may make of each router process, all upstreams together. Those that give no name share one account. */
export const agentRates = z.strictObject({
  default: agentRate.optional(),
  agents: z.record(z.string().min(1).max(128), agentRate).default({}),
});
