import { randomUUID } from "node:crypto";
import {
  contentType,
  type Event,
  type EventType,
  events,
  parseEvent,
  type Reply,
  type RequestSubject,
  requests,
} from "@mcp-failover/contracts";
import { append, appendFenced } from "../append.ts";
import { type Bus, type Following, NoResponderError, type ServiceDefinition, type Stored } from "../bus.ts";
import { claimCheck } from "../claim-check.ts";
import { dispatcher } from "../dispatch.ts";
import { guarded } from "../hand-over.ts";
import { type BusLog, silent } from "../log.ts";
import { type EventLike, encodeBody, parseReplyEvent } from "../message.ts";
import { quarantine } from "../quarantine.ts";
import { refuseReplicas } from "../replicas.ts";
import { answerLost, noAnswer, readReply, replyText } from "../replies.ts";
import type { BrokerState, CoreMessage } from "./broker.ts";
import { consumeQueue, follow } from "./follow.ts";
import { MemoryLink } from "./link.ts";
import { memoryObjects } from "./objects.ts";

const defaultTimeoutMs = 5000;
/** As nats-server takes by default. */
const payloadBytesMax = 1024 * 1024;

export interface MemoryConnectOptions {
  readonly name?: string;
  readonly instance?: string;
  readonly log?: BusLog;
}

/** One more connection to the broker. */
export function connectMemory(state: BrokerState, options: MemoryConnectOptions): { bus: Bus; link: MemoryLink } {
  const log = options.log ?? silent;
  const link = new MemoryLink(state, log);
  const quarantined = quarantine(link, (err, place) => log.warn({ err, place }, "a malformed message could not be put into QUARANTINE"));
  const claims = claimCheck(memoryObjects(state.objects, link), quarantined.refuse);
  const reader = { state, link, quarantine: quarantined, claims, log };
  const running = new Set<Following>();
  const cleanups = new Set<() => void>();

  function keep(following: Following): Following {
    running.add(following);
    return {
      get seq() {
        return following.seq;
      },
      stop: () => {
        running.delete(following);
        return following.stop();
      },
    };
  }

  function listen(filter: string, deliver: (message: CoreMessage) => void): { stop(): void } {
    const subscriber = { filter, deliver: (message: CoreMessage) => link.connected && deliver(message) };
    state.subscribers.add(subscriber);
    const stop = () => {
      state.subscribers.delete(subscriber);
      cleanups.delete(stop);
    };
    cleanups.add(stop);
    return { stop };
  }

  function send(event: EventLike, replyTo?: string): void {
    const { subject, bytes } = encodeBody(event);
    link.send({ subject, bytes, headers: { "Content-Type": contentType }, ...(replyTo === undefined ? {} : { replyTo }) });
  }

  const bus: Bus = {
    get status() {
      return link.status;
    },
    onStatus: (listener) => link.onStatus(listener),
    append: (event) => append(link, claims, event),
    appendFenced: (event, expectedSeq, { timeoutMs } = {}) => appendFenced(link, claims, event, expectedSeq, timeoutMs),

    async lastOf(stream, subject) {
      const raw = await link.lastOf(stream, subject, defaultTimeoutMs);
      return raw === null ? null : claims.collect(quarantined.look(raw));
    },
    async at(stream, seq) {
      const raw = await link.at(stream, seq, defaultTimeoutMs);
      return raw === null ? null : claims.collect(quarantined.look(raw));
    },
    async info(stream) {
      await link.reach();
      return state.stream(stream).info();
    },
    async *read(name, { fromSeq = 1, toSeq, filter = ">" } = {}): AsyncGenerator<Stored> {
      await link.reach();
      const stream = state.stream(name);
      const endSeq = Math.min(stream.lastSeq, toSeq ?? stream.lastSeq);
      for (let raw = stream.next(fromSeq, filter); raw !== null && raw.seq <= endSeq; raw = stream.next(raw.seq + 1, filter)) {
        await link.reach();
        yield claims.collect(quarantined.look(raw));
      }
    },

    follow: (stream, followOptions, handler) => keep(follow(reader, stream, followOptions, handler)),
    consumeQueue: (durable, queueOptions, handler) => keep(consumeQueue(reader, durable, queueOptions, handler)),

    publish: (event, { replyTo } = {}) => send(event, replyTo),
    subscribe<T extends EventType>(type: T, handler: (event: Event<T>, respond: (event: Event) => void) => void) {
      return listen(events[type].keys.length === 0 ? type : `${type}.>`, ({ subject, bytes, headers, replyTo }) => {
        const parsed = parseEvent(subject, bytes);
        if (!parsed.ok) return events[type].stream === null ? quarantined.core(subject, bytes, headers, parsed.reason) : undefined;
        const respond = (answer: Event) => {
          if (replyTo !== undefined) link.send({ subject: replyTo, bytes: encodeBody(answer).bytes, headers: {} });
        };
        guarded(() => handler(parsed.event as Event<T>, respond), log, `a handler of ${type} failed`);
      });
    },
    async *requestMany(event, { timeoutMs, max = Number.POSITIVE_INFINITY }): AsyncGenerator<Event> {
      await link.reach(timeoutMs);
      const inbox = `_INBOX.${randomUUID()}`;
      const { subject } = encodeBody(event);
      if (![...state.subscribers].some(({ filter }) => filter === subject || filter === `${event.type}.>`)) return;
      const replies: Event[] = [];
      const subscription = listen(inbox, ({ bytes, headers }) => {
        const parsed = parseReplyEvent(bytes);
        if (parsed.ok) replies.push(parsed.event);
        else quarantined.core(inbox, bytes, headers, parsed.reason);
        state.wake();
      });
      try {
        send(event, inbox);
        const endMs = Date.now() + timeoutMs;
        for (let count = 0; count < max; ) {
          const next = replies.shift();
          if (next !== undefined) {
            count += 1;
            yield next;
            continue;
          }
          const leftMs = endMs - Date.now();
          if (leftMs <= 0 || link.status.kind === "closed") return;
          await state.changed(leftMs);
        }
      } finally {
        subscription.stop();
      }
    },

    async request(subject, body, { timeoutMs = defaultTimeoutMs } = {}): Promise<Reply> {
      await link.reach(timeoutMs);
      const instance = state.pick(subject);
      if (instance === null) throw new NoResponderError(subject, requests[subject].service);
      const late = Promise.withResolvers<never>();
      const timer = setTimeout(() => late.reject(noAnswer(subject, timeoutMs)), timeoutMs);
      const unlisten = link.onStatus(({ kind }) => {
        if (kind !== "connected") late.reject(answerLost(subject));
      });
      const answer = instance.answer(subject, new TextEncoder().encode(JSON.stringify(body)));
      try {
        return readReply(await Promise.race([answer, late.promise]), subject);
      } finally {
        clearTimeout(timer);
        unlisten();
      }
    },
    async serve(service: ServiceDefinition) {
      const answer = dispatcher(service, (err, subject) => log.warn({ err, subject }, "a request's handler failed"));
      const instance = {
        id: randomUUID(),
        service,
        reachable: () => link.connected,
        answer: async (subject: string, bytes: Uint8Array) => {
          const reply = await answer(subject as RequestSubject, bytes);
          return new TextEncoder().encode(replyText(reply, subject, payloadBytesMax));
        },
      };
      state.instances.add(instance);
      const stop = () => {
        state.instances.delete(instance);
        cleanups.delete(stop);
      };
      cleanups.add(stop);
      return { stop: async () => stop() };
    },
    async services({ timeoutMs, examine = false } = {}) {
      await link.reach(timeoutMs);
      const live = [...state.instances].filter((instance) => instance.reachable());
      return live.map(({ id, service }) => ({
        name: service.name,
        id,
        metadata: {
          ...service.metadata,
          instance: service.instance,
          ...(examine && service.readiness !== undefined ? { readiness: service.readiness() } : {}),
        },
      }));
    },

    async bucket(name, limits = {}) {
      return state.bucket(name, limits).face(() => link.reach());
    },
    async ensureStreams(definitions, { replicas }) {
      await link.reach();
      refuseReplicas(replicas, state.serverVersion);
      state.ensure(definitions);
    },

    async close() {
      const stopping = [...running].map((following) => following.stop());
      await Promise.all(stopping);
      for (const cleanup of [...cleanups]) cleanup();
      link.shut();
    },
  };
  return { bus, link };
}
