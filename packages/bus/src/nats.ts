import type { BusClient } from "@mcp-failover/contracts";
import { append, appendFenced } from "./append.ts";
import type { Bus, Following } from "./bus.ts";
import { claimCheck } from "./claim-check.ts";
import type { BusCredentials } from "./credentials.ts";
import { type BusLog, silent } from "./log.ts";
import { makeBuckets, openBucket } from "./nats/bucket.ts";
import { publish, request, requestMany, serve, services, subscribe } from "./nats/core.ts";
import { follow, type NatsReader, read } from "./nats/follow.ts";
import { keepConsumers } from "./nats/keeper.ts";
import { NatsLink } from "./nats/link.ts";
import { NatsLog } from "./nats/log.ts";
import { natsObjects } from "./nats/objects.ts";
import { consumeQueue } from "./nats/queue.ts";
import { keepStoreChecked } from "./nats/store-check.ts";
import { ensureStreams } from "./nats/streams.ts";
import { quarantine } from "./quarantine.ts";

const readMs = 5000;

export interface ConnectOptions {
  /** `nats://host:port`, several separated by commas; credentials as `nats://user:password@host`. */
  readonly servers: string;
  /** Shown by the server's monitoring: `prober/prober-1`. */
  readonly name: string;
  readonly instance: string;
  readonly log?: BusLog;
  /** Who we are, where the server has accounts (docs/adr/0009). */
  readonly credentials?: BusCredentials;
}

/** For tests and metrics, apart from the port. */
export const natsLinks = new WeakMap<Bus, NatsLink>();

/**
 * Connects to NATS, and returns at once: a service starts without it, and `status` says when it is there. Meanwhile operations throw
 * `BusError` `unreachable` within their time-out, and `publish` drops.
 */
export function connectBus(options: ConnectOptions): Bus {
  const say = options.log ?? silent;
  const link = new NatsLink({
    servers: options.servers,
    name: options.name,
    log: say,
    ...(options.credentials === undefined ? {} : { credentials: options.credentials }),
  });
  const log = new NatsLog(link);
  const quarantined = quarantine(log, (err, place) => say.warn({ err, place }, "a malformed message could not be put into QUARANTINE"));
  const claims = claimCheck(natsObjects(link, log), quarantined.refuse);
  const reader: NatsReader = { link, log, quarantine: quarantined, claims, say };
  const running = new Set<Following>();
  const serving = new Set<{ stop(): Promise<void> }>();

  function keep(following: Following): Following {
    const kept: Following = {
      get seq() {
        return following.seq;
      },
      stop: () => {
        running.delete(kept);
        return following.stop();
      },
    };
    running.add(kept);
    return kept;
  }

  const bus: Bus = {
    get status() {
      return link.status;
    },
    onStatus: (listener) => link.onStatus(listener),
    append: (event) => append(log, claims, event),
    appendFenced: (event, expectedSeq, { timeoutMs } = {}) => appendFenced(log, claims, event, expectedSeq, timeoutMs),
    async lastOf(stream, subject) {
      const raw = await log.lastOf(stream, subject, readMs);
      return raw === null ? null : claims.collect(quarantined.look(raw));
    },
    async at(stream, seq) {
      const raw = await log.at(stream, seq, readMs);
      return raw === null ? null : claims.collect(quarantined.look(raw));
    },
    info: (stream) => log.info(stream),
    read: (stream, readOptions = {}) => read(reader, stream, readOptions),
    follow: (stream, followOptions, handler) => keep(follow(reader, stream, followOptions, handler)),
    consumeQueue: (durable, queueOptions, handler) => keep(consumeQueue(reader, durable, queueOptions, handler)),
    publish: (event, { replyTo } = {}) => publish(reader, event, replyTo),
    subscribe: (type, handler) => subscribe(reader, type, handler),
    requestMany: (event, manyOptions) => requestMany(reader, event, manyOptions),
    request: (subject, body, { timeoutMs } = {}) => request(reader, subject, body, timeoutMs),
    async serve(service) {
      const served = await serve(reader, service);
      serving.add(served);
      return {
        stop: () => {
          serving.delete(served);
          return served.stop();
        },
      };
    },
    services: (options = {}) => services(reader, options),
    bucket: async (name, limits = {}) => openBucket(link, name, limits),
    async ensureStreams(definitions, { replicas }) {
      await ensureStreams(link, definitions, replicas);
      // Clients of a bus with permissions make nothing by themselves, and what others make at first use has one copy.
      if (link.hasAccounts || replicas > 1) await makeBuckets(link, replicas);
    },
    async close() {
      await Promise.all([...running].map((following) => following.stop()));
      await Promise.all([...serving].map((served) => served.stop()));
      await link.close();
    },
  };
  natsLinks.set(bus, link);
  return bus;
}

interface BusHealth {
  /** Why NATS does not store, and what to do; null while it does, and where nothing is known. */
  readonly store: string | null;
  /** Why readers of streams are slow, those that read nothing among them. */
  readonly slow: readonly string[];
  /** Why readers of streams read nothing any more. */
  readonly deaf: readonly string[];
  /** What waits for each reader, on the server and here. */
  readonly pending: readonly { readonly stream: string; readonly filter: string; readonly count: number }[];
  /** How often the connection was lost. */
  readonly losses: number;
}

/** How a connection of `connectBus` is, besides connected or not; what other buses are is not known. */
export function busHealth(bus: Bus): BusHealth {
  const link = natsLinks.get(bus);
  const lags = [...(link?.lags ?? [])];
  return {
    store: link?.store.reason ?? null,
    slow: lags.flatMap(({ slow }) => slow ?? []),
    deaf: lags.flatMap(({ deaf }) => deaf ?? []),
    pending: lags.map(({ stream, filter, pending }) => ({ stream, filter, count: pending })),
    losses: link?.losses ?? 0,
  };
}

/** As whom a connection of `connectBus` was let in: one of the table, or null for who may do anything (everybody, on a server without accounts). */
export function clientOf(bus: Bus): BusClient | null {
  return natsLinks.get(bus)?.client ?? null;
}

/** Has a connection of `connectBus` find out by itself whether NATS stores, where it has nothing to store; `key` is the service. */
export function checkStore(bus: Bus, key: string): { stop(): void } {
  const link = natsLinks.get(bus);
  return link === undefined ? { stop: () => undefined } : keepStoreChecked(link, key);
}

/** Makes consumers for those who may not make them; `bus` is one of the keeper or of the bootstrap user. Throws a `RangeError` for another bus. */
export function keepConsumersOn(bus: Bus, log: BusLog = silent): { stop(): void } {
  const link = natsLinks.get(bus);
  if (link === undefined || link.client !== null) throw new RangeError("only the keeper and the bootstrap user make consumers");
  return keepConsumers(link, log);
}
