import type { Bus } from "@mcp-failover/bus";
import type { Event } from "@mcp-failover/contracts";
import type { Kit } from "@mcp-failover/service-kit";
import { z } from "zod";
import type { ClaimedEvent, StreamClaims } from "./inbound.ts";
import type { Sealer } from "./seal.ts";
import type { Session } from "./session.ts";
import { handOverMsMax } from "./session-stream.ts";
import { type EventId, eventIdOf, readEventId } from "./stream-log.ts";

/**
 * The client's GET may reach another router process than the one that opened the session's stream ahead of it (requirement R7), and the
 * upstream allows one stream a session. With NATS the other process is asked for it: it passes on what waited and what comes, and gives
 * the stream up in a quiet moment, because what a server says while it has no stream is lost. Without NATS nobody answers: the stream
 * ahead closes by itself after `unclaimedMs`, the GET waits for that, and what came in this short time is lost, as it is for a client that
 * comes late to a server directly. One that a client reads is not given away, but to the same client: it comes with an event id of that stream,
 * which nobody else has, and its old connection is broken, seen there or not (G4).
 */
const answerMs = 300;
const claimedEvents = z.array(z.object({ id: z.string().optional(), event: z.string().optional(), data: z.string() }));

export function createStreamClaims(kit: Pick<Kit, "instance" | "event" | "log"> & { bus: Bus }, sealer: Sealer): StreamClaims {
  /** Null: they cannot be read. */
  const eventsOf = (reply: Event<"session.released">): readonly ClaimedEvent[] | null => {
    const text = reply.data.sealed === null ? "[]" : sealer.unwrap(reply.data.sealed);
    const events = claimedEvents.safeParse(text === null ? null : JSON.parse(text));
    if (!events.success) kit.log.warn({ router: reply.data.router }, "a stream was handed over in a form that cannot be read");
    return events.success ? events.data : null;
  };
  return {
    async claim(sessionKey, from) {
      if (kit.bus.status.kind !== "connected") return null;
      const asked = kit.event("session.claimed", [], { router: kit.instance, session: sessionKey, sealed: wrapped(sealer, from) });
      const replies = kit.bus.requestMany(asked, { timeoutMs: handOverMsMax + answerMs })[Symbol.asyncIterator]();
      const first = await within(answerMs, next(replies)).catch((error: unknown) => {
        kit.log.debug({ err: error }, "the other routers could not be asked for a stream");
        return null;
      });
      if (first === null) {
        // Ends by itself at its time-out; nothing waits for it.
        replies.return?.().catch(() => undefined);
        return null;
      }
      if (first.data.inUse) return { kind: "in_use" };
      const rest = async function* (): AsyncGenerator<readonly ClaimedEvent[]> {
        for (let reply: Event<"session.released"> | null = first; reply?.data.open; ) {
          reply = await next(replies);
          if (reply !== null) yield eventsOf(reply) ?? [];
        }
      };
      const events = eventsOf(first);
      return { kind: "released", events: events ?? [], isWhole: events !== null && first.data.whole === true, rest: rest() };
    },
    cancelled(sessionKey, requestId) {
      const sealed = sealer.wrap(JSON.stringify(requestId));
      try {
        kit.bus.publish(kit.event("session.cancelled", [], { router: kit.instance, session: sessionKey, sealed }));
      } catch (error) {
        kit.log.debug({ err: error }, "the other routers could not be told of a cancelled call");
      }
    },
    changed(sessionKey, from) {
      try {
        kit.bus.publish(kit.event("session.changed", [], { router: kit.instance, session: sessionKey, sealed: wrapped(sealer, from) }));
      } catch (error) {
        kit.log.debug({ err: error }, "the other routers could not be told of a session");
      }
    },
  };
}

/** Who has an event id of a stream may take it, so it travels sealed. */
function wrapped(sealer: Sealer, from: EventId | null): string | null {
  return from === null ? null : sealer.wrap(eventIdOf(from));
}
function unwrapped(sealer: Sealer, sealed: string | null | undefined): EventId | null {
  const text = sealed == null ? null : sealer.unwrap(sealed);
  return text === null ? null : readEventId(text);
}

async function next(replies: AsyncIterator<Event>): Promise<Event<"session.released"> | null> {
  for (;;) {
    const reply = await replies.next();
    if (reply.done) return null;
    if (reply.value.type === "session.released") return reply.value as Event<"session.released">;
  }
}

async function within<T>(ms: number, work: Promise<T>): Promise<T | null> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<null>((resolve) => {
    timer = setTimeout(() => resolve(null), ms);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Ends the calls that their clients have cancelled at other router processes (C5). */
export function hearCancellations(
  kit: Pick<Kit, "instance"> & { bus: Bus },
  sealer: Sealer,
  sessionByKey: (key: string) => Session | null,
): { stop(): void } {
  return kit.bus.subscribe("session.cancelled", ({ data: { router, session, sealed } }) => {
    if (router === kit.instance) return;
    const text = sealer.unwrap(sealed);
    const id: unknown = text === null ? null : JSON.parse(text);
    if (typeof id === "string" || typeof id === "number") sessionByKey(session)?.calls.get(id)?.();
  });
}

/** Looks at the sessions with `/mcp` that other router processes have changed. */
export function hearChanges(
  kit: Pick<Kit, "instance"> & { bus: Bus },
  sealer: Sealer,
  changed: (key: string, from: EventId | null) => void,
): { stop(): void } {
  return kit.bus.subscribe("session.changed", ({ data: { router, session, sealed } }) => {
    if (router !== kit.instance) changed(session, unwrapped(sealer, sealed));
  });
}

/** Answers the claims of the other router processes. */
export function serveStreamClaims(
  kit: Pick<Kit, "instance" | "event" | "log"> & { bus: Bus },
  sealer: Sealer,
  sessionByKey: (key: string) => Session | null,
): { stop(): void } {
  return kit.bus.subscribe("session.claimed", (event, respond) => {
    const { router, session: key, sealed: came } = event.data;
    if (router === kit.instance) return;
    const stream = sessionByKey(key)?.stream;
    if (stream === null || stream === undefined) return;
    const say = (inUse: boolean, events: readonly ClaimedEvent[], open: boolean, whole: boolean): void => {
      const sealed = events.length === 0 ? null : sealer.wrap(JSON.stringify(events));
      try {
        respond(
          kit.event("session.released", [], { router: kit.instance, session: key, inUse, sealed, open, ...(whole ? { whole } : {}) }),
        );
      } catch (error) {
        // An event may be larger than what the bus carries; whoever reads the upstream here must not fail by that.
        const half = Math.ceil(events.length / 2);
        if (events.length > 1) say(inUse, events.slice(0, half), true, false);
        else kit.log.warn({ err: error }, "a message of a server could not be handed over to the router that has its client now");
        if (events.length > 0) say(inUse, events.slice(half), open, false);
      }
    };
    const isGiven = stream.handOver((events, open, isWhole) => say(false, events, open, isWhole), unwrapped(sealer, came));
    if (!isGiven) say(true, [], false, false);
  });
}
