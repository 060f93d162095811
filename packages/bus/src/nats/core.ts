import {
  contentType,
  discoverable,
  type Event,
  type EventType,
  events,
  parseEvent,
  type Reply,
  type RequestSubject,
  requests,
} from "@mcp-failover/contracts";
import { createInbox, type Msg, type NatsConnection, type Service } from "nats";
import { NoResponderError, type ServiceDefinition } from "../bus.ts";
import { dispatcher } from "../dispatch.ts";
import { guarded, settledWithin } from "../hand-over.ts";
import { type EventLike, encodeBody, parseReplyEvent } from "../message.ts";
import { answerLost, noAnswer, readReply, replyText } from "../replies.ts";
import { headersOf, toBusError } from "./api.ts";
import type { NatsReader } from "./follow.ts";
import { UnansweredError } from "./unanswered.ts";

const defaultTimeoutMs = 5000;
const discoveryMs = 1000;
/** Instances answer at once; after this much silence there are no more. */
const quietMs = 200;
const repliesMax = 10_000;
const againMs = 5000;
const registerMs = 2000;
/** What is worked on when a service stops is answered within this time, or not at all. */
const answersMs = 3000;

/** Core NATS: at most once, no store. */
export function publish({ link }: NatsReader, event: EventLike, replyTo?: string): void {
  const { subject, bytes } = encodeBody(event);
  link.send(subject, bytes, { headers: { "Content-Type": contentType }, ...(replyTo === undefined ? {} : { replyTo }) });
}

export function subscribe<T extends EventType>(
  { link, quarantine, say }: NatsReader,
  type: T,
  handler: (event: Event<T>, respond: (event: Event) => void) => void,
): { stop(): void } {
  const definition = events[type];
  const filter = definition.keys.length === 0 ? type : `${type}.>`;
  const take = ({ subject, data, headers, reply }: Msg) => {
    const parsed = parseEvent(subject, data);
    if (!parsed.ok) {
      // What belongs to a stream is quarantined by those who read the stream.
      if (definition.stream === null) quarantine.core(subject, data, headersOf(headers), parsed.reason);
      return;
    }
    const respond = (answer: Event) => {
      if (reply) link.send(reply, encodeBody(answer).bytes);
    };
    guarded(() => handler(parsed.event as Event<T>, respond), say, `a handler of ${type} failed`);
  };
  const stop = link.attach((nc) => {
    const subscription = nc.subscribe(filter, {
      callback: (error, message) => {
        if (error) say.warn({ err: error, filter }, "a subscription failed");
        else take(message);
      },
    });
    return () => subscription.unsubscribe();
  });
  return { stop };
}

/** Publishes with a reply inbox; ends at once where nobody listens. Throws {@link BusError} `unreachable`. */
export async function* requestMany(
  reader: NatsReader,
  event: EventLike,
  { timeoutMs, max = repliesMax }: { timeoutMs: number; max?: number },
): AsyncGenerator<Event> {
  const { link, quarantine } = reader;
  const { subject, bytes } = encodeBody(event);
  const nc = await link.reach(timeoutMs);
  let count = 0;
  for await (const message of replies(nc, [subject], bytes, { timeoutMs, quietMs: null })) {
    const parsed = parseReplyEvent(message.data);
    if (!parsed.ok) {
      quarantine.core(subject, message.data, headersOf(message.headers), `a reply: ${parsed.reason}`);
      continue;
    }
    count += 1;
    yield parsed.event;
    if (count >= max) return;
  }
}

/** Replies as they come, until the time-out, `quietMs` of silence, or the word that nobody listens. */
async function* replies(
  nc: NatsConnection,
  subjects: readonly string[],
  bytes: Uint8Array,
  options: { timeoutMs: number; quietMs: number | null },
): AsyncGenerator<Msg> {
  const inbox = createInbox();
  const mail: Msg[] = [];
  let unheard = 0;
  let ended = false;
  let wake: () => void = () => undefined;
  const subscription = nc.subscribe(inbox, {
    callback: (error, message) => {
      if (error) ended = true;
      else if (message.headers?.code === 503) {
        unheard += 1;
        ended ||= unheard === subjects.length;
      } else if (mail.length < repliesMax) mail.push(message);
      wake();
    },
  });
  const endMs = performance.now() + options.timeoutMs;
  try {
    for (const subject of subjects) nc.publish(subject, bytes, { reply: inbox });
    for (let heard = false; ; ) {
      const message = mail.shift();
      if (message !== undefined) {
        heard = true;
        yield message;
        continue;
      }
      const leftMs = endMs - performance.now();
      if (ended || leftMs <= 0 || nc.isClosed()) return;
      const waitMs = heard && options.quietMs !== null ? Math.min(leftMs, options.quietMs) : leftMs;
      let timer: NodeJS.Timeout | undefined;
      await new Promise<void>((resolve) => {
        wake = resolve;
        timer = setTimeout(resolve, waitMs);
      });
      clearTimeout(timer);
      if (mail.length === 0 && waitMs < leftMs) return;
    }
  } finally {
    subscription.unsubscribe();
  }
}

/** Throws {@link NoResponderError} at once when no instance is there. */
export async function request({ link }: NatsReader, subject: RequestSubject, body: unknown, timeoutMs = defaultTimeoutMs): Promise<Reply> {
  try {
    const message = await link.request(subject, new TextEncoder().encode(JSON.stringify(body)), { timeoutMs });
    return readReply(message.data, subject);
  } catch (error) {
    if (error instanceof UnansweredError && error.reason === "no_responders")
      throw new NoResponderError(subject, requests[subject].service);
    if (error instanceof UnansweredError && error.reason === "timeout") throw noAnswer(subject, timeoutMs);
    if (error instanceof UnansweredError) throw error.sent ? answerLost(subject) : link.unreachable(error);
    throw toBusError(error, `ask ${subject}`);
  }
}

/** One NATS micro service with an endpoint a request subject; its default queue group "q" makes one instance answer. */
export async function serve({ link, say }: NatsReader, service: ServiceDefinition): Promise<{ stop(): Promise<void> }> {
  const subjects = Object.keys(service.handlers) as RequestSubject[];
  let stopped = false;
  let running: Service | null = null;
  const answering = new Set<Promise<void>>();
  let first: Promise<unknown> = Promise.resolve();

  async function add(nc: NatsConnection): Promise<void> {
    const { name, version, description, instance, readiness } = service;
    const metadata = { ...service.metadata, instance };
    const added = await nc.services.add({ name, version, description, metadata });
    // What answers `$SRV.PING` has been written down by now; `$SRV.INFO` looks at each question.
    if (readiness !== undefined) Object.defineProperty(metadata, "readiness", { enumerable: true, get: readiness });
    if (stopped) {
      await added.stop();
      return;
    }
    running = added;
    for (const subject of subjects)
      added.addEndpoint(subject.replaceAll(".", "-"), { subject, handler: (_error, message) => answer(subject, message) });
    await nc.flush();
    // It stops by itself when the server refuses it a subject, and says so nowhere else.
    void added.stopped.then(async (error) => {
      if (stopped || nc.isClosed()) return;
      say.warn(
        { service: service.name, reason: error instanceof Error ? error.message : "stopped" },
        "the service was stopped and is registered again",
      );
      await link.sleep(againMs);
      if (!stopped && !nc.isClosed())
        await add(nc).catch((err: unknown) => say.warn({ err, service: service.name }, "could not register the service"));
    });
  }

  const dispatch = dispatcher(service, (err, subject) => say.warn({ err, subject }, "a request's handler failed"));
  function answer(subject: RequestSubject, message: { data: Uint8Array; respond(data: string): boolean }): void {
    const work = dispatch(subject, message.data).then((reply) => {
      answering.delete(work);
      guarded(() => message.respond(replyText(reply, subject, link.payloadBytesMax)), say, "a reply could not be sent");
    });
    answering.add(work);
  }

  const detach = link.attach((nc) => {
    first = add(nc).catch((err: unknown) => say.warn({ err, service: service.name }, "could not register the service"));
    return () => undefined;
  });
  if (link.connected) await settledWithin(first, registerMs);
  return {
    async stop() {
      stopped = true;
      detach();
      // Its subscriptions are drained, which takes for ever without a connection.
      if (running !== null) await settledWithin(running.stop(), link.connected ? registerMs : 0);
      await settledWithin(Promise.all(answering), link.connected ? answersMs : 0);
    },
  };
}

interface Instance {
  readonly name: string;
  readonly id: string;
  readonly metadata: Record<string, string>;
}

/** Who is there, by `$SRV.PING`; and how each is, by `$SRV.INFO`. */
export async function services(
  { link }: NatsReader,
  { timeoutMs = discoveryMs, examine = false }: { timeoutMs?: number; examine?: boolean },
): Promise<readonly Instance[]> {
  const nc = await link.reach(timeoutMs);
  async function ask(verb: "PING" | "INFO"): Promise<Instance[]> {
    // Between accounts a question goes to one of them: each service is asked by its name.
    const subjects = link.hasAccounts ? discoverable.map((name) => `$SRV.${verb}.${name}`) : [`$SRV.${verb}`];
    const found: Instance[] = [];
    for await (const message of replies(nc, subjects, new Uint8Array(), { timeoutMs, quietMs })) {
      const instance = readInstance(message);
      if (instance !== null) found.push(instance);
    }
    return found;
  }
  // Two questions, because accounts that were made by an earlier version let nobody ask the second.
  const [there, examined] = await Promise.all([ask("PING"), examine ? ask("INFO") : []]);
  const byId = new Map(examined.map(({ id, metadata }) => [id, metadata]));
  return there.map((one) => ({ ...one, metadata: { ...one.metadata, ...byId.get(one.id) } }));
}

/** Null for what is no such answer: anybody may listen on `$SRV.PING`. */
function readInstance(message: Msg): Instance | null {
  try {
    const { name, id, metadata } = message.json<{ name?: unknown; id?: unknown; metadata?: Record<string, string> | null }>();
    return typeof name === "string" && typeof id === "string" ? { name, id, metadata: metadata ?? {} } : null;
  } catch {
    return null; // Not ours, and nothing that we could act on.
  }
}
