import type { BreakerStatus } from "@mcp-failover/contracts";
import type { BreakerOpenError, BulkheadFullError, CallTimeoutError } from "./errors.ts";
import { tellListener } from "./listener.ts";

export interface BreakerChange {
  readonly from: BreakerStatus;
  readonly to: BreakerStatus;
  readonly generation: number;
  /** One sentence for people. */
  readonly reason: string;
}

/** What a breaker says, by name. `latencyMs` is null where it is not measured. */
export interface BreakerEvents {
  success: { readonly latencyMs: number | null };
  /** It counts against the function. */
  failure: { readonly error: unknown; readonly latencyMs: number | null };
  /** The function failed, and it does not count: the caller's own mistake. */
  ignored: { readonly error: unknown };
  timeout: { readonly error: CallTimeoutError };
  /** The caller went away. */
  cancel: { readonly reason: unknown };
  /** The breaker is open; the function was not called. */
  reject: { readonly error: BreakerOpenError };
  /** The bulkhead and its queue are full; the function was not called. */
  full: { readonly error: BulkheadFullError; readonly running: number; readonly waiting: number };
  /** A call takes longer than `slowMs`, or took. */
  slow: { readonly latencyMs: number };
  retry: { readonly attempt: number; readonly error: unknown };
  fallback: { readonly error: unknown };
  change: BreakerChange;
  open: BreakerChange;
  half_open: BreakerChange;
  close: BreakerChange;
}

export type BreakerEvent = keyof BreakerEvents;
type Listener<E extends BreakerEvent> = (event: BreakerEvents[E]) => void;

/** Listeners by event. A listener that throws breaks no call: `onError` hears of it. */
export class BreakerListeners {
  readonly #by = new Map<BreakerEvent, Set<(event: never) => void>>();
  readonly #onError: (error: unknown) => void;
  /** Somebody listens to calls that end, so that their latency is wanted. */
  wantsLatency = false;
  /** Somebody listens to something. */
  any = false;

  constructor(onError: (error: unknown) => void) {
    this.#onError = onError;
  }

  on<E extends BreakerEvent>(event: E, listener: Listener<E>): () => void {
    const listeners = this.#by.get(event) ?? new Set();
    this.#by.set(event, listeners);
    // Each registration is its own, also of the same function.
    const own = (value: BreakerEvents[E]): unknown => listener(value);
    listeners.add(own);
    this.#look();
    return () => {
      listeners.delete(own);
      if (listeners.size === 0) this.#by.delete(event);
      this.#look();
    };
  }

  emit<E extends BreakerEvent>(event: E, value: BreakerEvents[E]): void {
    for (const listener of this.#by.get(event) ?? []) tellListener(listener as Listener<E>, value, this.#onError);
  }

  /** A rule of the caller's that says `otherwise` where it throws, so that its call has an answer all the same. */
  guard<R>(rule: (of: unknown) => R, otherwise: R): (of: unknown) => R {
    return (of) => {
      try {
        return rule(of);
      } catch (error) {
        this.#onError(error);
        return otherwise;
      }
    };
  }

  #look(): void {
    this.any = this.#by.size > 0;
    this.wantsLatency = this.#by.has("success") || this.#by.has("failure");
  }
}
