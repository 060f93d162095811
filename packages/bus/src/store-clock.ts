/** Messages older than this say nothing of how far the store's clock is from ours: ours may run fast or slow. */
const windowMs = 5000;

/**
 * The store's clock as this process can tell it: the time of what the store has just taken, and what has passed here since by the clock that
 * cannot be set. A decision is stamped with it, so that a machine whose clock is wrong decides nothing for another time than the others; and what a
 * decision says of a time (until when a breaker is open) is compared with it. It is never ahead of the store's, only behind by what a message takes.
 */
export class StoreClock {
  readonly #monotonicMs: () => number;
  /** The greatest difference within this window and the one before: a message may come late, but never early. */
  #window = { fromMs: 0, offsetMs: Number.NEGATIVE_INFINITY };
  #beforeMs = Number.NEGATIVE_INFINITY;
  #heedFromMs = Number.NEGATIVE_INFINITY;

  constructor(monotonicMs: () => number) {
    this.#monotonicMs = monotonicMs;
  }

  /** The connection is back: what comes at first may have been stored long ago. For who hears too little to be put right by what follows. */
  reconnected(): void {
    this.#heedFromMs = this.#monotonicMs() + windowMs;
  }

  /** A message that was stored just now came in. */
  hear(timeMs: number): void {
    const nowMs = this.#monotonicMs();
    const known = this.#offsetMs();
    if (nowMs < this.#heedFromMs && (known === null || timeMs - nowMs <= known)) return;
    if (nowMs - this.#window.fromMs >= windowMs) {
      // Also after a long silence: the first message of a new window may be one that comes late.
      this.#beforeMs = this.#window.offsetMs;
      this.#window = { fromMs: nowMs, offsetMs: Number.NEGATIVE_INFINITY };
    }
    this.#window.offsetMs = Math.max(this.#window.offsetMs, timeMs - nowMs);
  }

  /** Null: nothing was heard yet. */
  nowMs(): number | null {
    const offsetMs = this.#offsetMs();
    return offsetMs === null ? null : this.#monotonicMs() + offsetMs;
  }

  #offsetMs(): number | null {
    const offsetMs = Math.max(this.#window.offsetMs, this.#beforeMs);
    return offsetMs === Number.NEGATIVE_INFINITY ? null : offsetMs;
  }
}
