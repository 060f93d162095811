import { z } from "zod";

/**
 * `session.claimed`: a router process was asked for the stream of a client's session, and the upstream says that another has it. Core
 * NATS, request; the process that opened it ahead of the client answers with `session.released`, once or several times: what has waited, what
 * still comes, and at last that it has given the stream up.
 */
export const sessionClaimed = z.looseObject({
  router: z.string(),
  /** The session's key in the directory, no secret and no session id. */
  session: z.string(),
  /**
   * The last event id with which the client came back, sealed with the routers' session key: whoever has one of this stream is the client that had
   * it, and its old connection to the other process hangs. Absent or null: it came without.
   */
  sealed: z.string().nullish(),
});
export type SessionClaimed = z.infer<typeof sessionClaimed>;

/**
 * `session.cancelled`: the client has cancelled a request of its session at a router process that does not run it. Core NATS; the one that does ends
 * it, and nobody answers.
 */
export const sessionCancelled = z.looseObject({
  router: z.string(),
  session: z.string(),
  /** The request's id, sealed with the routers' session key: a client may write what it likes into it. */
  sealed: z.string(),
});
export type SessionCancelled = z.infer<typeof sessionCancelled>;

/**
 * `session.changed`: what the directory says of a session with `/mcp` is another now: it was begun with a further upstream, or is over; or its client
 * came back to its stream at another router process. Core NATS; the process that has the stream looks, and nobody answers.
 */
export const sessionChanged = z.looseObject({
  router: z.string(),
  session: z.string(),
  /** As in `session.claimed`; null: no client came. */
  sealed: z.string().nullable(),
});

export const sessionReleased = z.looseObject({
  router: z.string(),
  session: z.string(),
  /** A client reads the stream: it stays where it is. */
  inUse: z.boolean(),
  /** More answers follow; after the last one the upstream's stream is free. */
  open: z.boolean(),
  /** What waited in the stream, and what the client has missed of it, sealed with the routers' session key: payloads of agents never travel in clear. */
  sealed: z.string().nullable(),
  /** Nothing is missing between the event id of the claim and this. Absent: that is not known. */
  whole: z.boolean().optional(),
});
export type SessionReleased = z.infer<typeof sessionReleased>;
