import type { ServiceDefinition } from "@mcp-failover/bus";
import { type Event, type StreamDefinition, type StreamName, streams } from "@mcp-failover/contracts";
import type { Host, SimProcess } from "../clock.ts";
import type { EventQueue } from "../event-queue.ts";
import type { Random } from "../random.ts";
import type { SimLink } from "./link.ts";
import { type Kept, type SimOutgoing, SimStream } from "./store.ts";

/** A core message on its way. */
export interface CoreMessage {
  readonly subject: string;
  readonly replyTo: string | null;
  readonly content: { readonly kind: "event"; readonly event: Event } | { readonly kind: "no_responders" };
}
export interface CoreSubscription {
  readonly link: SimLink;
  /** A subject as it is, or an event type and all its keys. */
  readonly subject: string;
  readonly allBelow: boolean;
  readonly deliver: (message: CoreMessage) => void;
}
/** A reader that the server pushes to. */
export interface Follower {
  readonly link: SimLink;
  readonly stream: StreamName;
  readonly matches: ((subject: string) => boolean) | null;
  /** There is something new. */
  notice(): void;
}
interface Served {
  readonly link: SimLink;
  readonly service: ServiceDefinition;
  readonly answer: (subject: string, bytes: Uint8Array, reply: (bytes: Uint8Array) => void) => void;
}

export interface ServerOptions {
  readonly queue: EventQueue;
  readonly host: Host;
  readonly random: Random;
  readonly streams?: readonly StreamDefinition[];
  readonly onStored: (kept: Kept) => void;
  /** Every event is serialised and parsed as on the wire, and frozen. */
  readonly validates: boolean;
}

const nobody: ReadonlySet<CoreSubscription> = new Set();

/** One NATS server with JetStream, as far as its clients can tell. */
export class SimServer {
  readonly queue: EventQueue;
  readonly host: Host;
  readonly random: Random;
  readonly streams = new Map<StreamName, SimStream>();
  readonly links = new Set<SimLink>();
  readonly validates: boolean;
  up = true;
  /** By what they listen to. */
  readonly #subscriptions = new Map<string, Set<CoreSubscription>>();
  readonly #followers = new Set<Follower>();
  readonly #served = new Set<Served>();
  readonly #onStored: (kept: Kept) => void;
  #nonce = 0;

  constructor(options: ServerOptions) {
    this.queue = options.queue;
    this.host = options.host;
    this.random = options.random;
    this.validates = options.validates;
    this.#onStored = options.onStored;
    this.ensure(options.streams ?? streams);
  }

  ensure(definitions: readonly StreamDefinition[]): void {
    for (const definition of definitions) {
      if (!this.streams.has(definition.name)) this.streams.set(definition.name, new SimStream(definition, this.validates));
    }
  }

  nextNonce(): string {
    this.#nonce += 1;
    return `n${this.#nonce}`;
  }

  /** Stores a message and tells its readers. */
  store(stream: SimStream, message: SimOutgoing, process: SimProcess): ReturnType<SimStream["store"]> {
    const outcome = stream.store(message, { process: process.name, atMs: this.queue.nowMs, timeMs: Math.floor(this.host.wallMs) });
    if (outcome.kind !== "stored" || outcome.duplicate) return outcome;
    for (const follower of this.#followers) {
      if (follower.stream !== stream.definition.name) continue;
      if (follower.matches === null || follower.matches(outcome.kept.subject)) follower.notice();
    }
    this.#onStored(outcome.kept);
    return outcome;
  }

  /** Core messages go to who listens now; nobody keeps them. `hopMs`: how long this one is still on its way here. */
  publish(message: CoreMessage, from: SimLink, hopMs = 0): void {
    let heard = false;
    for (const subscription of this.#listeners(message)) {
      heard = true;
      // The server would send it back to its publisher too; nobody here does anything with that.
      if (subscription.link !== from || message.subject.startsWith("_INBOX"))
        subscription.link.deliverCore(from, () => subscription.deliver(message), hopMs);
    }
    if (heard || message.replyTo === null) return;
    for (const subscription of this.#subscriptions.get(message.replyTo) ?? nobody) {
      subscription.link.deliver(
        () => subscription.deliver({ subject: subscription.subject, replyTo: null, content: { kind: "no_responders" } }),
        hopMs,
      );
    }
  }

  /** Who listens to a subject as it is, or to an event type and all its keys. */
  #listeners({ subject, content }: CoreMessage): ReadonlySet<CoreSubscription> {
    const exactly = this.#subscriptions.get(subject);
    if (exactly !== undefined || content.kind !== "event" || subject.startsWith("_INBOX")) return exactly ?? nobody;
    return this.#subscriptions.get(content.event.type) ?? nobody;
  }

  /** One of those who serve the subject, at random, as a queue group does; null: nobody. */
  pick(subject: string): Served | null {
    const able = [...this.#served].filter(({ link, service }) => link.connectedAtServer && Object.hasOwn(service.handlers, subject));
    return able.length === 0 ? null : this.random.pick(able);
  }

  listen(subscription: CoreSubscription): () => void {
    const { subject } = subscription;
    const listeners = this.#subscriptions.get(subject) ?? new Set();
    this.#subscriptions.set(subject, listeners.add(subscription));
    return () => {
      listeners.delete(subscription);
      if (listeners.size === 0 && this.#subscriptions.get(subject) === listeners) this.#subscriptions.delete(subject);
    };
  }
  follow(follower: Follower): () => void {
    this.#followers.add(follower);
    return () => this.#followers.delete(follower);
  }
  serve(served: Served): () => void {
    this.#served.add(served);
    return () => this.#served.delete(served);
  }
  served(): readonly Served[] {
    return [...this.#served].filter(({ link }) => link.connectedAtServer);
  }

  goDown(): void {
    if (!this.up) return;
    this.up = false;
    for (const link of [...this.links]) link.serverWent();
  }

  comeUp(options: { readonly forgetsIds: boolean }): void {
    this.up = true;
    if (options.forgetsIds) for (const stream of this.streams.values()) stream.forgetIds();
  }

  /** What belonged to a connection is gone with it. */
  forget(link: SimLink): void {
    for (const set of [...this.#subscriptions.values(), this.#followers, this.#served]) {
      for (const one of set) if (one.link === link) (set as Set<{ link: SimLink }>).delete(one);
    }
  }
}
