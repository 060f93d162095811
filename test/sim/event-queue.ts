import type { SimProcess } from "./clock.ts";

/**
 * The event queue of a run.
 *
 * Q1  Events run in order of time, and of their making at one time: a run has one order.
 * Q2  One event touches one process, or none: whatever reaches another process is an event of its own. So the code that runs, and every
 *     microtask that it leaves behind, belongs to the process of the event, and no context has to be carried along.
 * Q3  Microtasks are drained after each event that may leave some. A process that has ended gets no event any more, so its promises never go on.
 */
export interface QueuedEvent {
  atMs: number;
  order: number;
  readonly process: SimProcess | null;
  run(): void;
  cancelled: boolean;
  /** It leaves no microtask behind. */
  readonly quiet: boolean;
}

type OnError = (process: SimProcess | null, error: unknown) => void;

/** Drains microtasks and rejections now. It may only be called outside of any promise job: the loop is run by a `setImmediate`. */
const drain = (process as unknown as { _tickCallback(): void })._tickCallback;

/** Time is cut into slots; what is due within so many of them lies in its slot, and the rest, a few time-outs, in a heap. */
const slotMs = 8;
const slotCount = 512;
const slotMask = slotCount - 1;
/** So many events are put in order one by one. */
const fewMax = 8;

export class EventQueue {
  nowMs = 0;
  /** Whose event runs now; null: none, or one of the world itself. */
  current: SimProcess | null = null;
  ran = 0;
  #order = 0;
  /** What is due in the slot that is being run, or before it; the next one is the last. */
  readonly #soon: QueuedEvent[] = [];
  /** Number of that slot, from the begin of the run. */
  #slot = 0;
  /** The slots after it, as they came; by their number's last bits. */
  readonly #slots: readonly QueuedEvent[][] = Array.from({ length: slotCount }, () => []);
  /** A bit for each slot that holds anything. */
  readonly #filled = new Int32Array(slotCount / 32);
  readonly #later: QueuedEvent[] = [];
  #stopped = false;
  readonly #onError: OnError;

  constructor(onError: OnError) {
    this.#onError = onError;
  }

  /** At a true time; `process` null: an event of the world. */
  at(atMs: number, process: SimProcess | null, run: () => void, quiet = false): QueuedEvent {
    const event = { atMs: Math.max(atMs, this.nowMs), order: 0, process, run, cancelled: false, quiet };
    this.push(event);
    return event;
  }

  after(delayMs: number, process: SimProcess | null, run: () => void): QueuedEvent {
    return this.at(this.nowMs + delayMs, process, run);
  }

  push(event: QueuedEvent): void {
    this.#order += 1;
    event.order = this.#order;
    this.#put(event);
  }

  /** Ends the run after the event that runs now. */
  stop(): void {
    this.#stopped = true;
  }

  /** Drains what the event that runs now has left so far. Only from an event's own code, never from a promise job. */
  drain(): void {
    drain();
  }

  /** Runs everything until a true time. Call it from a macrotask. */
  run(untilMs: number): void {
    const onRejection = (error: unknown): void => this.#onError(this.current, error);
    process.on("unhandledRejection", onRejection);
    try {
      for (let event = this.#next(); event !== undefined && event.atMs <= untilMs && !this.#stopped; event = this.#next()) {
        this.#soon.pop();
        if (event.cancelled) continue;
        const { process: owner } = event;
        if (event.atMs > this.nowMs) this.nowMs = event.atMs;
        if (owner !== null) {
          if (!owner.alive) continue;
          if (owner.pausedUntilMs > this.nowMs) {
            // What waits keeps its order.
            event.atMs = owner.pausedUntilMs;
            this.#put(event);
            continue;
          }
        }
        this.ran += 1;
        this.current = owner;
        try {
          event.run();
        } catch (error) {
          this.#onError(owner, error);
        }
        if (!event.quiet) drain();
        this.current = null;
      }
      if (!this.#stopped) this.nowMs = untilMs;
    } finally {
      this.current = null;
      process.off("unhandledRejection", onRejection);
    }
  }

  #put(event: QueuedEvent): void {
    const slot = Math.floor(event.atMs / slotMs);
    if (slot <= this.#slot) insert(this.#soon, event);
    else if (slot - this.#slot < slotCount) {
      const index = slot & slotMask;
      (this.#slots[index] as QueuedEvent[]).push(event);
      this.#filled[index >> 5] = (this.#filled[index >> 5] as number) | (1 << (index & 31));
    } else siftUp(this.#later, event);
  }

  /** The event that is due first; it stays where it is. */
  #next(): QueuedEvent | undefined {
    if (this.#soon.length === 0) this.#turn();
    return this.#soon.at(-1);
  }

  /** On to the next slot that holds anything. */
  #turn(): void {
    const later = this.#later;
    const [first] = later;
    const laterSlot = first === undefined ? Number.POSITIVE_INFINITY : Math.floor(first.atMs / slotMs);
    const slot = Math.min(this.#nextFilled(), laterSlot);
    if (slot === Number.POSITIVE_INFINITY) return;
    this.#slot = slot;
    const index = slot & slotMask;
    const filled = this.#slots[index] as QueuedEvent[];
    if (filled.length > 0) {
      this.#filled[index >> 5] = (this.#filled[index >> 5] as number) & ~(1 << (index & 31));
      if (filled.length > fewMax) filled.sort(earliestFirst);
      // Most came in order, so that the last is the first to go in.
      for (let last = filled.pop(); last !== undefined; last = filled.pop()) insert(this.#soon, last);
    }
    while (later[0] !== undefined && Math.floor(later[0].atMs / slotMs) <= slot) insert(this.#soon, takeFirst(later));
  }

  /** The number of the first slot after this one that holds anything, of those that are near. */
  #nextFilled(): number {
    const from = (this.#slot + 1) & slotMask;
    let word = from >> 5;
    let bits = (this.#filled[word] as number) & (-1 << (from & 31));
    // Once around, and the first word again for what lies before `from` in it.
    for (let looked = 0; looked <= this.#filled.length; looked += 1) {
      if (bits !== 0) {
        const index = (word << 5) + 31 - Math.clz32(bits & -bits);
        return this.#slot + 1 + ((index - from) & slotMask);
      }
      word = (word + 1) & (this.#filled.length - 1);
      bits = this.#filled[word] as number;
    }
    return Number.POSITIVE_INFINITY;
  }
}

function earliestFirst(a: QueuedEvent, b: QueuedEvent): number {
  return a.atMs - b.atMs || a.order - b.order;
}

function isBefore(a: QueuedEvent, b: QueuedEvent): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
}

/** Into a short list whose last is due first. */
function insert(list: QueuedEvent[], event: QueuedEvent): void {
  let index = list.length;
  list.push(event);
  for (; index > 0; index -= 1) {
    const other = list[index - 1] as QueuedEvent;
    if (isBefore(event, other)) break;
    list[index] = other;
  }
  list[index] = event;
}

function siftUp(heap: QueuedEvent[], event: QueuedEvent): void {
  let index = heap.length;
  heap.push(event);
  while (index > 0) {
    const parentIndex = (index - 1) >> 1;
    const parent = heap[parentIndex] as QueuedEvent;
    if (isBefore(parent, event)) break;
    heap[index] = parent;
    index = parentIndex;
  }
  heap[index] = event;
}

function takeFirst(heap: QueuedEvent[]): QueuedEvent {
  const first = heap[0] as QueuedEvent;
  const last = heap.pop() as QueuedEvent;
  const { length } = heap;
  if (length === 0) return first;
  let index = 0;
  for (;;) {
    let childIndex = 2 * index + 1;
    if (childIndex >= length) break;
    const otherIndex = childIndex + 1;
    if (otherIndex < length && isBefore(heap[otherIndex] as QueuedEvent, heap[childIndex] as QueuedEvent)) childIndex = otherIndex;
    const child = heap[childIndex] as QueuedEvent;
    if (isBefore(last, child)) break;
    heap[index] = child;
    index = childIndex;
  }
  heap[index] = last;
  return first;
}
