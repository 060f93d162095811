import type { StreamName } from "@mcp-failover/contracts";
import { createInbox, type Msg, type NatsConnection, nuid } from "nats";
import type { RawMessage } from "../message.ts";
import { type ApiError, apiCodes, callApi, fromDelivered, type Position, positionOf } from "./api.ts";
import { type NatsLink, UnansweredError } from "./link.ts";

const apiMs = 5000;
const heartbeatMs = 2000;
/** Two heartbeats missed, and some slack for a busy machine. */
const silenceMs = 2 * heartbeatMs + 1000;
/** An open pull ends by itself after this, so that the server forgets those of the dead. */
const expiresMs = 30_000;
/** What one pull may bring, so that a slow handler holds back the server and not our memory. */
const pullBytesMax = 8 * 1024 * 1024;
/** The server forgets a consumer that nobody has pulled from for so long; a handler may be slower, we then begin anew. */
const inactiveMs = 120_000;

export interface Pulled {
  readonly raw: RawMessage;
  readonly position: Position;
  /** For answers to a queued message. */
  readonly replyTo: string;
}
/** `done`: it brought what it could. `empty`: there was nothing more. `broken`: make a new consumer. */
type PullEnd = { readonly kind: "done" | "empty" } | { readonly kind: "broken"; readonly reason: string };

/** A pull consumer on the server, and the inbox that its messages come to. */
export interface PullConsumer {
  readonly nc: NatsConnection;
  /** One pull at a time. With `wait` it stays open until `batch` messages came or it expires. */
  pull(options: { batch: number; wait: boolean }): AsyncGenerator<Pulled, PullEnd>;
  /** Ends a pull that waits, as `broken`. */
  interrupt(reason: string): void;
  close(): void;
}

/** Makes a consumer. Throws {@link ApiError}, {@link UnansweredError}. A durable one is left on the server by `close`. */
export async function openConsumer(
  link: NatsLink,
  stream: StreamName,
  config: Record<string, unknown> & { durable_name?: string; filter_subject: string },
): Promise<PullConsumer> {
  const current = link.current;
  if (current === null) throw new UnansweredError("disconnected", false, "no connection");
  const nc: NatsConnection = current;
  const name = config.durable_name ?? `f-${nuid.next()}`;
  const ephemeral = { name, ack_policy: "none", mem_storage: true, num_replicas: 1, inactive_threshold: inactiveMs * 1e6, max_waiting: 8 };
  await createConsumer(link, stream, name, config.durable_name === undefined ? { ...ephemeral, ...config } : config);
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

  async function* pull({ batch, wait }: { batch: number; wait: boolean }): AsyncGenerator<Pulled, PullEnd> {
    pulls += 1;
    const replyTo = `${inbox}.${pulls}`;
    const common = { batch, max_bytes: pullBytesMax };
    const request = wait ? { ...common, expires: expiresMs * 1e6, idle_heartbeat: heartbeatMs * 1e6 } : { ...common, no_wait: true };
    if (broken !== null) return { kind: "broken", reason: broken };
    nc.publish(`$JS.API.CONSUMER.MSG.NEXT.${stream}.${name}`, JSON.stringify(request), { reply: replyTo });
    for (let count = 0; count < batch; ) {
      const message = await next();
      if (message === null) return { kind: "broken", reason: broken ?? "interrupted" };
      const position = positionOf(message.reply);
      if (position === null) {
        const end = message.subject === replyTo ? endOf(message) : null;
        if (end !== null) return end;
        continue;
      }
      if (config.durable_name === undefined && position.delivery !== lastDelivery + 1) {
        return { kind: "broken", reason: `delivery ${position.delivery} came after ${lastDelivery}` };
      }
      lastDelivery = position.delivery;
      count += 1;
      yield { raw: fromDelivered(stream, message, position), position, replyTo: message.reply ?? "" };
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
      if (config.durable_name !== undefined || link.current !== nc) return;
      // Nobody waits for the answer: the server forgets it by itself too.
      nc.publish(`$JS.API.CONSUMER.DELETE.${stream}.${name}`, undefined, { reply: `${inbox}.deleted` });
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

async function createConsumer(link: NatsLink, stream: StreamName, name: string, config: Record<string, unknown>): Promise<void> {
  const filter = String(config["filter_subject"]);
  // nats-server 2.9 refuses `last_per_subject` without a filter (10094); `>` cannot be part of the subject of the request.
  const verb = `CONSUMER.CREATE.${stream}.${name}${filter === ">" ? "" : `.${filter}`}`;
  const create = (action: "create" | "update") => callApi(link, verb, { stream_name: stream, config, action }, apiMs);
  try {
    await create("create");
  } catch (error) {
    // A durable of an earlier version: 2.10 and newer want to be told that it shall change.
    if (config["durable_name"] === undefined || (error as ApiError).errCode !== apiCodes.consumerExists) throw error;
    await create("update");
  }
}
