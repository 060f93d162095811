import type { Bus } from "@mcp-failover/bus";
import type { Kit } from "@mcp-failover/service-kit";
import { z } from "zod";
import type { StreamClaims } from "./inbound.ts";
import type { Sealer } from "./seal.ts";
import type { Session } from "./session.ts";

/**
 * The client's GET may reach another router process than the one that opened the session's stream ahead of it (requirement R7). With NATS
 * the other process is asked for it and hands over what waited, so that no event is lost; a closed stream alone would lose them. Without
 * NATS nobody answers: the stream ahead closes by itself after `unclaimedMs`, and the client's own retry, or ours on 409, gets it then;
 * events of that short time are lost, as they are for a client that comes late to a server directly.
 */
const answerMs = 300;
const claimedEvents = z.array(z.object({ id: z.string().optional(), event: z.string().optional(), data: z.string() }));

export function createStreamClaims(kit: Pick<Kit, "instance" | "event" | "log"> & { bus: Bus }, sealer: Sealer): StreamClaims {
  return {
    async claim(sessionKey) {
      if (kit.bus.status.kind !== "connected") return null;
      const asked = kit.event("session.claimed", [], { router: kit.instance, session: sessionKey });
      try {
        for await (const reply of kit.bus.requestMany(asked, { timeoutMs: answerMs, max: 1 })) {
          if (reply.type !== "session.released") continue;
          if (reply.data.inUse) return { kind: "in_use" };
          const text = reply.data.sealed === null ? "[]" : sealer.unwrap(reply.data.sealed);
          const events = claimedEvents.safeParse(text === null ? null : JSON.parse(text));
          if (!events.success) kit.log.warn({ router: reply.data.router }, "a stream was handed over in a form that cannot be read");
          return { kind: "released", events: events.success ? events.data.map(withoutUndefined) : [] };
        }
      } catch (error) {
        kit.log.debug({ err: error }, "the other routers could not be asked for a stream");
      }
      return null;
    },
  };
}

/** Answers the claims of the other router processes. */
export function serveStreamClaims(
  kit: Pick<Kit, "instance" | "event"> & { bus: Bus },
  sealer: Sealer,
  sessionByKey: (key: string) => Session | null,
): { stop(): void } {
  return kit.bus.subscribe("session.claimed", (event, respond) => {
    const { router, session: key } = event.data;
    if (router === kit.instance) return;
    const stream = sessionByKey(key)?.stream;
    if (stream === null || stream === undefined) return;
    const events = stream.release();
    const sealed = events === null || events.length === 0 ? null : sealer.wrap(JSON.stringify(events));
    respond(kit.event("session.released", [], { router: kit.instance, session: key, inUse: events === null, sealed }));
  });
}

function withoutUndefined(event: { id?: string | undefined; event?: string | undefined; data: string }): {
  id?: string;
  event?: string;
  data: string;
} {
  return {
    data: event.data,
    ...(event.id === undefined ? {} : { id: event.id }),
    ...(event.event === undefined ? {} : { event: event.event }),
  };
}
