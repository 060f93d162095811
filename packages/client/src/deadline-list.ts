/** What a {@link DeadlineList} keeps; its links are the entry's own, so that a call needs no further object. */
export interface Timed {
  before: Timed | null;
  after: Timed | null;
  /** Null: in no list. */
  list: DeadlineList | null;
  /** When it is due; NaN until the next tick has set it. */
  dueMs: number;
}

/** A tick is this part of the duration, between 2 and 100 ms. */
const ticksPerDuration = 20;
const tickMsMin = 2;
const tickMsMax = 100;

/**
 * One timer for all calls that have the same time-out: they begin in order, so they are due in order, and the first of a list is all that a timer has to
 * look at. It costs an insertion and a removal a call, and no look at the clock: what began since the last tick is taken to have begun at the tick.
 *
 * Nothing is due early. It is late by a tick at most (5 % of the duration, 100 ms at most), beside what the event loop is late by itself; on its own it is due
 * to the millisecond. An empty list holds no process up for longer than a tick: a tick that finds it empty is the last one, and a timer for the deadline of one
 * call ends with the last call.
 */
export class DeadlineList {
  readonly durationMs: number;
  readonly #tickMs: number;
  readonly #onDue: (entry: Timed) => void;
  #first: Timed | null = null;
  #last: Timed | null = null;
  /** The first of those that began since the last tick. */
  #unset: Timed | null = null;
  #timer: NodeJS.Timeout | undefined;
  /** A tick comes within `#tickMs`. */
  #ticking = false;

  constructor(durationMs: number, onDue: (entry: Timed) => void) {
    this.durationMs = durationMs;
    this.#tickMs = Math.min(tickMsMax, Math.max(tickMsMin, durationMs / ticksPerDuration));
    this.#onDue = onDue;
  }

  add(entry: Timed): void {
    const last = this.#last;
    entry.list = this;
    entry.before = last;
    if (last === null) this.#first = entry;
    else last.after = entry;
    this.#last = entry;
    if (this.#ticking) {
      this.#unset ??= entry;
      return;
    }
    const nowMs = performance.now();
    entry.dueMs = nowMs + this.durationMs;
    clearTimeout(this.#timer);
    // The timer that is replaced may have been for the first one, which would wait a second tick.
    this.#arm(Math.min(this.#tickMs, Math.max(1, (this.#first ?? entry).dueMs - nowMs)));
    this.#ticking = true;
  }

  remove(entry: Timed): void {
    const { before, after } = entry;
    if (before === null) this.#first = after;
    else before.after = after;
    if (after === null) this.#last = before;
    else after.before = before;
    if (this.#unset === entry) this.#unset = after;
    entry.list = null;
    entry.before = null;
    entry.after = null;
    if (this.#first !== null || this.#ticking || this.#timer === undefined) return;
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #arm(delayMs: number): void {
    this.#timer = setTimeout(() => this.#tick(), delayMs);
  }

  #tick(): void {
    this.#timer = undefined;
    this.#ticking = false;
    const nowMs = performance.now();
    for (let entry = this.#unset; entry !== null; entry = entry.after) entry.dueMs = nowMs + this.durationMs;
    this.#unset = null;
    for (let entry = this.#first; entry !== null && entry.dueMs <= nowMs; entry = this.#first) {
      this.remove(entry);
      this.#onDue(entry);
    }
    // What was due may have begun others, which have armed it already.
    if (this.#first !== null && this.#timer === undefined) this.#arm(Math.max(1, this.#first.dueMs - nowMs));
  }
}
