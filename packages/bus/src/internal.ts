// Seams for tests, apart from what `index.ts` exports: nothing that runs in production imports this.
import type { Bus } from "./bus.ts";
import { objectBucket } from "./claim-check.ts";
import type { BrokerState } from "./memory/broker.ts";
import { brokerStates, links, type MemoryBroker } from "./memory.ts";
import { callApi } from "./nats/api.ts";
import type { NatsLink } from "./nats/link.ts";
import { natsLinks } from "./nats.ts";

// What both adapters share: the simulation's bus is a third one, so that it proves these very rules.
export { publishFenced, publishUnfenced } from "./append.ts";
export { dispatcher } from "./dispatch.ts";
export type { LogPort, PublishOutcome } from "./log-port.ts";
export { encodeBody, encodeEvent, headerNames, type Outgoing, type RawMessage, wireBytes } from "./message.ts";
export { noAnswer, readReply } from "./replies.ts";
export { subjectMatches } from "./subjects.ts";

export interface MemorySeams {
  /** Ends the connection as a network does; `restore` brings it back. */
  cut(reason?: string): void;
  restore(): void;
  /** The next `count` publishes end with an unknown outcome: after they were stored, or without. */
  losePublishes(count: number, options: { stored: boolean }): void;
  /** Every operation takes this much longer. */
  delay(ms: number): void;
  /** Core messages dropped while cut. */
  readonly dropped: number;
}

/** Throws a `RangeError` for a bus that `memoryBroker` did not make. */
export function memorySeams(bus: Bus): MemorySeams {
  const link = links.get(bus);
  if (link === undefined) throw new RangeError("only a bus of memoryBroker() has seams");
  return {
    cut: (reason = "cut by a test") => link.cut(reason),
    restore: () => link.restore(),
    losePublishes: (count, { stored }) => link.losePublishes(count, stored),
    delay: (ms) => {
      link.delayMs = ms;
    },
    get dropped() {
      return link.dropped;
    },
  };
}

/** Publishes bytes as they are, malformed ones too, as a foreign client could. */
export function publishRawToMemory(
  broker: MemoryBroker,
  subject: string,
  bytes: Uint8Array | string,
  headers: Record<string, string> = {},
): void {
  stateOf(broker).ingest({ subject, bytes: typeof bytes === "string" ? new TextEncoder().encode(bytes) : bytes, headers });
}

/** The object store of a memory broker loses everything. Throws a `RangeError` for another broker. */
export function clearMemoryObjects(broker: MemoryBroker): void {
  stateOf(broker).objects.clear();
}

/** Overwrites an object, as a foreign client could. Throws a `RangeError` for another broker. */
export function putMemoryObject(broker: MemoryBroker, name: string, text: string): void {
  stateOf(broker).objects.set(name, new TextEncoder().encode(text));
}

function stateOf(broker: MemoryBroker): BrokerState {
  const state = brokerStates.get(broker);
  if (state === undefined) throw new RangeError("not a broker of memoryBroker()");
  return state;
}

/** The same on NATS. Throws a `RangeError` for a bus that is not on NATS. */
export async function putObject(bus: Bus, name: string, text: string): Promise<void> {
  const nc = await linkOf(bus).reach(5000);
  await (await nc.jetstream().views.os(objectBucket)).putBlob({ name }, new TextEncoder().encode(text));
}

/** Publishes bytes as they are over a bus of `connectBus`, as a foreign client could. Throws a `RangeError` for another bus. */
export async function publishRaw(bus: Bus, subject: string, bytes: Uint8Array | string, headers?: Record<string, string>): Promise<void> {
  const link = linkOf(bus);
  const nc = await link.reach(5000);
  link.send(subject, typeof bytes === "string" ? new TextEncoder().encode(bytes) : bytes, headers === undefined ? {} : { headers });
  await nc.flush();
}

/** Asks the JetStream API as an administrator would: `STREAM.PURGE.SIGNALS`, `STREAM.DELETE.AUDIT`. Throws what the API answers with. */
export async function jetStreamApi<T>(bus: Bus, verb: string, body?: unknown): Promise<T> {
  return callApi<T>(linkOf(bus), verb, body, 5000);
}

/** Core messages dropped for want of a connection. */
export function droppedBy(bus: Bus): number {
  return natsLinks.get(bus)?.dropped ?? memorySeams(bus).dropped;
}

/** Ends the client's connection as those errors do after which nats.js gives up for good. */
export async function giveUpConnection(bus: Bus): Promise<void> {
  await linkOf(bus).current?.close();
}

function linkOf(bus: Bus): NatsLink {
  const link = natsLinks.get(bus);
  if (link === undefined) throw new RangeError("only a bus of connectBus() is on NATS");
  return link;
}

/** What one service says of itself to `$SRV.INFO.<name>`, as `nats micro info` shows it. */
export async function serviceInfo<T>(bus: Bus, name: string): Promise<T> {
  const message = await linkOf(bus).request(`$SRV.INFO.${name}`, new Uint8Array(), { timeoutMs: 2000 });
  return message.json<T>();
}
