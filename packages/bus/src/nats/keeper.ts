import { randomBytes } from "node:crypto";
import {
  type BusClient,
  busAccessOf,
  busClients,
  consumerClosed,
  consumerSubjects,
  consumerWish,
  objectStream,
  onlooker,
  type StreamName,
} from "@mcp-failover/contracts";
import type { Msg } from "nats";
import { BusError } from "../bus.ts";
import { guarded } from "../hand-over.ts";
import type { BusLog } from "../log.ts";
import { ApiError, apiCodes, callApi } from "./api.ts";
import { durableConsumer, ephemeralConsumer } from "./consumers.ts";
import type { NatsLink } from "./link.ts";
import { UnansweredError } from "./unanswered.ts";

const apiMs = 5000;
/** Requests that are worked on at a time; more wait on the server and are refused by the asker's time-out. */
const inFlightMax = 64;
/** So many of them of one client, all its instances together: nobody takes all of the places, and who brings no key a few. */
const inFlightOf = (client: BusClient): number => (client === onlooker ? 8 : 32);
/** Consumers of all instances of one client that live at a time. */
const consumersMax = 512;
const bytesMax = 4096;
/** Who is at the limit and asks on has the server asked no more often than this which of them are gone. */
const forgetEveryMs = 1000;

/**
 * Makes consumers for clients that may not make them (docs/adr/0009): the request of JetStream for a consumer can name a subject that
 * messages are pushed to, any subject, so that whoever may send it can write into every stream. A client says what it wants to read; the table
 * says whether it may; what is made is a pull consumer with a name that nobody else can guess.
 */
export function keepConsumers(link: NatsLink, say: BusLog): { stop(): void } {
  /** A place is taken before the consumer is made: many are asked for at once. */
  const live = new Map<string, { readonly client: BusClient; readonly stream: string; isMade: boolean }>();
  const inFlight = new Map<BusClient, number>();
  const forgets = new Map<BusClient, { readonly done: Promise<void>; nextMs: number }>();

  async function open(client: BusClient, bytes: Uint8Array): Promise<{ name: string }> {
    const wish = consumerWish.safeParse(parseJson(bytes));
    if (!wish.success) throw new ApiError({ code: 400, description: "this is no request for a consumer" });
    const { stream, filter, queue } = wish.data;
    if (!mayRead(client, stream))
      throw new ApiError({ code: 403, description: `${client} does not read ${stream} (packages/contracts, bus-access.ts)` });
    if (queue !== undefined) {
      if (!busAccessOf(client).queues.some((own) => own.stream === stream && own.durable === queue.durable))
        throw new ApiError({
          code: 403,
          description: `${client} takes from no queue ${queue.durable} of ${stream} (packages/contracts, bus-access.ts)`,
        });
      await durableConsumer(link, stream as StreamName, queue.durable, filter, queue.ackWaitMs);
      return { name: queue.durable };
    }
    if (countOf(client) >= consumersMax) await forgetGone(client);
    if (countOf(client) >= consumersMax) throw new ApiError({ code: 429, description: `${client} has ${consumersMax} consumers already` });
    const name = `${client}-${randomBytes(16).toString("base64url")}`;
    const place = { client, stream, isMade: false };
    live.set(name, place);
    try {
      await ephemeralConsumer(link, stream as StreamName, name, filter, wish.data.from);
    } catch (error) {
      live.delete(name);
      throw error;
    }
    place.isMade = true;
    return { name };
  }

  async function close(client: BusClient, bytes: Uint8Array): Promise<{ name: string }> {
    const wish = consumerClosed.safeParse(parseJson(bytes));
    // By the name: another keeper may have made it.
    if (!wish.success || !wish.data.name.startsWith(`${client}-`) || !mayRead(client, wish.data.stream))
      throw new ApiError({ code: 403, description: `that is no consumer of ${client}` });
    const { stream, name } = wish.data;
    live.delete(name);
    await callApi(link, `CONSUMER.DELETE.${stream}.${name}`, undefined, apiMs).catch((error: unknown) => {
      if (!(error instanceof ApiError && error.errCode === apiCodes.consumerNotFound)) throw error;
    });
    return { name };
  }

  const countOf = (client: BusClient): number => [...live.values()].filter((one) => one.client === client).length;

  /** The server forgets those that nobody pulls from. Once at a time for a client, whoever asks. */
  function forgetGone(client: BusClient): Promise<void> {
    const last = forgets.get(client);
    if (last !== undefined && performance.now() < last.nextMs) return last.done;
    const done = forget(client).finally(() => {
      begun.nextMs = performance.now() + forgetEveryMs;
    });
    const begun = { done, nextMs: Number.POSITIVE_INFINITY };
    forgets.set(client, begun);
    return done;
  }

  async function forget(client: BusClient): Promise<void> {
    // Those alone that were there before the server is asked.
    const made = [...live].filter(([, one]) => one.client === client && one.isMade);
    for (const stream of new Set(made.map(([, one]) => one.stream))) {
      const names = new Set<string>();
      for (let offset = 0; ; ) {
        const page = await callApi<{ total: number; consumers: string[] | null }>(link, `CONSUMER.NAMES.${stream}`, { offset }, apiMs);
        for (const name of page.consumers ?? []) names.add(name);
        offset += page.consumers?.length ?? 0;
        if (offset >= page.total || (page.consumers?.length ?? 0) === 0) break;
      }
      for (const [name, one] of made) if (one.stream === stream && !names.has(name)) live.delete(name);
    }
  }

  async function answer(message: Msg, act: (client: BusClient, bytes: Uint8Array) => Promise<unknown>): Promise<void> {
    const client = busClients.find((one) => one === message.subject.slice(message.subject.lastIndexOf(".") + 1)) as BusClient | undefined;
    let reply: unknown;
    try {
      if (client === undefined) throw new ApiError({ code: 403, description: "nobody of this name is in the table" });
      if (message.data.length > bytesMax) throw new ApiError({ code: 400, description: "the request is too large" });
      const own = inFlight.get(client) ?? 0;
      const all = [...inFlight.values()].reduce((sum, count) => sum + count, 0);
      if (all >= inFlightMax || own >= inFlightOf(client)) throw new ApiError({ code: 503, description: "the keeper is busy: ask again" });
      inFlight.set(client, own + 1);
      try {
        reply = await act(client, message.data);
      } finally {
        inFlight.set(client, (inFlight.get(client) ?? 1) - 1);
      }
    } catch (error) {
      reply = { error: errorOf(error) };
      say.debug({ err: error, client }, "a consumer was refused");
    }
    guarded(() => message.respond(JSON.stringify(reply)), say, "the keeper could not answer");
  }

  const detach = link.attach((nc) => {
    const subscriptions = [
      [consumerSubjects.open, open],
      [consumerSubjects.close, close],
    ].map(([subject, act]) =>
      nc.subscribe(`${subject as string}.*`, {
        queue: "keeper",
        callback: (error, message) => {
          if (error) say.warn({ err: error, subject }, "the keeper cannot listen");
          else void answer(message, act as typeof open);
        },
      }),
    );
    return () => {
      for (const subscription of subscriptions) subscription.unsubscribe();
    };
  });
  return { stop: detach };
}

function mayRead(client: BusClient, stream: string): boolean {
  const { reads, objects } = busAccessOf(client);
  return (reads as readonly string[]).includes(stream) || (stream === objectStream && objects !== "none");
}

function errorOf(error: unknown): { code: number; err_code?: number; description: string } {
  if (error instanceof ApiError) return { code: error.status, err_code: error.errCode, description: error.message };
  if (error instanceof UnansweredError || error instanceof BusError)
    return { code: 503, description: `JetStream does not answer the keeper: ${error.message}` };
  return { code: 500, description: "the keeper failed: see its log" };
}

function parseJson(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    return undefined; // The schema says what is wrong.
  }
}
