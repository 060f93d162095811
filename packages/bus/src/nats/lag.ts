/** Behind by more than this on the server for so long, a reader is slow: a burst, or what came while it was away, is read sooner. */
const behindMs = 10_000;
/** A handler that is at work for longer holds up all that follows. */
const handlerMs = 30_000;

/** How far behind a reader of a stream is, by what the server says with each message. */
export class Lag {
  /** What waited, on the server and here, when the last message was handed over. */
  pending = 0;
  readonly stream: string;
  readonly filter: string;
  readonly #pendingMax: number;
  readonly #nowMs: () => number;
  #behindSinceMs: number | null = null;
  #handlingSinceMs: number | null = null;

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
  begun(): void {
    this.#handlingSinceMs = this.#nowMs();
  }
  ended(): void {
    this.#handlingSinceMs = null;
  }

  /** Why this reader is slow, or null. The text stays as it is for as long as that lasts. */
  get slow(): string | null {
    const nowMs = this.#nowMs();
    const what = this.filter === ">" ? this.stream : `${this.stream} (${this.filter})`;
    if (this.#handlingSinceMs !== null && nowMs - this.#handlingSinceMs >= handlerMs)
      return `one message of ${what} is being handled for more than ${handlerMs / 1000} s, and all behind it waits: see the log, restart the service where that says nothing`;
    if (this.#behindSinceMs !== null && nowMs - this.#behindSinceMs >= behindMs)
      return `more than ${this.#pendingMax} messages of ${what} wait for more than ${behindMs / 1000} s: give this service more processor time, or publish less`;
    return null;
  }
}
