import { type ConsumerWish, consumerSubjects, queueLimits, type StreamName } from "@mcp-failover/contracts";
import { type ApiError, apiCodes, callApi, readApi } from "./api.ts";
import type { NatsLink } from "./link.ts";

const apiMs = 5000;
/** The server forgets a consumer that nobody has pulled from for so long; a handler may be slower, we then begin anew. */
const inactiveMs = 120_000;
/** Where a consumer begins. */
export type ConsumerStart = ConsumerWish["from"];

/** Asks the keeper for a consumer. Throws {@link ApiError} and what the link throws. */
export async function askForConsumer(link: NatsLink, wish: ConsumerWish): Promise<string> {
  const message = await link.request(consumerSubjects.open, new TextEncoder().encode(JSON.stringify(wish)), { timeoutMs: apiMs });
  return readApi<{ name: string }>(message).name;
}

/** A pull consumer that the server forgets by itself. Throws {@link ApiError}. */
export async function ephemeralConsumer(
  link: NatsLink,
  stream: StreamName,
  name: string,
  filter: string,
  from: ConsumerStart,
): Promise<void> {
  const config = {
    name,
    ack_policy: "none",
    mem_storage: true,
    num_replicas: 1,
    inactive_threshold: inactiveMs * 1e6,
    max_waiting: 8,
    filter_subject: filter,
    ...deliverPolicy(from),
  };
  await create(link, stream, name, filter, config, "create");
}

/** The consumer that all instances of a service share. Throws {@link ApiError}. */
export async function durableConsumer(
  link: NatsLink,
  stream: StreamName,
  durable: string,
  filter: string,
  ackWaitMs: number,
): Promise<void> {
  const config = {
    durable_name: durable,
    filter_subject: filter,
    deliver_policy: "all",
    ack_policy: "explicit",
    ack_wait: ackWaitMs * 1e6,
    // The limit is B9's: one that the server keeps would leave the message where nobody gets it again.
    max_deliver: -1,
    max_ack_pending: queueLimits.ackPendingMax,
  };
  try {
    await create(link, stream, durable, filter, config, "create");
  } catch (error) {
    // One of an earlier version: 2.10 and newer want to be told that it shall change.
    if ((error as ApiError).errCode !== apiCodes.consumerExists) throw error;
    await create(link, stream, durable, filter, config, "update");
  }
}

async function create(
  link: NatsLink,
  stream: StreamName,
  name: string,
  filter: string,
  config: object,
  action: "create" | "update",
): Promise<void> {
  // nats-server 2.9 refuses `last_per_subject` without a filter (10094); `>` cannot be part of the subject of the request.
  const verb = `CONSUMER.CREATE.${stream}.${name}${filter === ">" ? "" : `.${filter}`}`;
  await callApi(link, verb, { stream_name: stream, config, action }, apiMs);
}

function deliverPolicy(from: ConsumerStart): Record<string, unknown> {
  switch (from.kind) {
    case "seq":
      return { deliver_policy: "by_start_sequence", opt_start_seq: from.seq };
    case "time":
      return { deliver_policy: "by_start_time", opt_start_time: from.time };
    default:
      return { deliver_policy: from.kind };
  }
}
