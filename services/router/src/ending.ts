/**
 * What of an `AbortSignal` an exchange uses. Every call can be ended, and hardly any is: a real signal and the listeners on it cost a call
 * more than its parsing does.
 */
export interface EndSignal {
  readonly aborted: boolean;
  readonly reason: unknown;
  addEventListener(type: "abort", listener: () => void, options?: { readonly once?: boolean }): void;
  removeEventListener(type: "abort", listener: () => void): void;
}

/** Ends what listens to it, once. */
export class Ending implements EndSignal {
  aborted = false;
  reason: unknown = undefined;
  #listeners: readonly (() => void)[] = none;

  abort(reason: unknown): void {
    if (this.aborted) return;
    this.aborted = true;
    this.reason = reason;
    const listeners = this.#listeners;
    this.#listeners = none;
    for (const listener of listeners) listener();
  }
  addEventListener(_type: "abort", listener: () => void): void {
    if (this.aborted || this.#listeners.includes(listener)) return;
    this.#listeners = this.#listeners.length === 0 ? [listener] : [...this.#listeners, listener];
  }
  removeEventListener(_type: "abort", listener: () => void): void {
    const listeners = this.#listeners;
    if (listeners.length === 1 && listeners[0] === listener) this.#listeners = none;
    else if (listeners.length > 0) this.#listeners = listeners.filter((one) => one !== listener);
  }
  /** For what takes nothing else. */
  toSignal(): AbortSignal {
    const real = new AbortController();
    const onAbort = (): void => real.abort(this.reason);
    if (this.aborted) onAbort();
    else this.addEventListener("abort", onAbort);
    return real.signal;
  }
}

/** Ended with the first of the two. */
export function eitherOf(one: EndSignal, other: EndSignal): EndSignal {
  const either = new Ending();
  for (const signal of [one, other]) {
    const onAbort = (): void => either.abort(signal.reason);
    if (signal.aborted) onAbort();
    else signal.addEventListener("abort", onAbort, { once: true });
  }
  return either;
}

const none: readonly (() => void)[] = [];
