/** When somebody stops waiting: what is used of an `AbortSignal`, which does as one. */
export interface Ending {
  readonly aborted: boolean;
  readonly reason: unknown;
  addEventListener(type: "abort", listener: () => void): void;
  removeEventListener(type: "abort", listener: () => void): void;
}

/**
 * The time-out of one probe. It is an {@link Ending} by itself, for a tenth of what a signal costs; who needs a real one takes `signal`.
 * It ends early when the prober stops.
 */
export class Deadline implements Ending {
  readonly timeoutMs: number;
  aborted = false;
  reason: unknown;
  readonly #startedMs = performance.now();
  readonly #timer: NodeJS.Timeout;
  #firedAfterMs: number | null = null;
  /** Nearly always one, or none. */
  #listeners: readonly (() => void)[] = [];
  #aborter: AbortController | null = null;

  constructor(timeoutMs: number) {
    this.timeoutMs = timeoutMs;
    this.#timer = setTimeout(() => {
      this.#firedAfterMs = Math.round(performance.now() - this.#startedMs);
      this.end();
    }, timeoutMs);
  }

  /** After how long the time-out fired; null: it has not. */
  get firedAfterMs(): number | null {
    return this.#firedAfterMs;
  }
  get signal(): AbortSignal {
    if (this.#aborter === null) {
      this.#aborter = new AbortController();
      if (this.aborted) this.#aborter.abort(this.reason);
    }
    return this.#aborter.signal;
  }
  addEventListener(_type: "abort", listener: () => void): void {
    this.#listeners = [...this.#listeners, listener];
  }
  removeEventListener(_type: "abort", listener: () => void): void {
    this.#listeners =
      this.#listeners.length === 1 && this.#listeners[0] === listener ? [] : this.#listeners.filter((one) => one !== listener);
  }

  /** Ends the probe now. */
  end(): void {
    if (this.aborted) return;
    this.aborted = true;
    this.reason = new DOMException("the probe has ended", "AbortError");
    clearTimeout(this.#timer);
    this.#aborter?.abort(this.reason);
    for (const listener of this.#listeners) listener();
  }
  /** The probe has ended by itself. */
  clear(): void {
    clearTimeout(this.#timer);
  }
}
