import { randomUUID } from "node:crypto";
import {
  contentType,
  type EventType,
  events,
  integrityHeader,
  isEventType,
  type Parsed,
  parseEvent,
  type StreamName,
  sha256,
  streams,
  subjectFor,
} from "@mcp-failover/contracts";
import { BusError, type Stored } from "./bus.ts";

export const headerNames = {
  messageId: "Nats-Msg-Id",
  expectedSeq: "Nats-Expected-Last-Subject-Sequence",
  expectedStream: "Nats-Expected-Stream",
  contentType: "Content-Type",
  /** Tells this publish from any other with the same message id: only the one that was stored carries it. */
  nonce: "Mcpf-Publish",
} as const;

/** What has to be known of an event to send it, whatever its type. */
export interface EventLike {
  readonly type: EventType;
  readonly id: string;
  readonly subject?: string | undefined;
}

/** An event as it goes onto the wire. */
export interface Outgoing {
  readonly stream: StreamName;
  readonly subject: string;
  readonly bytes: Uint8Array;
  readonly headers: Readonly<Record<string, string>>;
}

/** A message as it comes out of the log, before anybody has looked into it. */
export type RawMessage = Omit<Stored, "content">;

/** The subject that an event belongs on. Only the last key may have "/" in it. */
function subjectOfEvent(event: EventLike): string {
  const count = events[event.type].keys.length;
  if (count === 0) return event.type;
  const parts = (event.subject ?? "").split("/");
  const keys = [...parts.slice(0, count - 1), parts.slice(count - 1).join("/")];
  if (keys.some((key) => key === "")) {
    throw new BusError("rejected", `${event.type} needs the keys [${events[event.type].keys.join(", ")}]: make it with makeEvent`, {
      retriable: false,
    });
  }
  return subjectFor(event.type, ...keys);
}

/**
 * Thousands of observations a second, and windows of traffic while calls wait, are each made by one function whose type is that of the schema
 * (services/router/test/control/traffic.test.ts holds it to that); who reads them parses them all the same.
 */
const madeByCounting: ReadonlySet<EventType> = new Set(["probe.observed", "traffic.observed"]);

/** Serialises an event and refuses one that a reader would not take, so that no service can poison the log. Throws {@link BusError} `rejected`. */
export function encodeBody(event: EventLike): { subject: string; bytes: Uint8Array } {
  const subject = subjectOfEvent(event);
  const bytes = new TextEncoder().encode(JSON.stringify(event));
  if (madeByCounting.has(event.type)) return { subject, bytes };
  const parsed = parseEvent(subject, bytes);
  if (!parsed.ok) {
    throw new BusError("rejected", `this event is not valid and was not published: ${parsed.reason}`, { retriable: false });
  }
  return { subject, bytes };
}

/** An event with everything that the log keeps of it. Throws {@link BusError} `rejected` and `too_large`. */
export function encodeEvent(event: EventLike, options: { expectedSeq?: number } = {}): Outgoing {
  const { stream } = events[event.type];
  if (stream === null) {
    throw new BusError("rejected", `${event.type} is not kept in any stream: publish it instead`, { retriable: false });
  }
  const { subject, bytes } = encodeBody(event);
  return outgoing(stream, subject, bytes, event.id, contentType, options);
}

/** A message of any content for the log. Throws {@link BusError} `too_large`. */
export function outgoing(
  stream: StreamName,
  subject: string,
  bytes: Uint8Array,
  messageId: string,
  mediaType: string,
  options: { expectedSeq?: number },
): Outgoing {
  const headers: Record<string, string> = {
    [headerNames.messageId]: messageId,
    [headerNames.contentType]: mediaType,
    [integrityHeader]: sha256(bytes),
    [headerNames.expectedStream]: stream,
    [headerNames.nonce]: randomUUID(),
  };
  if (options.expectedSeq !== undefined) headers[headerNames.expectedSeq] = String(options.expectedSeq);
  const limit = streams.find((definition) => definition.name === stream)?.maxMsgBytes ?? Number.POSITIVE_INFINITY;
  refuseTooLarge(stream, wireBytes(bytes, headers), limit);
  return { stream, subject, bytes, headers };
}

/** Throws {@link BusError} `too_large` above a limit in bytes. */
export function refuseTooLarge(where: string, sizeBytes: number, limitBytes: number): void {
  if (sizeBytes <= limitBytes) return;
  throw new BusError("too_large", `${sizeBytes} bytes are more than the ${limitBytes} that ${where} takes: send less, or in parts`, {
    retriable: false,
  });
}

/** What the server counts: payload and header block. */
export function wireBytes(bytes: Uint8Array, headers: Readonly<Record<string, string>>): number {
  let count = bytes.length + "NATS/1.0\r\n\r\n".length;
  for (const [name, value] of Object.entries(headers)) count += Buffer.byteLength(name) + Buffer.byteLength(value) + ": \r\n".length;
  return count;
}

/** Whether a stored message is the very one that was sent, not another with its id. */
export function isOwn(stored: RawMessage, sent: Outgoing): boolean {
  return stored.headers[headerNames.nonce] === sent.headers[headerNames.nonce];
}

/** Looks into a message. What stands in QUARANTINE is no event: its reason is the one it was put there for. */
export function decode(raw: RawMessage): Stored {
  if (raw.stream === "QUARANTINE") return { ...raw, content: { kind: "malformed", reason: quarantineReason(raw.bytes) } };
  const parsed = parseEvent(raw.subject, raw.bytes);
  return { ...raw, content: parsed.ok ? { kind: "event", event: parsed.event } : { kind: "malformed", reason: parsed.reason } };
}

function quarantineReason(bytes: Uint8Array): string {
  try {
    const record: unknown = JSON.parse(new TextDecoder().decode(bytes));
    const reason = (record as { reason?: unknown } | null)?.reason;
    return typeof reason === "string" ? reason : "a quarantine record without a reason";
  } catch {
    return "an unreadable quarantine record"; // It is shown as what it is; there is nowhere further to put it.
  }
}

/** Reads an event that came on an inbox, where the subject says nothing: its own type and keys have to do. */
export function parseReplyEvent(bytes: Uint8Array): Parsed {
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    return { ok: false, reason: `not UTF-8 JSON: ${cause instanceof Error ? cause.message.slice(0, 120) : "unreadable"}` };
  }
  const type = (json as { type?: unknown } | null)?.type;
  if (typeof type !== "string" || !isEventType(type)) return { ok: false, reason: "not an event of a known type" };
  try {
    return parseEvent(subjectOfEvent(json as EventLike), bytes);
  } catch (cause) {
    return { ok: false, reason: cause instanceof Error ? cause.message : "its keys cannot be read" };
  }
}
