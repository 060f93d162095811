/** Calls that wait for something to change. Each waits at most its own time, and is woken at every change. */
export class Waiters {
  readonly #waiting = new Set<() => void>();

  get size(): number {
    return this.#waiting.size;
  }

  /** `wake` ends the wait early. */
  wait(timeoutMs: number): { readonly over: Promise<void>; readonly wake: () => void } {
    const { promise, resolve } = Promise.withResolvers<void>();
    const wake = (): void => {
      this.#waiting.delete(wake);
      clearTimeout(timer);
      resolve();
    };
    const timer = setTimeout(wake, Math.max(0, timeoutMs));
    this.#waiting.add(wake);
    return { over: promise, wake };
  }

  wakeAll(): void {
    for (const wake of [...this.#waiting]) wake();
  }
}
