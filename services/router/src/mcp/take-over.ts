import { RefusedRequest, retryAfter } from "../errors.ts";
import type { Session } from "./session.ts";

/**
 * Who has the session's own stream where two connections ask for it. A client whose machine slept, or whose NAT forgot it, leaves a connection
 * behind that nobody can tell from a live one until TCP gives it up, many minutes later; it must not wait for that. Guarantees, of
 * `/mcp/<upstream>` (`get.ts`, `session-stream.ts`) and of `/mcp` (`aggregate/session.ts`):
 * T1  In one process the newest connection of a session has its stream, with an event id or without. The one before is told nothing more, and
 *     ends. A session is opened by its own agent alone (R2), so no other one can take it. With each connection clients of 2025-11-25 get an empty
 *     event with an id (that revision of the protocol, "Streamable HTTP": to prime the client to reconnect), so that they can say what they have.
 * T2  Who comes with an id gets what came after it. Who comes without one, while the connection before is open, has read no event of that one (an
 *     event has an id, and a client sends the last that it got): what that one was told goes to it again, as far as it is kept; where it is not,
 *     the client hears that all may have changed. Events go with the ids that they had.
 * T3  What was taken is taken again after `restMs` at the earliest: two live clients with one session would else steal it from each other as fast
 *     as they ask, and each time be told again what is kept. Who is refused keeps nothing from the other one.
 * T4  Where another process has the stream it lets go for an event id of it alone (`claims.ts`); who comes to it without one gets 409, as before.
 */
const restMs = 1000;

/** Whether the session's stream may be taken from a connection that is open (T3); who may has taken it. */
export function takesOver(session: Pick<Session, "takenOverAtMs">): boolean {
  const nowMs = performance.now();
  if (nowMs - session.takenOverAtMs < restMs) return false;
  session.takenOverAtMs = nowMs;
  return true;
}

/** What servers answer that allow one stream a session, as those of the SDKs do. */
export function streamInUse(): RefusedRequest {
  return new RefusedRequest(409, -32000, "Conflict: Only one SSE stream is allowed per session", retryAfter(restMs));
}
