import { z } from "zod";
import { actor, atMs, certificate } from "./primitives.ts";

export const hold = z.looseObject({ by: actor, reason: z.string(), sinceMs: atMs, untilMs: atMs.nullable() });
export type Hold = z.infer<typeof hold>;

export const move = z.looseObject({ atMs, epoch: z.number().int(), from: z.string(), to: z.string(), automatic: z.boolean() });
export type Move = z.infer<typeof move>;

/** A move that is being verified by real traffic, or was last. */
export const trial = z.looseObject({
  /** Of the move. */
  epoch: z.number().int().nonnegative(),
  kind: z.enum(["failover", "failback"]),
  atMs,
  untilMs: atMs,
  /** Moves that were made because the one before made nothing better. */
  round: z.number().int().nonnegative(),
  /** Endpoints that failed in this recovery. */
  tried: z.array(z.string()).max(1000),
  /** How the calls at the endpoint that was left had ended, shortly before it was left. */
  before: z.looseObject({ ok: z.number().int().nonnegative(), hard: z.number().int().nonnegative() }),
  /** No move helped; an operator has to look. */
  failed: z.boolean(),
});
export type Trial = z.infer<typeof trial>;

/** The whole state of one upstream's route: all that a new decider needs. */
export const failoverState = z.looseObject({
  /** The log's generation. Routes are ordered by (generation, epoch). */
  generation: z.number().int().nonnegative(),
  /** Grows by one at every decision of this upstream, holds included. 0 before the first. */
  epoch: z.number().int().nonnegative(),
  active: z.string(),
  tier: z.number().int().nonnegative(),
  sinceMs: atMs,
  held: hold.nullable(),
  /** Moves inside the longest window that a limit looks at, newest last. */
  moves: z.array(move).max(1000),
  /** Time of the last decision, of whatever action, and how far its decider had read SIGNALS: evidence behind it decides nothing. */
  decidedAtMs: atMs.optional(),
  signalsSeq: z.number().int().nonnegative().optional(),
  trial: trial.nullable().optional(),
  /** Automatic moves before this time count for no limit any more: an operator released the upstream. */
  countedFromMs: atMs.optional(),
  /** Failbacks in a row that had to be undone, and when the last of them was. */
  failbackFailures: z.number().int().nonnegative().optional(),
  failbackFailedAtMs: atMs.optional(),
});
export type FailoverState = z.infer<typeof failoverState>;

/** `failover.decided.<upstream>`, fenced: the route itself. */
export const failoverDecided = z.looseObject({
  service: z.string(),
  action: z.enum(["moved", "held", "released"]),
  previousEndpoint: z.string(),
  currentEndpoint: z.string(),
  timestamp: z.iso.datetime(),
  automatic: z.boolean(),
  by: actor,
  reason: z.string(),
  /** Id of the accepted command, where there was one. */
  commandId: z.string().nullable(),
  /** Safety rules that gave way: to an operator's force, or in an automatic move because nothing else was left (`breaker`, `hold`, `cooldown`). */
  overrode: z.array(z.string()),
  state: failoverState,
  certificate,
});
export type FailoverDecided = z.infer<typeof failoverDecided>;

const notice = {
  service: z.string(),
  epoch: z.number().int().nonnegative(),
  /** Event id of the decision that this notice tells of. */
  decisionId: z.string(),
  timestamp: z.iso.datetime(),
  reason: z.string(),
  /** Of the decision; absent in notices of before. */
  rule: z.string().optional(),
  by: actor,
};
/** `failover.executed.<upstream>`: the reference's failover event, derived from the decision; says which routers had applied it. */
export const failoverExecuted = z.looseObject({
  ...notice,
  previousEndpoint: z.string(),
  currentEndpoint: z.string(),
  automatic: z.boolean(),
  appliedBy: z.array(z.string()),
  notAppliedBy: z.array(z.string()),
});
export type FailoverExecuted = z.infer<typeof failoverExecuted>;
export const failoverHeld = z.looseObject({ ...notice, untilMs: atMs.nullable() });
export type FailoverHeld = z.infer<typeof failoverHeld>;
export const failoverReleased = z.looseObject(notice);
export type FailoverReleased = z.infer<typeof failoverReleased>;
/** `failover.rejected.<upstream>`: a move was asked for or needed, and a rule said no. */
export const failoverRejected = z.looseObject({
  service: z.string(),
  timestamp: z.iso.datetime(),
  /** Epoch of the route that stayed as it was. */
  epoch: z.number().int().nonnegative().optional(),
  rule: z.string(),
  reason: z.string(),
  automatic: z.boolean(),
  by: actor,
  commandId: z.string().nullable(),
  certificate,
});
export type FailoverRejected = z.infer<typeof failoverRejected>;
/** `failover.failed.<upstream>`: there is nowhere to go (no candidate is proven), or a move did not help. Pages. */
export const failoverFailed = z.looseObject({
  service: z.string(),
  timestamp: z.iso.datetime(),
  rule: z.string(),
  reason: z.string(),
  /** False once a candidate exists again: closes the condition that an earlier event opened. */
  failing: z.boolean(),
  certificate,
});
export type FailoverFailed = z.infer<typeof failoverFailed>;

/** `fleet.reserved`: the one fenced subject on which limits that span upstreams are reserved before a move. */
export const fleetReserved = z.looseObject({
  reservations: z
    .array(
      z.looseObject({
        upstream: z.string(),
        epoch: z.number().int(),
        atMs,
        expiresAtMs: atMs,
        used: z.boolean(),
        critical: z.boolean().optional(),
        from: z.string().optional(),
        to: z.string().optional(),
        /** Whether {@link to} is behind the upstream's first tier. */
        toBackup: z.boolean().optional(),
        /** An operator's move: it is here for the safety rules, and counts for no limit. */
        operator: z.boolean().optional(),
        /** Safety rules that gave way to an operator's force. */
        overrode: z.array(z.string()).optional(),
      }),
    )
    .max(10_000),
  timestamp: z.iso.datetime(),
  by: actor,
  certificate,
});
export type FleetReserved = z.infer<typeof fleetReserved>;
