import { z } from "zod";
import { actor, rollbackScope } from "./primitives.ts";
import { silenceMsMax } from "./silence.ts";

/** In every command: who, why, and the idempotency key under which a repeat gives the first answer instead of a second action. */
const base = {
  commandId: z.string().min(1).max(128),
  by: actor,
  reason: z.string().trim().min(1, "say why: a change needs a reason").max(1000),
  /** The last sequence of AUDIT when it was given: what operators decided since then overtakes an order that comes through late. */
  givenAtSeq: z.number().int().nonnegative().optional(),
};

export const failoverCommand = z.looseObject({
  ...base,
  upstream: z.string(),
  /** Null: the best proven candidate. */
  to: z.string().nullable(),
  /** Overrides cool-down, limits and hold-down, and is recorded; never proof of the candidate's life unless the operator named it. */
  force: z.boolean(),
  dryRun: z.boolean(),
});
export type FailoverCommand = z.infer<typeof failoverCommand>;
/** What an operator can do to a breaker; `reset`: closed, and decided on automatically again. */
export const breakerAction = z.enum(["force_open", "disable", "metrics_only", "reset"]);
export type BreakerAction = z.infer<typeof breakerAction>;
export const breakerCommand = z.looseObject({
  ...base,
  upstream: z.string(),
  /** Null: every endpoint of the upstream. */
  endpoint: z.string().nullable(),
  action: breakerAction,
});
export type BreakerCommand = z.infer<typeof breakerCommand>;
/** Back to the best endpoint of a better tier than the active one. */
export const failbackCommand = z.looseObject({ ...base, upstream: z.string(), force: z.boolean(), dryRun: z.boolean() });
export type FailbackCommand = z.infer<typeof failbackCommand>;
const yearMs = 365 * 86_400_000;
export const holdCommand = z.looseObject({
  ...base,
  upstream: z.string(),
  /** Null: until it is released. */
  forMs: z
    .number()
    .int()
    .positive()
    .max(10 * yearMs, "at most ten years; leave it out to hold until it is released")
    .nullable(),
  /** When it ends, by the store's clock; wins over `forMs`, which whoever asks had to count by a clock of their own. */
  untilMs: z.number().int().positive().optional(),
});
export type HoldCommand = z.infer<typeof holdCommand>;
export const releaseCommand = z.looseObject({ ...base, upstream: z.string() });
export type ReleaseCommand = z.infer<typeof releaseCommand>;
export const rollbackCommand = z.looseObject({ ...base, scope: rollbackScope, name: z.string(), force: z.boolean() });
export type RollbackCommand = z.infer<typeof rollbackCommand>;
/** `percent` 100 brings the scope back whole at once; null begins a ramp. */
export const recoverCommand = z.looseObject({
  ...base,
  scope: rollbackScope,
  name: z.string(),
  percent: z.number().min(1).max(100).nullable(),
});
export type RecoverCommand = z.infer<typeof recoverCommand>;
export const chaosCommand = z.looseObject({
  ...base,
  /** One of `chaosScenario`; the chaos-runner refuses others by name. */
  scenario: z.string(),
  target: z.string(),
  options: z.looseObject({
    /** Which endpoint; null: the active one. */
    endpoint: z.string().nullable().default(null),
    /** How long the fault lasts at most, in milliseconds. */
    durationMs: z.number().int().min(1000).max(900_000).default(20_000),
    /** `slowResponse`: added to every answer, in milliseconds (the reference's default is 5000). */
    delayMs: z.number().int().min(1).max(60_000).default(5000),
    /** How long to wait for recovery, in milliseconds (the reference waits 300000). */
    maxWaitMs: z.number().int().min(1000).max(300_000).default(60_000),
    /** Tool to call as the canary; null: the first read-only tool of the upstream's configuration. */
    tool: z.string().nullable().default(null),
    /** Also where nothing else would serve, or a hold keeps it from moving; what it overrode is in `chaos.started`. */
    force: z.boolean().default(false),
  }),
});
export type ChaosCommand = z.infer<typeof chaosCommand>;
export const acknowledgeCommand = z.looseObject({ ...base, incidentId: z.string() });
export type AcknowledgeCommand = z.infer<typeof acknowledgeCommand>;

/** Mutes what is about an upstream, its tools included, or about one key of incidents; replaces the silence that the target has. */
export const silenceCommand = z.looseObject({
  ...base,
  target: z.string().min(1).max(200),
  /** From when it is carried out, by the store's clock; null where `untilMs` says it. */
  forMs: z.number().int().min(1000, "give at least a second").max(silenceMsMax, "at most 30 days; give it again then").nullable(),
  /** When it ends, by the store's clock; wins over `forMs`. */
  untilMs: z.number().int().positive().optional(),
});
export type SilenceCommand = z.infer<typeof silenceCommand>;
export const unsilenceCommand = z.looseObject({ ...base, target: z.string().min(1).max(200) });
export type UnsilenceCommand = z.infer<typeof unsilenceCommand>;

/** Reply to every request on the bus. `code` is stable; `message` tells the reader what to do. */
export const reply = z.discriminatedUnion("ok", [
  z.looseObject({ ok: z.literal(true), result: z.unknown() }),
  z.looseObject({
    ok: z.literal(false),
    error: z.looseObject({ code: z.string(), message: z.string(), retriable: z.boolean() }),
  }),
]);
export type Reply = z.infer<typeof reply>;

/** `command.accepted.<command>`: recorded before the command acts. */
export const commandAccepted = z.looseObject({
  commandId: z.string(),
  command: z.string(),
  by: actor,
  reason: z.string(),
  timestamp: z.iso.datetime(),
  parameters: z.record(z.string(), z.unknown()),
});
export type CommandAccepted = z.infer<typeof commandAccepted>;

// Asked of the launcher and of the fault proxy: what belongs to the local stack, not to production.
export const processRequest = z.looseObject({
  process: z.string(),
  /** `launcher.kill`: how long it stays down; absent: the process's own time. */
  restartAfterMs: z.number().int().min(0).max(3_600_000).optional(),
});
export const processInfo = z.looseObject({
  name: z.string(),
  kind: z.enum(["infrastructure", "service", "upstream"]),
  pid: z.number().int().nullable(),
  state: z.enum(["starting", "running", "backing_off", "stopped"]),
  restarts: z.number().int().nonnegative(),
  /** `upstream/endpoint` that this process serves, where it serves one. */
  endpoint: z.string().nullable(),
  /** Name of the fault proxy in front of it, where there is one. */
  faultProxy: z.string().nullable(),
});
export type ProcessInfo = z.infer<typeof processInfo>;
/**
 * `latency`: answers come late. `blackhole`: connections are taken and stay open, nothing passes. `reset`: every connection is reset, a new
 * one as soon as it is there. `refuse`: the port is closed, and connections end in order. `status`: each request is answered with a status.
 */
export const faultKind = z.enum(["latency", "blackhole", "reset", "refuse", "status"]);
export type FaultKind = z.infer<typeof faultKind>;
/** A fault on one proxy is a lease: it ends by itself at `ttlMs`. */
export const faultRequest = z.looseObject({
  proxy: z.string(),
  kind: faultKind.default("latency"),
  /** Of `latency`: added before each chunk from the upstream, in milliseconds. */
  latencyMs: z.number().int().min(0).max(60_000).default(0),
  /** Of `status`: what HTTP requests are answered with. */
  status: z.number().int().min(400).max(599).default(503),
  ttlMs: z.number().int().min(100).max(900_000),
});
export type FaultRequest = z.infer<typeof faultRequest>;
