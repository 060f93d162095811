import type { Fallback } from "./breaker-options.ts";
import type { DeadlineList, Timed } from "./deadline-list.ts";

/** What the function of a call is given. */
export interface BreakerContext {
  /** Aborted when the time of the call is over, or its caller cancels. Pass it on to whatever the function waits for. Made when it is first read. */
  readonly signal: AbortSignal;
  /** 1 for the first. */
  readonly attempt: number;
}

/** How an attempt failed, for whoever may make another: an error's class does not say whose it is, as breakers can be within breakers. */
export interface AttemptNote {
  /** Whether its function was called. Null: it has not failed, its caller went away, or its error does not count. */
  called: boolean | null;
}

/** How a call is made; calls without options of their own share one. */
export interface CallSpec {
  readonly signal: AbortSignal | undefined;
  /** What is left of its time. */
  readonly timeoutMs: number | null;
  /** Its time before it waited for a place: what its errors tell, and its fallback has. */
  readonly wholeMs: number | null;
  readonly idempotent: boolean;
  readonly fallback: Fallback<unknown> | undefined;
  readonly attempt: number;
  /** Of an attempt that others may follow. */
  readonly note: AttemptNote | null;
}

/** Whoever made a call hears that its caller cancels. */
export interface CallOwner {
  cancel(call: Call): void;
}

/** One call of a function. It is the function's context, the entry of a deadline list and the listener of its caller's signal at once. */
export class Call implements BreakerContext, Timed {
  before: Timed | null = null;
  after: Timed | null = null;
  list: DeadlineList | null = null;
  dueMs = Number.NaN;
  readonly owner: CallOwner;
  readonly spec: CallSpec;
  readonly permit: number;
  /** NaN: the latency is not asked for. */
  startMs = Number.NaN;
  /** The caller has its answer. */
  ended = false;
  /** It has its place in the bulkhead: until its function has settled, or is given up. */
  placed = true;
  /** Counted as slow while it was still out. */
  late = false;
  /** Null: its function's own promise is what the caller has. */
  resolve: ((value: unknown) => void) | null = null;
  /** Of a time-out of its own; after the end, of the function that goes on. */
  timer: NodeJS.Timeout | undefined = undefined;
  #controller: AbortController | null = null;
  #aborted = false;
  #abortReason: unknown = undefined;

  constructor(owner: CallOwner, spec: CallSpec, permit: number) {
    this.owner = owner;
    this.spec = spec;
    this.permit = permit;
  }

  get attempt(): number {
    return this.spec.attempt;
  }

  get signal(): AbortSignal {
    if (this.#controller === null) {
      this.#controller = new AbortController();
      if (this.#aborted) this.#controller.abort(this.#abortReason);
    }
    return this.#controller.signal;
  }

  abort(reason: unknown): void {
    this.#aborted = true;
    this.#abortReason = reason;
    this.#controller?.abort(reason);
  }

  /** Of the caller's signal. */
  handleEvent(): void {
    this.owner.cancel(this);
  }
}
