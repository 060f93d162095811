import type {
  Event,
  EventType,
  Reply,
  RequestInput,
  RequestOf,
  RequestSubject,
  StreamDefinition,
  StreamName,
} from "@mcp-failover/contracts";

/**
 * The port through which every service talks. Two adapters keep it: NATS (`connectBus`) and a memory twin (`memoryBroker`), both
 * held to one behaviour suite.
 *
 * Guarantees, cited by the suite:
 * B1  Of any number of fenced publishers with the same expectation, exactly one wins; the others are told `lost`.
 * B2  A fenced publish whose outcome is unknown (time-out, 503, disconnect) is settled by reading the subject's last event: own id is
 *     `won`, an unchanged sequence is published again with the same id and expectation, anything else is `lost`.
 * B3  An acknowledgement marked duplicate for anything but one's own retry is `lost`.
 * B4  `follow` hands over the events of a stream in the order of the log, each once a subscription, and goes on by itself after a
 *     disconnect, a restart of the server and a slow handler. It never runs two handlers at once.
 * B5  A message that does not parse is handed over as `malformed`, and is put into QUARANTINE once, whoever sees it first.
 * B6  A queued message is gone only after its handler said `done`; `later` brings it back, and so does a crash.
 * B7  The connection reconnects for ever, with jitter, and `status` says so meanwhile; nothing in here ends the process.
 * B8  A replicated AUDIT is refused on a server older than 2.11 (nats-server #4320: the fence does not hold there).
 * B9  A queued message whose handler fails `failuresMax` times for a reason that does not pass, or that was delivered more often than
 *     `deliveriesMax`, stands in QUARANTINE with the reason before it leaves the queue. So does a malformed one, once its handler
 *     is done with it.
 */
export interface Bus {
  readonly status: BusStatus;
  /** Called at every change of `status`; returns how to stop. */
  onStatus(listener: (status: BusStatus) => void): () => void;

  /** Stores an event without a fence. Repeats with one id within the duplicate window are stored once. Throws {@link BusError}. */
  append<T extends EventType>(event: Event<T>): Promise<Appended>;
  /**
   * Stores an event only if `expectedSeq` is still the last sequence of its subject (0: none yet).
   * Throws {@link BusError} when the log cannot be reached until `timeoutMs` (default 5000), and nothing is known then.
   */
  appendFenced<T extends EventType>(event: Event<T>, expectedSeq: number, options?: { timeoutMs?: number }): Promise<Fenced>;

  /** The last event of a subject, or null. Throws {@link BusError} when the log is out of reach. */
  lastOf(stream: StreamName, subject: string): Promise<Stored | null>;
  /** One message by its sequence, or null when it is gone. */
  at(stream: StreamName, seq: number): Promise<Stored | null>;
  info(stream: StreamName): Promise<StreamInfo>;
  /** Reads from a sequence to the end as it is now, then ends. */
  read(stream: StreamName, options?: ReadOptions): AsyncIterable<Stored>;

  /** Follows a stream (B4) until `stop`. An error thrown by the handler is reported to `onError` and the next event follows. */
  follow(stream: StreamName, options: FollowOptions, handler: (stored: Stored) => void | Promise<void>): Following;

  /** Takes from the work queue OUTBOX; several instances share a `durable`. */
  consumeQueue(durable: string, options: QueueOptions, handler: (delivery: Delivery) => Promise<QueueVerdict>): Following;

  /** Core NATS: at most once, no store. */
  publish<T extends EventType>(event: Event<T>, options?: { replyTo?: string }): void;
  subscribe<T extends EventType>(type: T, handler: (event: Event<T>, respond: (event: Event) => void) => void): { stop(): void };
  /** Publishes with a reply inbox and yields every reply until `timeoutMs` or `max` replies. */
  requestMany<T extends EventType>(event: Event<T>, options: { timeoutMs: number; max?: number }): AsyncIterable<Event>;

  /** Asks a service (NATS services API). Throws {@link NoResponderError} at once when no instance is there, {@link BusError} on time-out. */
  request<S extends RequestSubject>(subject: S, body: RequestInput<S>, options?: { timeoutMs?: number }): Promise<Reply>;
  /** Answers requests as an instance of a service; bodies are validated before the handler sees them. */
  serve(service: ServiceDefinition): Promise<{ stop(): Promise<void> }>;
  /**
   * Live services by name with their instances, from the services API. With `examine` each is asked what it says of its `readiness` just
   * now, which is among its `metadata` then; it is not where a service says nothing of that, or where we may not ask.
   */
  services(options?: {
    timeoutMs?: number;
    examine?: boolean;
  }): Promise<readonly { name: string; id: string; metadata: Record<string, string> }[]>;

  /** A small key-value bucket (JetStream KV), made when missing. Values are text. */
  bucket(name: string, options?: { ttlMs?: number; maxValueBytes?: number; maxBytes?: number }): Promise<Bucket>;

  /** Makes or widens the streams; only bootstrap calls it. Throws {@link BusError} with code `replicas_unsafe` by B8. */
  ensureStreams(definitions: readonly StreamDefinition[], options: { replicas: number }): Promise<void>;

  close(): Promise<void>;
}

export type BusStatus =
  | { readonly kind: "connected"; readonly server: string; readonly serverVersion: string }
  | { readonly kind: "disconnected"; readonly sinceMs: number; readonly reason: string }
  | { readonly kind: "closed" };

export interface Appended {
  readonly seq: number;
  readonly duplicate: boolean;
}
export type Fenced =
  | { readonly outcome: "won"; readonly seq: number }
  /** `last` is what stands there now, to decide anew from. */
  | { readonly outcome: "lost"; readonly last: Stored | null };

/** A message as it is in the log. */
export interface Stored {
  readonly stream: StreamName;
  readonly seq: number;
  readonly subject: string;
  /** The store's timestamp. */
  readonly timeMs: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly bytes: Uint8Array;
  readonly content: { readonly kind: "event"; readonly event: Event } | { readonly kind: "malformed"; readonly reason: string };
}

export interface StreamInfo {
  readonly firstSeq: number;
  readonly lastSeq: number;
  readonly messages: number;
  readonly bytes: number;
  readonly maxBytes: number;
  /** Not over 0: no limit. */
  readonly maxMessages?: number;
  readonly replicas: number;
}
export interface ReadOptions {
  readonly fromSeq?: number;
  readonly toSeq?: number;
  /** One NATS subject filter (nats-server 2.9 allows one). */
  readonly filter?: string;
}
export interface FollowOptions {
  /** `last_per_subject`: the last event of each subject first, then all that follows. */
  readonly from: "last_per_subject" | "new" | { readonly seq: number } | { readonly timeMs: number };
  readonly filter?: string;
  /** Called once, when all that was in the log at the start has been handed over (also when that was nothing). */
  readonly onCaughtUp?: () => void;
  /**
   * Called where the log turns out to be another than before (deleted and made again, restored from an older backup), before its first
   * event is handed over: sequences from before mean nothing in it. `onCaughtUp` is called again at its end. Without it following just
   * goes on there.
   */
  readonly onAnotherLog?: () => void;
  readonly onError?: (error: unknown, stored: Stored) => void;
  /** With more than so many events behind it for a while this reader is reported as slow; default 10,000. */
  readonly pendingMax?: number;
}
export interface Following {
  /** The last sequence handed over. */
  readonly seq: number;
  stop(): Promise<void>;
}

export interface QueueOptions {
  readonly filter: string;
  readonly ackWaitMs: number;
  readonly concurrency: number;
  /** Failures of the handler in this process after which a message is put into QUARANTINE; default `queueLimits` of contracts. */
  readonly failuresMax?: number;
  /** The same by the server's count of deliveries, which counts `later` and crashes too. */
  readonly deliveriesMax?: number;
}
export interface Delivery {
  readonly stored: Stored;
  /** 1 for the first. */
  readonly attempt: number;
}
export type QueueVerdict = { readonly kind: "done" } | { readonly kind: "later"; readonly delayMs: number };

export interface ServiceDefinition {
  readonly name: string;
  readonly instance: string;
  readonly version: string;
  readonly description: string;
  readonly metadata?: Record<string, string>;
  /** How it is just now, for those who examine it; called at each question. */
  readonly readiness?: () => string;
  /** A thrown {@link RefusedError} becomes the reply's error; anything else becomes `internal` without its text. */
  readonly handlers: { readonly [S in RequestSubject]?: (body: RequestOf<S>) => Promise<unknown> };
}

export interface Bucket {
  /** `storedMs`: the store's timestamp. */
  get(key: string): Promise<{ readonly value: string; readonly revision: number; readonly storedMs: number } | null>;
  /** Null when the key is taken. */
  create(key: string, value: string): Promise<number | null>;
  /** Null when `revision` is not the last one any more. */
  update(key: string, value: string, revision: number): Promise<number | null>;
  put(key: string, value: string): Promise<number>;
  delete(key: string): Promise<void>;
}

/** The bus could not do what was asked. `code` is stable. */
export class BusError extends Error {
  override readonly name: string = "BusError";
  readonly code: "unreachable" | "timeout" | "no_responders" | "rejected" | "replicas_unsafe" | "too_large" | "stream_full";
  readonly retriable: boolean;
  constructor(code: BusError["code"], message: string, options: { retriable: boolean; cause?: unknown }) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.retriable = options.retriable;
  }
}
/** No instance of the asked service is there. */
export class NoResponderError extends BusError {
  override readonly name = "NoResponderError";
  constructor(subject: string, service: string) {
    super("no_responders", `no instance of ${service} answers ${subject}: see that it runs (\`mcpf doctor\`)`, { retriable: true });
  }
}
/** Thrown by a request's handler: the asker gets code and message as they are, so they hold no secret. */
export class RefusedError extends Error {
  override readonly name = "RefusedError";
  readonly code: string;
  readonly retriable: boolean;
  constructor(code: string, message: string, retriable = false) {
    super(message);
    this.code = code;
    this.retriable = retriable;
  }
}
