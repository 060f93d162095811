/** Behind by more than this on the server for so long, a reader is slow: a burst, or what came while it was away, is read sooner. */
const behindMs = 10_000;
/** A handler that is at work for longer holds up all that follows. */
const handlerMs = 30_000;
/** A reader that nothing is read by for so long is deaf: new consumers are had in a moment, also where a server has just started. */
const unreadMs = 10_000;

/** How far behind a reader of a stream is, by what the server says with each message; and whether it reads at all. */
export class Lag {
  /** What waited, on the server and here, when the last message was handed over. */
  pending = 0;
  readonly stream: string;
  readonly filter: string;
  readonly #pendingMax: number;
  readonly #nowMs: () => number;
  #behindSinceMs: number | null = null;
  #unreadSinceMs: number | null = null;
  #unreadFor = "the server does not answer";
  /** When each that is at work was begun, the oldest first. */
  readonly #handlingSinceMs = new Map<number, number>();
  #begun = 0;

  constructor(stream: string, filter: string, pendingMax: number, nowMs: () => number = () => performance.now()) {
    this.stream = stream;
    this.filter = filter;
    this.#pendingMax = pendingMax;
    this.#nowMs = nowMs;
  }

  /** A message came, and so many more wait. Behind from `pendingMax` on, until half of that: what hovers there must not flap. */
  delivered(pending: number): void {
    this.pending = pending;
    if (pending > this.#pendingMax) this.#behindSinceMs ??= this.#nowMs();
    else if (pending <= this.#pendingMax / 2) this.#behindSinceMs = null;
  }
  /** A handler begins; what this gives ends it. */
  begun(): number {
    this.#begun += 1;
    this.#handlingSinceMs.set(this.#begun, this.#nowMs());
    return this.#begun;
  }
  ended(begun: number): void {
    this.#handlingSinceMs.delete(begun);
  }

  /** A consumer is wanted: until the server answers on one nothing is read. */
  opening(): void {
    this.#unreadSinceMs ??= this.#nowMs();
  }
  /** Why there is none. What has been told is not changed any more: each failure may say it in other words. */
  failed(reason: string): void {
    this.opening();
    if (!this.#isDeaf) this.#unreadFor = reason;
  }
  /** The server has answered on a consumer, or there is no connection, which is told elsewhere. */
  settled(): void {
    this.#unreadSinceMs = null;
  }

  /** Why nothing is read any more, or null. */
  get deaf(): string | null {
    if (!this.#isDeaf) return null;
    return `${this.stream} cannot be read (${this.#unreadFor}): see that JetStream answers, that ${this.stream} has a leader, and that a keeper runs where the server has accounts`;
  }
  get #isDeaf(): boolean {
    return this.#unreadSinceMs !== null && this.#nowMs() - this.#unreadSinceMs >= unreadMs;
  }

  /** Why this reader is slow, or null. The text stays as it is for as long as that lasts. */
  get slow(): string | null {
    const nowMs = this.#nowMs();
    const { deaf } = this;
    if (deaf !== null) return deaf;
    const what = this.filter === ">" ? this.stream : `${this.stream} (${this.filter})`;
    const [oldestMs = nowMs] = this.#handlingSinceMs.values();
    if (nowMs - oldestMs >= handlerMs)
      return `one message of ${what} is being handled for more than ${handlerMs / 1000} s, and what is behind it waits: see the log, restart the service where that says nothing`;
    if (this.#behindSinceMs !== null && nowMs - this.#behindSinceMs >= behindMs)
      return `more than ${this.#pendingMax} messages of ${what} wait for more than ${behindMs / 1000} s: give this service more processor time, or publish less`;
    return null;
  }
}
