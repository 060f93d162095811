import { randomUUID } from "node:crypto";
import {
  type Bus,
  BusError,
  type Following,
  type FollowOptions,
  NoResponderError,
  type ServiceDefinition,
  type Stored,
} from "@mcp-failover/bus";
import {
  dispatcher,
  encodeBody,
  encodeEvent,
  headerNames,
  noAnswer,
  publishFenced,
  publishUnfenced,
  type RawMessage,
  readReply,
  subjectMatches,
} from "@mcp-failover/bus/internal";
import {
  type Event,
  type EventType,
  events,
  parseEvent,
  type RequestSubject,
  requests,
  type StreamName,
  subjectFor,
} from "@mcp-failover/contracts";
import { SimFollowing } from "./follow.ts";
import type { SimLink } from "./link.ts";
import type { CoreMessage } from "./server.ts";
import type { SimOutgoing } from "./store.ts";

const defaultTimeoutMs = 5000;
const noBytes = new Uint8Array();
const look = (raw: RawMessage): Stored => raw as Stored;

type AnyEvent = { readonly type: EventType; readonly id: string; readonly subject?: string | undefined };

/** The bus of one simulated process: the rules of the fence are the production ones, over a simulated log. */
export function simBus(link: SimLink, report: (error: unknown, what: string) => void): Bus {
  const { server } = link;
  const followings = new Set<SimFollowing>();
  const subjects = new Map<string, string>();

  function subjectOfEvent(event: AnyEvent): string {
    const count = events[event.type].keys.length;
    if (count === 0) return event.type;
    const key = `${event.type} ${event.subject ?? ""}`;
    let subject = subjects.get(key);
    if (subject === undefined) {
      const parts = (event.subject ?? "").split("/");
      subject = subjectFor(event.type, ...parts.slice(0, count - 1), parts.slice(count - 1).join("/"));
      subjects.set(key, subject);
    }
    return subject;
  }

  /** As it goes onto the wire: as it is, or, where the run validates, as its bytes are read again. */
  function wired(event: AnyEvent): { subject: string; event: Event; bytes: Uint8Array } {
    if (!server.validates) return { subject: subjectOfEvent(event), event: event as Event, bytes: noBytes };
    const { subject, bytes } = encodeBody(event);
    const parsed = parseEvent(subject, bytes);
    if (!parsed.ok) throw new BusError("rejected", parsed.reason, { retriable: false });
    return { subject, event: deepFreeze(parsed.event), bytes };
  }

  function outgoing(event: AnyEvent, expectedSeq?: number): SimOutgoing {
    const { stream } = events[event.type];
    if (stream === null)
      throw new BusError("rejected", `${event.type} is not kept in any stream: publish it instead`, { retriable: false });
    if (server.validates) {
      const encoded = encodeEvent(event, expectedSeq === undefined ? {} : { expectedSeq });
      return { ...encoded, content: { kind: "event", event: wired(event).event } };
    }
    const { subject, event: carried, bytes } = wired(event);
    const headers: Record<string, string> = { [headerNames.messageId]: event.id, [headerNames.nonce]: randomUUID() };
    if (expectedSeq !== undefined) headers[headerNames.expectedSeq] = String(expectedSeq);
    return { stream, subject, bytes, headers, content: { kind: "event", event: carried } };
  }

  function send(subject: string, carried: Event, replyTo: string | null): void {
    const message: CoreMessage = { subject, replyTo, content: { kind: "event", event: carried } };
    if (!link.connected || !link.sendThrough((hopMs) => server.publish(message, link, hopMs))) link.dropped += 1;
  }

  const bus: Bus = {
    get status() {
      return link.status;
    },
    onStatus: (listener) => link.onStatus(listener),
    append: async (event) => publishUnfenced(link, outgoing(event)),
    async appendFenced(event, expectedSeq, { timeoutMs } = {}) {
      if (!Number.isSafeInteger(expectedSeq) || expectedSeq < 0) throw new RangeError(`expectedSeq is ${expectedSeq}`);
      return publishFenced(link, outgoing(event, expectedSeq), timeoutMs, look);
    },
    lastOf: async (stream, subject) => (await link.lastOf(stream, subject, defaultTimeoutMs)) as Stored | null,
    at: async (stream, seq) => (await link.at(stream, seq, defaultTimeoutMs)) as Stored | null,
    info: (stream) => link.read(stream, defaultTimeoutMs, (kept) => kept.info()),
    async *read(name, { fromSeq = 1, toSeq, filter = ">" } = {}) {
      const found = await link.read(name, defaultTimeoutMs, ({ kept }) =>
        kept.slice(Math.max(0, fromSeq - 1), toSeq ?? kept.length).filter(({ subject }) => subjectMatches(filter, subject)),
      );
      yield* found;
    },
    follow(stream: StreamName, options: FollowOptions, handler): Following {
      const following = new SimFollowing(link, stream, options, handler, report);
      followings.add(following);
      return following;
    },
    consumeQueue: () => {
      throw new BusError("rejected", "work queues are not simulated", { retriable: false });
    },
    publish(event, { replyTo } = {}) {
      const { subject, event: carried } = wired(event);
      send(subject, carried, replyTo ?? null);
    },
    subscribe<T extends EventType>(type: T, handler: (event: Event<T>, respond: (event: Event) => void) => void) {
      const allBelow = events[type].keys.length > 0;
      const deliver = ({ content, replyTo }: CoreMessage): void => {
        if (content.kind !== "event") return;
        try {
          handler(content.event as Event<T>, (answer) => {
            if (replyTo !== null) send(replyTo, wired(answer).event, null);
          });
        } catch (error) {
          report(error, `a handler of ${type} failed`);
        }
      };
      return { stop: link.attach(() => server.listen({ link, subject: type, allBelow, deliver })) };
    },
    async *requestMany(event, { timeoutMs, max = Number.POSITIVE_INFINITY }) {
      await link.reach(timeoutMs);
      const inbox = `_INBOX.${server.nextNonce()}`;
      const replies: Event[] = [];
      let ended = false;
      let wake: () => void = () => undefined;
      const deliver = ({ content }: CoreMessage): void => {
        if (content.kind === "event") replies.push(content.event);
        else ended = true;
        wake();
      };
      const stop = link.attach(() => server.listen({ link, subject: inbox, allBelow: false, deliver }));
      const late = link.timer(timeoutMs, () => {
        ended = true;
        wake();
      });
      try {
        const { subject, event: carried } = wired(event);
        send(subject, carried, inbox);
        for (let count = 0; count < max; ) {
          const next = replies.shift();
          if (next !== undefined) {
            count += 1;
            yield next;
            continue;
          }
          if (ended || link.closed) return;
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
        }
      } finally {
        late.cancelled = true;
        stop();
      }
    },
    async request(subject, body, { timeoutMs = defaultTimeoutMs } = {}) {
      await link.reach(timeoutMs);
      const bytes = new TextEncoder().encode(JSON.stringify(body));
      const answer = await new Promise<Uint8Array | "nobody" | "late">((resolve) => {
        link.timer(timeoutMs, () => resolve("late"));
        const sent = link.send(() => {
          const served = server.pick(subject);
          if (served === null) link.deliver(() => resolve("nobody"));
          else
            served.link.deliver(() => served.answer(subject, bytes, (reply) => served.link.send(() => link.deliver(() => resolve(reply)))));
        });
        if (!sent) resolve("late");
      });
      if (answer === "nobody") throw new NoResponderError(subject, requests[subject].service);
      if (answer === "late") throw noAnswer(subject, timeoutMs);
      return readReply(answer, subject);
    },
    async serve(service: ServiceDefinition) {
      await link.reach(defaultTimeoutMs);
      const dispatch = dispatcher(service, (error, subject) => report(error, `the handler of ${subject} failed`));
      const answer = (subject: string, bytes: Uint8Array, reply: (bytes: Uint8Array) => void): void => {
        void dispatch(subject as RequestSubject, bytes).then((said) => reply(new TextEncoder().encode(JSON.stringify(said))));
      };
      const stop = link.attach(() => server.serve({ link, service, answer }));
      return { stop: async () => stop() };
    },
    async services({ timeoutMs = defaultTimeoutMs, examine = false } = {}) {
      await link.reach(timeoutMs);
      return server.served().map(({ link: other, service }) => ({
        name: service.name,
        id: other.process.name,
        metadata: {
          ...service.metadata,
          instance: service.instance,
          ...(examine && service.readiness !== undefined ? { readiness: service.readiness() } : {}),
        },
      }));
    },
    bucket: () => Promise.reject(new BusError("rejected", "buckets are not simulated", { retriable: false })),
    async ensureStreams(definitions) {
      await link.reach(defaultTimeoutMs);
      server.ensure(definitions);
    },
    async close() {
      await Promise.all([...followings].map((following) => following.stop()));
      link.close();
    },
  };
  return bus;
}

function deepFreeze<T>(value: T): T {
  if (typeof value === "object" && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value);
    for (const inner of Object.values(value)) deepFreeze(inner);
  }
  return value;
}
