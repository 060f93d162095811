import nodeCrypto from "node:crypto";
import { syncBuiltinESMExports } from "node:module";
import { Random } from "./random.ts";

/**
 * The event queue of a run, and the globals that simulated processes see.
 *
 * Q1  Events run in order of time, and of their making at one time: a run has one order.
 * Q2  One event touches one process, or none: whatever reaches another process is an event of its own. So the code that runs, and every
 *     microtask that it leaves behind, belongs to the process of the event, and no context has to be carried along.
 * Q3  Microtasks are drained after each event that may leave some. A process that has ended gets no event any more, so its promises never go on.
 * Q4  Inside an event, timers, clocks and randomness are those of its process. Outside of events they are the real ones.
 */
interface QueuedEvent {
  atMs: number;
  order: number;
  readonly process: SimProcess | null;
  run(): void;
  cancelled: boolean;
  /** It leaves no microtask behind. */
  readonly quiet: boolean;
}

/** A machine: its clocks go on while the processes on it come and go. */
export class Host {
  readonly name: string;
  readonly #queue: EventQueue;
  /** True time, wall clock and monotonic clock at the last change of the rate. */
  #since: { readonly atMs: number; readonly wallMs: number; readonly monotonicMs: number };
  #rate = 1;

  constructor(queue: EventQueue, name: string, wallMs: number) {
    this.#queue = queue;
    this.name = name;
    this.#since = { atMs: queue.nowMs, wallMs, monotonicMs: 1000 };
  }

  get wallMs(): number {
    return this.#since.wallMs + (this.#queue.nowMs - this.#since.atMs) * this.#rate;
  }
  get monotonicMs(): number {
    return this.#since.monotonicMs + (this.#queue.nowMs - this.#since.atMs) * this.#rate;
  }
  get rate(): number {
    return this.#rate;
  }

  /** Both clocks run at this rate from now on; 1 is true. */
  setRate(rate: number): void {
    this.#since = { atMs: this.#queue.nowMs, wallMs: this.wallMs, monotonicMs: this.monotonicMs };
    this.#rate = rate;
  }

  /** The wall clock is set; the monotonic one goes on. */
  jump(byMs: number): void {
    this.#since = { atMs: this.#queue.nowMs, wallMs: this.wallMs + byMs, monotonicMs: this.monotonicMs };
  }
}

/** One life of a simulated process, from its start to its end. */
export class SimProcess {
  readonly name: string;
  readonly host: Host;
  readonly random: Random;
  alive = true;
  /** True time until which it stands still. */
  pausedUntilMs = 0;
  readonly #startedMonotonicMs: number;
  #names = 0;

  constructor(name: string, host: Host, seed: number) {
    this.name = name;
    this.host = host;
    this.random = new Random(seed);
    this.#startedMonotonicMs = host.monotonicMs;
  }

  get performanceNowMs(): number {
    return this.host.monotonicMs - this.#startedMonotonicMs;
  }

  /** A name in the form of a UUID, unlike any other of this process. */
  uuid(): `${string}-${string}-${string}-${string}-${string}` {
    this.#names += 1;
    return `00000000-0000-4000-8000-${this.#names}`;
  }
}

type OnError = (process: SimProcess | null, error: unknown) => void;

/** Drains microtasks and rejections now. It may only be called outside of any promise job: the loop is run by a `setImmediate`. */
const drain = (process as unknown as { _tickCallback(): void })._tickCallback;

export class EventQueue {
  nowMs = 0;
  /** Whose event runs now; null: none, or one of the world itself. */
  current: SimProcess | null = null;
  ran = 0;
  #order = 0;
  #heap: QueuedEvent[] = [];
  /** Times and orders of what is in the heap, place by place: to look them up in the events themselves took most of the queue's time. */
  #times = new Float64Array(1024);
  #orders = new Float64Array(1024);
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
    this.#sift(event);
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
      for (let event = this.#heap[0]; event !== undefined && event.atMs <= untilMs && !this.#stopped; event = this.#heap[0]) {
        this.#pop();
        if (event.cancelled) continue;
        const { process: owner } = event;
        if (event.atMs > this.nowMs) this.nowMs = event.atMs;
        if (owner !== null) {
          if (!owner.alive) continue;
          if (owner.pausedUntilMs > this.nowMs) {
            // What waits keeps its order.
            event.atMs = owner.pausedUntilMs;
            this.#sift(event);
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

  #sift(event: QueuedEvent): void {
    const heap = this.#heap;
    let index = heap.length;
    heap.push(event);
    if (index >= this.#times.length) this.#grow();
    const times = this.#times;
    const orders = this.#orders;
    const { atMs, order } = event;
    while (index > 0) {
      const parentIndex = (index - 1) >> 1;
      const parentMs = times[parentIndex] as number;
      if (parentMs < atMs || (parentMs === atMs && (orders[parentIndex] as number) < order)) break;
      this.#move(parentIndex, index);
      index = parentIndex;
    }
    heap[index] = event;
    times[index] = atMs;
    orders[index] = order;
  }

  #move(from: number, to: number): void {
    this.#heap[to] = this.#heap[from] as QueuedEvent;
    this.#times[to] = this.#times[from] as number;
    this.#orders[to] = this.#orders[from] as number;
  }

  #grow(): void {
    const [times, orders] = [this.#times, this.#orders];
    this.#times = new Float64Array(2 * times.length);
    this.#times.set(times);
    this.#orders = new Float64Array(2 * orders.length);
    this.#orders.set(orders);
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop();
    const { length } = heap;
    if (last === undefined || length === 0) return;
    const times = this.#times;
    const orders = this.#orders;
    const atMs = times[length] as number;
    const order = orders[length] as number;
    let index = 0;
    for (;;) {
      let childIndex = 2 * index + 1;
      if (childIndex >= length) break;
      const otherIndex = childIndex + 1;
      if (otherIndex < length && this.#isBefore(otherIndex, childIndex)) childIndex = otherIndex;
      const childMs = times[childIndex] as number;
      if (atMs < childMs || (atMs === childMs && order < (orders[childIndex] as number))) break;
      this.#move(childIndex, index);
      index = childIndex;
    }
    heap[index] = last;
    times[index] = atMs;
    orders[index] = order;
  }

  #isBefore(a: number, b: number): boolean {
    const [aMs, bMs] = [this.#times[a] as number, this.#times[b] as number];
    return aMs < bMs || (aMs === bMs && (this.#orders[a] as number) < (this.#orders[b] as number));
  }
}

/** What a simulated process gets from `setTimeout` and `setInterval`. */
class SimTimer implements QueuedEvent {
  atMs: number;
  order = 0;
  readonly process: SimProcess;
  cancelled = false;
  readonly quiet = false;
  readonly #queue: EventQueue;
  readonly #callback: () => void;
  readonly #delayMs: number;
  readonly #repeats: boolean;

  constructor(queue: EventQueue, owner: SimProcess, callback: () => void, delayMs: number, repeats: boolean) {
    this.#queue = queue;
    this.process = owner;
    this.#callback = callback;
    this.#delayMs = delayMs;
    this.#repeats = repeats;
    this.atMs = this.#dueMs();
    queue.push(this);
  }

  run(): void {
    if (!this.#repeats) {
      this.#callback();
      return;
    }
    try {
      this.#callback();
    } finally {
      if (!this.cancelled) {
        this.atMs = this.#dueMs();
        this.#queue.push(this);
      }
    }
  }
  refresh(): SimTimer {
    this.cancelled = true;
    return new SimTimer(this.#queue, this.process, this.#callback, this.#delayMs, this.#repeats);
  }
  ref(): this {
    return this;
  }
  unref(): this {
    return this;
  }
  hasRef(): boolean {
    return true;
  }
  close(): this {
    this.cancelled = true;
    return this;
  }

  /** A timer counts by the clock of its machine. */
  #dueMs(): number {
    return this.#queue.nowMs + this.#delayMs / this.process.host.rate;
  }
}

let active: EventQueue | null = null;
let installed = false;

/** Sees to it that the globals ask this queue, from now on. Once a thread the globals are replaced; they stay real outside of events. */
export function useQueue(queue: EventQueue | null): void {
  active = queue;
  if (installed) return;
  installed = true;
  const { setTimeout: realSetTimeout, setInterval: realSetInterval, setImmediate: realSetImmediate } = globalThis;
  const { clearTimeout: realClear, clearImmediate: realClearImmediate, Date: RealDate } = globalThis;
  const realRandom = Math.random;
  const realPerformanceNow = performance.now.bind(performance);
  const realUuid = nodeCrypto.randomUUID;

  const timer =
    (repeats: boolean, real: (...args: never[]) => unknown) =>
    (callback: (...args: unknown[]) => void, delayMs?: number, ...args: unknown[]): unknown => {
      const owner = active?.current;
      if (active === null || owner == null) return (real as (...all: unknown[]) => unknown)(callback, delayMs, ...args);
      const run = args.length === 0 ? (callback as () => void) : () => callback(...args);
      const whole = Math.trunc(Number(delayMs));
      return new SimTimer(active, owner, run, whole >= 1 && whole <= 0x7fff_ffff ? whole : 1, repeats);
    };
  const clear =
    (real: (handle: never) => void) =>
    (handle: unknown): void => {
      if (handle instanceof SimTimer) handle.cancelled = true;
      else if (handle !== undefined && handle !== null) real(handle as never);
    };
  const immediate = (callback: (...args: unknown[]) => void, ...args: unknown[]): unknown => {
    const owner = active?.current;
    if (active === null || owner == null) return realSetImmediate(callback, ...args);
    return new SimTimer(active, owner, () => callback(...args), 0, false);
  };

  class SimDate extends RealDate {
    constructor(value?: unknown, ...more: unknown[]) {
      if (more.length > 0) super(...([value, ...more] as [number, number]));
      else super((value === undefined ? SimDate.now() : value) as number);
    }
    static override now(): number {
      const owner = active?.current;
      return owner == null ? RealDate.now() : Math.floor(owner.host.wallMs);
    }
  }

  Object.assign(globalThis, {
    setTimeout: timer(false, realSetTimeout as never),
    setInterval: timer(true, realSetInterval as never),
    setImmediate: immediate,
    clearTimeout: clear(realClear as never),
    clearInterval: clear(realClear as never),
    clearImmediate: clear(realClearImmediate as never),
    Date: SimDate,
  });
  Math.random = () => active?.current?.random.next() ?? realRandom();
  performance.now = () => active?.current?.performanceNowMs ?? realPerformanceNow();
  nodeCrypto.randomUUID = ((options?: { disableEntropyCache?: boolean }) =>
    active?.current?.uuid() ?? realUuid(options)) as typeof nodeCrypto.randomUUID;
  syncBuiltinESMExports();
}
