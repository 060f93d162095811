import { isObject, type ServerMessage } from "./envelope.ts";
import type { Hold } from "./session.ts";
import type { SseEvent } from "./sse.ts";

/**
 * Ids of the server's own requests, which two upstream sessions could both use, carry the name of theirs when they travel to the client, and
 * lose it on the way back (requirements R11, R14). So the answer to a request of an endpoint that is gone is recognised, in every router
 * process, and never reaches another endpoint's request of the same number. Event ids are the business of `stream-log.ts`.
 */
const prefix = "mcpf.";

export function tagRequestId(id: string | number, hold: Hold): string {
  return `${prefix}${hold.tag}.${JSON.stringify(id)}`;
}
/** Null: not an id of ours. */
export function splitRequestId(id: string | number | null): { tag: string; id: string | number } | null {
  if (typeof id !== "string" || !id.startsWith(prefix)) return null;
  const rest = id.slice(prefix.length);
  const dot = rest.indexOf(".");
  if (dot !== 8) return null;
  let inner: unknown;
  try {
    inner = JSON.parse(rest.slice(dot + 1));
  } catch {
    return null;
  }
  return typeof inner === "string" || typeof inner === "number" ? { tag: rest.slice(0, dot), id: inner } : null;
}

/**
 * Whether {@link rewriteEvent} could change an event with this data, by what a text without these letters cannot say: the `id` that every request
 * has, and what is withdrawn. Most events of a stream are neither, and need not be parsed. Letters may be written as escapes, and then it may.
 */
export function isToBeRead(data: string): boolean {
  return data.includes('"id"') || data.includes("cancelled") || data.includes("\\u");
}

/** An event of the upstream as the client gets it. Without a session (`hold` null) it stays as it is. */
export function rewriteEvent(event: SseEvent, message: ServerMessage, hold: Hold | null): SseEvent {
  if (hold === null) return event;
  if (message.kind === "request") return { ...event, data: JSON.stringify({ ...message.value, id: tagRequestId(message.id, hold) }) };
  if (message.kind === "notification" && message.method === "notifications/cancelled") {
    const params = message.value["params"];
    const requestId = isObject(params) ? params["requestId"] : undefined;
    if (isObject(params) && (typeof requestId === "string" || typeof requestId === "number")) {
      return { ...event, data: JSON.stringify({ ...message.value, params: { ...params, requestId: tagRequestId(requestId, hold) } }) };
    }
  }
  return event;
}
