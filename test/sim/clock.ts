import nodeCrypto from "node:crypto";
import { syncBuiltinESMExports } from "node:module";
import type { EventQueue, QueuedEvent } from "./event-queue.ts";
import { Random } from "./random.ts";

/**
 * The machines and processes of a run, and the globals that simulated processes see.
 *
 * Q4  Inside an event, timers, clocks and randomness are those of its process. Outside of events they are the real ones.
 */

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
