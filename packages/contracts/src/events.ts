import type { z } from "zod";
import { breakerChanged } from "./breaker.ts";
import { chaosFinished, chaosStarted, chaosStep } from "./chaos.ts";
import { commandAccepted } from "./command.ts";
import { contentType, type Envelope, envelope } from "./envelope.ts";
import {
  failoverDecided,
  failoverExecuted,
  failoverFailed,
  failoverHeld,
  failoverRejected,
  failoverReleased,
  fleetReserved,
} from "./failover.ts";
import { healthChanged } from "./health.ts";
import { incidentChanged, notification, notifyResult } from "./incident.ts";
import { requestFixOf } from "./issue-words.ts";
import { configApplied, logStarted } from "./log.ts";
import { endpointReported, probeObserved, probeRequested, proberHeartbeat } from "./probe.ts";
import { rollbackDecided, rollbackNotice, rollbackRejected } from "./rollback.ts";
import { sessionCancelled, sessionChanged, sessionClaimed, sessionReleased } from "./session.ts";
import { notifySilenced } from "./silence.ts";
import type { StreamName } from "./streams.ts";
import { keysOf, subjectOf } from "./tokens.ts";
import { trafficObserved } from "./traffic.ts";

/** Which service may say an event, where it is kept, what its key tokens are. Permissions, docs and tests are made from this table. */
interface EventDefinition {
  readonly schema: z.ZodType;
  readonly stream: StreamName | null;
  readonly keys: readonly string[];
  /** Published with the expected last sequence of its subject: of any number of deciders, one wins. */
  readonly fenced: boolean;
  readonly saidBy: readonly ServiceName[];
  readonly version: number;
}

/** Those that run for as long as the stack does. */
export const residentServices = [
  "prober",
  "breaker-state",
  "failover-controller",
  "rollback-controller",
  "router",
  "state-store",
  "notifier",
  "chaos-runner",
  "console",
] as const;
export const serviceNames = [...residentServices, "bootstrap", "cli"] as const;
export type ServiceName = (typeof serviceNames)[number];

function define<S extends z.ZodType>(
  schema: S,
  stream: StreamName | null,
  keys: readonly string[],
  fenced: boolean,
  saidBy: readonly ServiceName[],
) {
  return { schema, stream, keys, fenced, saidBy, version: 1 } as const;
}

const fo = ["failover-controller"] as const;
const rb = ["rollback-controller"] as const;

export const events = {
  "log.started": define(logStarted, "AUDIT", [], true, ["bootstrap", "cli"]),
  "config.applied": define(configApplied, "AUDIT", [], true, ["bootstrap", "cli"]),
  "health.changed": define(healthChanged, "AUDIT", ["upstream", "endpoint"], true, ["prober"]),
  "breaker.changed": define(breakerChanged, "AUDIT", ["upstream", "endpoint"], true, ["breaker-state"]),
  "failover.decided": define(failoverDecided, "AUDIT", ["upstream"], true, fo),
  "failover.executed": define(failoverExecuted, "AUDIT", ["upstream"], true, fo),
  "failover.held": define(failoverHeld, "AUDIT", ["upstream"], true, fo),
  "failover.released": define(failoverReleased, "AUDIT", ["upstream"], true, fo),
  "failover.rejected": define(failoverRejected, "AUDIT", ["upstream"], true, fo),
  "failover.failed": define(failoverFailed, "AUDIT", ["upstream"], true, fo),
  "fleet.reserved": define(fleetReserved, "AUDIT", [], true, fo),
  "rollback.decided": define(rollbackDecided, "AUDIT", ["scope", "name"], true, rb),
  "rollback.executed": define(rollbackNotice, "AUDIT", ["scope", "name"], true, rb),
  "rollback.advanced": define(rollbackNotice, "AUDIT", ["scope", "name"], true, rb),
  "rollback.paused": define(rollbackNotice, "AUDIT", ["scope", "name"], true, rb),
  "rollback.recovered": define(rollbackNotice, "AUDIT", ["scope", "name"], true, rb),
  "rollback.rejected": define(rollbackRejected, "AUDIT", ["scope", "name"], true, rb),
  "command.accepted": define(commandAccepted, "AUDIT", ["command"], false, [
    "breaker-state",
    "failover-controller",
    "rollback-controller",
    "chaos-runner",
    "notifier",
  ]),
  "incident.changed": define(incidentChanged, "AUDIT", ["id"], true, ["notifier"]),
  "notify.sent": define(notifyResult, "AUDIT", ["channel"], false, ["notifier"]),
  "notify.failed": define(notifyResult, "AUDIT", ["channel"], false, ["notifier"]),
  "notify.silenced": define(notifySilenced, "AUDIT", ["target"], true, ["notifier"]),
  "chaos.started": define(chaosStarted, "AUDIT", ["experiment"], true, ["chaos-runner"]),
  "chaos.injected": define(chaosStep, "AUDIT", ["experiment"], true, ["chaos-runner"]),
  "chaos.reverted": define(chaosStep, "AUDIT", ["experiment"], true, ["chaos-runner"]),
  "chaos.finished": define(chaosFinished, "AUDIT", ["experiment"], true, ["chaos-runner"]),
  "probe.observed": define(probeObserved, "SIGNALS", ["prober"], false, ["prober"]),
  "traffic.observed": define(trafficObserved, "SIGNALS", ["router"], false, ["router"]),
  outbox: define(notification, "OUTBOX", ["channel"], false, ["notifier"]),
  "probe.requested": define(probeRequested, null, [], false, ["prober", "failover-controller", "chaos-runner", "cli", "console"]),
  "prober.heartbeat": define(proberHeartbeat, null, [], false, ["prober"]),
  "endpoint.reported": define(endpointReported, null, [], false, ["prober"]),
  "session.claimed": define(sessionClaimed, null, [], false, ["router"]),
  "session.changed": define(sessionChanged, null, [], false, ["router"]),
  "session.cancelled": define(sessionCancelled, null, [], false, ["router"]),
  "session.released": define(sessionReleased, null, [], false, ["router"]),
} as const satisfies Record<string, EventDefinition>;

export type EventType = keyof typeof events;
export type DataOf<T extends EventType> = z.infer<(typeof events)[T]["schema"]>;
/** One event of a known type, narrowed by `type`. */
export type Event<T extends EventType = EventType> = { [K in T]: Omit<Envelope, "type" | "data"> & { type: K; data: DataOf<K> } }[T];

export function isEventType(type: string): type is EventType {
  return Object.hasOwn(events, type);
}

export interface NewEvent<T extends EventType> {
  readonly type: T;
  readonly keys: readonly string[];
  readonly data: DataOf<T>;
  /** Unique; for fenced events it has the publishing instance in it. */
  readonly id: string;
  readonly service: ServiceName;
  readonly instance: string;
  readonly timeMs: number;
  readonly traceparent?: string;
}

/** Puts data into its envelope. Throws a `RangeError` when the number of keys is not the type's: a programmer's mistake. */
export function makeEvent<T extends EventType>(from: NewEvent<T>): Event<T> {
  const definition = events[from.type];
  if (definition.keys.length !== from.keys.length) {
    throw new RangeError(`${from.type} has the keys [${definition.keys.join(", ")}], not [${from.keys.join(", ")}]`);
  }
  return {
    specversion: "1.0",
    id: from.id,
    source: `mcp-failover/${from.service}/${from.instance}`,
    type: from.type,
    ...(from.keys.length > 0 ? { subject: from.keys.join("/") } : {}),
    time: new Date(from.timeMs).toISOString(),
    datacontenttype: "application/json",
    dataschema: schemaOf(from.type),
    ...(from.traceparent === undefined ? {} : { traceparent: from.traceparent }),
    data: from.data,
  } as unknown as Event<T>;
}

function schemaOf(type: EventType): string {
  return `urn:mcp-failover:${type}:${events[type].version}`;
}

/** Why an event of this schema cannot be read here; null: it can. What another minor version adds passes through. */
function schemaProblem(type: EventType, dataschema: string): string | null {
  const own = schemaOf(type);
  if (dataschema === own) return null;
  const prefix = `urn:mcp-failover:${type}:`;
  const version = dataschema.startsWith(prefix) ? dataschema.slice(prefix.length) : "";
  if (!/^[1-9]\d{0,8}(\.\d{1,9})?$/.test(version)) return `dataschema: ${JSON.stringify(dataschema.slice(0, 120))} is not ${own}`;
  const known = events[type].version;
  if (Number.parseInt(version, 10) <= known) return null;
  return `version ${version} of ${type} is not known here, which reads up to ${known}: update this service`;
}

/** The subject that an event of this type with these keys is published on. */
export function subjectFor(type: EventType, ...keys: string[]): string {
  return subjectOf(type, ...keys);
}

const inWords = { error: requestFixOf };

export type Parsed = { readonly ok: true; readonly event: Event } | { readonly ok: false; readonly reason: string };

/**
 * Reads an event as it came from the wire. Unknown fields pass through; whatever else is wrong is said in one sentence, and the
 * caller puts the message into QUARANTINE with it.
 */
export function parseEvent(subject: string, bytes: Uint8Array): Parsed {
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    return { ok: false, reason: `not UTF-8 JSON: ${cause instanceof Error ? cause.message.slice(0, 120) : "unreadable"}` };
  }
  const outer = envelope.safeParse(json, inWords);
  if (!outer.success) return { ok: false, reason: `not an ${contentType} envelope: ${sayIssues(outer.error)}` };
  const { type } = outer.data;
  if (!isEventType(type)) return { ok: false, reason: `unknown event type ${JSON.stringify(type).slice(0, 80)}` };
  const definition = events[type];
  if (keysOf(type, subject)?.length !== definition.keys.length) {
    return { ok: false, reason: `the event type ${type} does not belong on the subject ${subject.slice(0, 120)}` };
  }
  const problem = schemaProblem(type, outer.data.dataschema);
  if (problem !== null) return { ok: false, reason: problem };
  const inner = definition.schema.safeParse(outer.data.data, inWords);
  if (!inner.success) return { ok: false, reason: `data of ${type}: ${sayIssues(inner.error)}` };
  return { ok: true, event: { ...outer.data, type, data: inner.data } as Event };
}

/** The first three issues of a zod error, each with its path, in one line. */
export function sayIssues(error: z.ZodError): string {
  return error.issues
    .slice(0, 3)
    .map((issue) => `${issue.path.length === 0 ? "(root)" : issue.path.join(".")}: ${issue.message}`)
    .join("; ");
}
