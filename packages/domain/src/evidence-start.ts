import { isOfAnotherClock } from "./store-time.ts";

interface Heard {
  readonly seq: number;
  /** The store's. */
  readonly timeMs: number;
}

/** Where evidence begins in SIGNALS, in the store's time: behind whatever this process slept through, and by its present clock. */
export class EvidenceStart {
  #last: Heard = { seq: 0, timeMs: 0 };
  #start = { fromMs: 0, afterSeq: 0 };

  /** The signal folded last. */
  get last(): Heard {
    return this.#last;
  }

  /** A signal is folded. `freshAfterSeq`: up to there is no evidence, as far as is known now. */
  hear({ seq, timeMs }: Heard, freshAfterSeq: number): void {
    // Before this one is the last: it may be the first that counts.
    this.fromMs(freshAfterSeq);
    // The store's clock was set back (ST1): all that counts comes from here.
    if (isOfAnotherClock(this.#last.timeMs, timeMs)) this.#start = { fromMs: timeMs, afterSeq: freshAfterSeq };
    this.#last = { seq, timeMs };
  }

  /** Until a new gap is read past, and in the moment in which it becomes known, all that was read so far lies before it. */
  fromMs(freshAfterSeq: number): number {
    if (freshAfterSeq !== this.#start.afterSeq || this.#last.seq <= freshAfterSeq) {
      this.#start = { fromMs: freshAfterSeq === 0 ? 0 : this.#last.timeMs + 1, afterSeq: freshAfterSeq };
    }
    return this.#start.fromMs;
  }
}
