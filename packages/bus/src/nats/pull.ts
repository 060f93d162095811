import { consumerSubjects, type StreamName } from "@mcp-failover/contracts";
import { createInbox, type Msg, type NatsConnection, nuid } from "nats";
import type { RawMessage } from "../message.ts";
import { fromDelivered, type Position, positionOf } from "./api.ts";
import { askForConsumer, type ConsumerStart, durableConsumer, ephemeralConsumer } from "./consumers.ts";
import type { NatsLink } from "./link.ts";
import { UnansweredError } from "./unanswered.ts";

const heartbeatMs = 2000;
/** Two heartbeats missed, and some slack for a busy machine. */
const silenceMs = 2 * heartbeatMs + 1000;
/** An open pull ends by itself after this, so that the server forgets those of the dead. */
const expiresMs = 30_000;
/** What one pull may bring, so that a slow handler holds back the server and not our memory. */
const pullBytesMax = 8 * 1024 * 1024;

export interface Pulled {
  readonly raw: RawMessage;
  readonly position: Position;
  /** For answers to a queued message. */
  readonly replyTo: string;
  /** How many came behind it and wait in this process. */
  readonly waiting: number;
}
/** `done`: it brought what it could. `empty`: there was nothing more. `broken`: make a new consumer. */
type PullEnd = { readonly kind: "done" | "empty" } | { readonly kind: "broken"; readonly reason: string };

/** A pull consumer on the server, and the inbox that its messages come to. */
export interface PullConsumer {
  readonly nc: NatsConnection;
  /** One pull at a time. With `wait` it stays open until `batch` messages came or it expires; the server beats while nothing comes. */
  pull(options: { batch: number; wait: boolean; onBeat?: () => void }): AsyncGenerator<Pulled, PullEnd>;
  /** Ends a pull that waits, as `broken`. */
  interrupt(reason: string): void;
  close(): void;
}

/** What is read: messages from a place on, once; or a queue that all who name it share. */
export type Reading =
  | { readonly filter: string; readonly from: ConsumerStart }
  | { readonly filter: string; readonly durable: string; readonly ackWaitMs: number };

/** Makes a consumer. Throws {@link ApiError}, {@link UnansweredError}. A durable one is left on the server by `close`. */
export async function openConsumer(link: NatsLink, stream: StreamName, reading: Reading): Promise<PullConsumer> {
  const current = link.current;
  if (current === null) throw new UnansweredError("disconnected", false, "no connection");
  const nc: NatsConnection = current;
  const name = await make(link, stream, reading);
  const once = "from" in reading;
  if (link.current !== nc) throw new UnansweredError("disconnected", true, "the connection was lost while a consumer was made");
  const inbox = createInbox();
  const mail: Msg[] = [];
  let broken: string | null = null;
  let wake: () => void = () => undefined;
  const subscription = nc.subscribe(`${inbox}.*`, {
    callback: (error, message) => {
      if (error) broken ??= error.message;
      else mail.push(message);
      wake();
    },
  });
  const interrupt = (reason: string) => {
    broken ??= reason;
    wake();
  };
  const offStatus = link.onStatus(() => {
    if (link.current !== nc) interrupt("the connection was lost");
  });
  let pulls = 0;
  let lastDelivery = 0;

  /** Waits for the next message on the inbox, no longer than the server may be silent. */
  async function next(): Promise<Msg | null> {
    if (mail.length === 0 && broken === null) {
      let timer: NodeJS.Timeout | undefined;
      await new Promise<void>((resolve) => {
        wake = resolve;
        timer = setTimeout(resolve, silenceMs);
      });
      clearTimeout(timer);
      if (mail.length === 0) broken ??= `the server was silent for ${silenceMs} ms`;
    }
    return mail.shift() ?? null;
  }

  async function* pull({ batch, wait, onBeat }: { batch: number; wait: boolean; onBeat?: () => void }): AsyncGenerator<Pulled, PullEnd> {
    pulls += 1;
    const replyTo = `${inbox}.${pulls}`;
    const common = { batch, max_bytes: pullBytesMax };
    const request = wait ? { ...common, expires: expiresMs * 1e6, idle_heartbeat: heartbeatMs * 1e6 } : { ...common, no_wait: true };
    if (broken !== null) return { kind: "broken", reason: broken };
    nc.publish(`${link.apiPrefix}.CONSUMER.MSG.NEXT.${stream}.${name}`, JSON.stringify(request), { reply: replyTo });
    for (let count = 0; count < batch; ) {
      const message = await next();
      if (message === null) return { kind: "broken", reason: broken ?? "interrupted" };
      const position = positionOf(message.reply);
      if (position === null) {
        const end = message.subject === replyTo ? endOf(message) : null;
        if (end !== null) return end;
        onBeat?.();
        continue;
      }
      if (once && position.delivery !== lastDelivery + 1) {
        return { kind: "broken", reason: `delivery ${position.delivery} came after ${lastDelivery}` };
      }
      lastDelivery = position.delivery;
      count += 1;
      yield { raw: fromDelivered(stream, message, position), position, replyTo: message.reply ?? "", waiting: mail.length };
    }
    return { kind: "done" };
  }

  return {
    nc,
    pull,
    interrupt,
    close() {
      offStatus();
      interrupt("closed");
      subscription.unsubscribe();
      if (!once || link.current !== nc) return;
      // Nobody waits for the answer: the server forgets it by itself too.
      const reply = `${inbox}.deleted`;
      if (link.client === null) nc.publish(`${link.apiPrefix}.CONSUMER.DELETE.${stream}.${name}`, undefined, { reply });
      else nc.publish(consumerSubjects.close, JSON.stringify({ stream, name }), { reply });
    },
  };
}

/** What a message without a position says about the pull; null when it says nothing (a heartbeat). */
function endOf(message: Msg): PullEnd | null {
  const code = message.headers?.code ?? 0;
  const text = message.headers?.description ?? "";
  switch (code) {
    case 100:
      return null;
    case 404:
    case 408:
      return { kind: "empty" };
    case 409:
      // The pull was filled up in bytes: nothing is wrong, ask for more.
      if (/MaxBytes|Batch Completed/i.test(text)) return { kind: "done" };
      return { kind: "broken", reason: text };
    default:
      return { kind: "broken", reason: code === 503 ? "the consumer is gone" : `status ${code} ${text}` };
  }
}

/** Clients ask for it, because they may not make any. */
async function make(link: NatsLink, stream: StreamName, reading: Reading): Promise<string> {
  const { filter } = reading;
  if (!("from" in reading)) {
    const { durable, ackWaitMs } = reading;
    if (link.client === null) await durableConsumer(link, stream, durable, filter, ackWaitMs);
    else await askForConsumer(link, { stream, filter, from: { kind: "all" }, queue: { durable, ackWaitMs } });
    return durable;
  }
  if (link.client !== null) return askForConsumer(link, { stream, filter, from: reading.from });
  const name = `f-${nuid.next()}`;
  await ephemeralConsumer(link, stream, name, filter, reading.from);
  return name;
}
