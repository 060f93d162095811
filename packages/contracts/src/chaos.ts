import { z } from "zod";
import { actor, atMs } from "./primitives.ts";

export const chaosScenario = z.enum(["killService", "slowResponse"]);
export type ChaosScenario = z.infer<typeof chaosScenario>;

/** Figures of the steady state, as the reference's `captureMetrics`. */
export const chaosMetrics = z.looseObject({
  timestamp: z.iso.datetime(),
  calls: z.number().int().nonnegative(),
  failed: z.number().int().nonnegative(),
  latencyMsP50: z.number().nullable(),
  latencyMsP95: z.number().nullable(),
  services: z.record(z.string(), z.looseObject({ active: z.string(), epoch: z.number(), endpoints: z.record(z.string(), z.string()) })),
});
export type ChaosMetrics = z.infer<typeof chaosMetrics>;

export const chaosCheck = z.looseObject({ name: z.string(), passed: z.boolean(), detail: z.string() });
export type ChaosCheck = z.infer<typeof chaosCheck>;

/** `chaos.started.<experiment>`. The revert is on record before anything is injected. */
export const chaosStarted = z.looseObject({
  experiment: z.string(),
  scenario: chaosScenario,
  target: z.string(),
  options: z.record(z.string(), z.unknown()),
  by: actor,
  reason: z.string(),
  timestamp: z.iso.datetime(),
  /** Codes of the limits of the blast radius that `options.force` overrode, `last_endpoint` for one. Absent from what older runners wrote. */
  overrode: z.array(z.string()).optional(),
  /** What will be injected into what, and how it is undone. */
  plan: z.looseObject({ process: z.string(), inject: z.string(), revert: z.string(), expiresAtMs: atMs }),
});
export type ChaosStarted = z.infer<typeof chaosStarted>;
export const chaosStep = z.looseObject({ experiment: z.string(), target: z.string(), what: z.string(), timestamp: z.iso.datetime() });
export type ChaosStep = z.infer<typeof chaosStep>;

/** `chaos.finished.<experiment>`: the reference's result. Times are milliseconds since the Unix epoch, `duration` and `recoveryTime` milliseconds. */
export const chaosFinished = z.looseObject({
  experiment: z.string(),
  scenario: chaosScenario,
  target: z.string(),
  options: z.record(z.string(), z.unknown()),
  baseline: chaosMetrics.nullable(),
  recoveryTime: z.number().nonnegative().nullable(),
  finalState: chaosMetrics.nullable(),
  validation: z.looseObject({
    dataIntegrity: z.boolean(),
    performanceWithinThreshold: z.boolean(),
    noDataLoss: z.boolean(),
    checks: z.array(chaosCheck),
  }),
  success: z.boolean(),
  error: z.string().nullable(),
  startTime: atMs,
  endTime: atMs,
  duration: z.number().nonnegative(),
  /** Of an answer alone: why the result is not on record yet. */
  unrecorded: z.string().optional(),
});
export type ChaosFinished = z.infer<typeof chaosFinished>;
