import { z } from "zod";
import { actor, atMs, certificate, implementation, rollbackScope } from "./primitives.ts";

/** The whole state of one scope: a tool, an agent, or the system (whose name is "system"). */
export const rollbackState = z.looseObject({
  epoch: z.number().int().nonnegative(),
  implementation,
  /** Share of the calls, in percent, that go to MCP: 100 normally, 0 when rolled back, between during a recovery. */
  mcpPercent: z.number().min(0).max(100),
  sinceMs: atMs,
  /** Epoch at which the scope was last whole on MCP. */
  lastGoodEpoch: z.number().int().nonnegative(),
  /** While a recovery goes step by step: when the step began, and whether it waits for better or more data. */
  ramp: z.object({ stepSinceMs: atMs, paused: z.boolean() }).nullable().optional(),
});
export type RollbackState = z.infer<typeof rollbackState>;

/** `rollback.decided.<scope>.<name>`, fenced. */
export const rollbackDecided = z.looseObject({
  scope: rollbackScope,
  name: z.string(),
  action: z.enum(["rolled_back", "advanced", "paused", "recovered"]),
  implementation,
  previousImplementation: implementation,
  timestamp: z.iso.datetime(),
  automatic: z.boolean(),
  by: actor,
  reason: z.string(),
  commandId: z.string().nullable(),
  state: rollbackState,
  certificate,
});
export type RollbackDecided = z.infer<typeof rollbackDecided>;

/** `rollback.executed | advanced | paused | recovered.<scope>.<name>`, derived from the decision. */
export const rollbackNotice = z.looseObject({
  scope: rollbackScope,
  name: z.string(),
  epoch: z.number().int().nonnegative(),
  decisionId: z.string(),
  implementation,
  timestamp: z.iso.datetime(),
  reason: z.string(),
  /** Of the decision. */
  rule: z.string().optional(),
  by: actor,
  appliedBy: z.array(z.string()),
  notAppliedBy: z.array(z.string()),
});
export type RollbackNotice = z.infer<typeof rollbackNotice>;
export const rollbackRejected = z.looseObject({
  scope: rollbackScope,
  name: z.string(),
  timestamp: z.iso.datetime(),
  /** Epoch of the state that stayed as it was. */
  epoch: z.number().int().nonnegative().optional(),
  rule: z.string(),
  reason: z.string(),
  automatic: z.boolean(),
  by: actor,
  commandId: z.string().nullable(),
  certificate,
});
export type RollbackRejected = z.infer<typeof rollbackRejected>;
