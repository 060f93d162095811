import { type StreamDefinition, type StreamName, streams as standardStreams } from "@mcp-failover/contracts";
import { BusError, type ServiceDefinition } from "../bus.ts";
import type { PublishOutcome } from "../log-port.ts";
import { subjectMatches } from "../subjects.ts";
import { widened } from "../widened.ts";
import { type BucketLimits, MemoryBucket } from "./bucket.ts";
import { MemoryQueue } from "./queue.ts";
import { MemoryStream } from "./store.ts";

export interface CoreMessage {
  readonly subject: string;
  readonly bytes: Uint8Array;
  readonly headers: Readonly<Record<string, string>>;
  readonly replyTo?: string;
}
export interface CoreSubscriber {
  readonly filter: string;
  readonly deliver: (message: CoreMessage) => void;
}
export interface ServedInstance {
  readonly id: string;
  readonly service: ServiceDefinition;
  readonly answer: (subject: string, bytes: Uint8Array) => Promise<Uint8Array>;
  readonly reachable: () => boolean;
}

export interface MemoryBrokerOptions {
  /** The store's clock; default `Date.now`. */
  readonly nowMs?: () => number;
  /** Which streams are there from the start; default all of the contracts. `[]` is a server that bootstrap has not seen yet. */
  readonly streams?: readonly StreamDefinition[];
  /** For B8; default "2.11.0". */
  readonly serverVersion?: string;
}

/** What all connections to one memory broker share. */
export class BrokerState {
  readonly nowMs: () => number;
  readonly serverVersion: string;
  readonly streams = new Map<StreamName, MemoryStream>();
  /** Of the object store, by name. */
  readonly objects = new Map<string, Uint8Array>();
  readonly subscribers = new Set<CoreSubscriber>();
  readonly instances = new Set<ServedInstance>();
  readonly #queues = new Map<string, MemoryQueue>();
  readonly #buckets = new Map<string, MemoryBucket>();
  readonly #wakers = new Set<() => void>();
  #turn = 0;

  constructor(options: MemoryBrokerOptions) {
    this.nowMs = options.nowMs ?? Date.now;
    this.serverVersion = options.serverVersion ?? "2.11.0";
    for (const definition of options.streams ?? standardStreams) this.streams.set(definition.name, new MemoryStream(definition));
  }

  /** As a server takes a publish: the streams get it by subject, and so do the subscribers. */
  ingest(message: CoreMessage): PublishOutcome | null {
    const stream = [...this.streams.values()].find(({ definition }) =>
      definition.subjects.some((filter) => subjectMatches(filter, message.subject)),
    );
    const outcome = stream?.store(message, this.nowMs()) ?? null;
    for (const subscriber of this.subscribers) {
      if (subjectMatches(subscriber.filter, message.subject)) queueMicrotask(() => subscriber.deliver(message));
    }
    if (outcome?.kind === "stored" && !outcome.duplicate) this.wake();
    return outcome;
  }

  /** Throws {@link BusError} `rejected` where the stream is not there. */
  stream(name: StreamName): MemoryStream {
    const stream = this.streams.get(name);
    if (stream === undefined) throw missingStream(name);
    return stream;
  }

  ensure(definitions: readonly StreamDefinition[]): void {
    for (const definition of definitions) {
      const stream = this.streams.get(definition.name);
      if (stream === undefined) this.streams.set(definition.name, new MemoryStream(definition));
      else stream.definition = widened(stream.definition, definition);
    }
    this.wake();
  }

  queue(stream: StreamName, durable: string, filter: string): MemoryQueue {
    const key = `${stream}/${durable}`;
    const queue = this.#queues.get(key) ?? new MemoryQueue(this.stream(stream), filter);
    this.#queues.set(key, queue);
    return queue;
  }

  bucket(name: string, limits: BucketLimits): MemoryBucket {
    const bucket = this.#buckets.get(name) ?? new MemoryBucket(limits, this.nowMs);
    this.#buckets.set(name, bucket);
    return bucket;
  }

  /** One of the instances that serve a subject, in turn. */
  pick(subject: string): ServedInstance | null {
    const able = [...this.instances].filter((instance) => instance.reachable() && Object.hasOwn(instance.service.handlers, subject));
    this.#turn += 1;
    return able[this.#turn % Math.max(1, able.length)] ?? null;
  }

  /** Tells every reader that waits that there may be something new. */
  wake(): void {
    for (const waker of [...this.#wakers]) waker();
  }

  /** Resolves at the next {@link wake}, or after `timeoutMs`. */
  changed(timeoutMs: number | null): Promise<void> {
    return new Promise((resolve) => {
      const finish = () => {
        this.#wakers.delete(finish);
        clearTimeout(timer);
        resolve();
      };
      const timer = timeoutMs === null ? undefined : setTimeout(finish, timeoutMs);
      this.#wakers.add(finish);
    });
  }
}

export function missingStream(name: StreamName): BusError {
  return new BusError("rejected", `the stream ${name} does not exist yet: bootstrap makes it`, { retriable: true });
}
