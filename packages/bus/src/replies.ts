import { type Reply, type RequestSubject, reply, requests } from "@mcp-failover/contracts";
import { BusError } from "./bus.ts";
import { refusal } from "./dispatch.ts";

/** Reads a service's answer; one that is none becomes a refusal, so that the asker has one shape to look at. */
export function readReply(bytes: Uint8Array, subject: string): Reply {
  try {
    const parsed = reply.safeParse(JSON.parse(new TextDecoder().decode(bytes)));
    if (parsed.success) return parsed.data;
  } catch {
    return refusal("bad_reply", `the answer to ${subject} is not JSON: the service is of another version`, false); // Its text may hold anything.
  }
  return refusal("bad_reply", `the answer to ${subject} is no reply: the service is of another version`, false);
}

/** An answer as it goes onto the wire. One that no message takes becomes a refusal: silence would look like a dead service. */
export function replyText(answer: Reply, subject: string, bytesMax: number): string {
  const text = JSON.stringify(answer);
  const bytes = Buffer.byteLength(text);
  if (bytes <= bytesMax) return text;
  const paged = subject in requests && "paged" in requests[subject as RequestSubject];
  const instead = paged ? 'ask for it by page, {"page":{"limit":100}}' : "ask for less, or read the log";
  const message = `the answer to ${subject} has ${bytes} bytes, more than the ${bytesMax} of a message: ${instead}`;
  return JSON.stringify(refusal("reply_too_large", message, false));
}

/** Not `unreachable`, which says that nothing was sent. */
export function answerLost(subject: string): BusError {
  const message = `the connection was lost before an answer to ${subject} came; it may have been done all the same`;
  return new BusError("timeout", message, { retriable: true });
}

export function noAnswer(subject: string, timeoutMs: number): BusError {
  return new BusError("timeout", `no answer to ${subject} within ${timeoutMs} ms; it may have been done all the same`, { retriable: true });
}
