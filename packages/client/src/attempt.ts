/** How one call of the caller's function ended. */
export type AttemptEnd<T> =
  | { readonly kind: "value"; readonly value: T }
  | { readonly kind: "error"; readonly error: unknown }
  | { readonly kind: "timeout" }
  | { readonly kind: "cancelled"; readonly reason: unknown };

/** The longest that a timer can wait; one that is to wait longer would end at once. */
export const foreverMs = 2 ** 31 - 1;

/** A function that goes on after its signal was aborted keeps its place this long at most. */
const abandonedMs = 30_000;

/**
 * Calls a function with a signal that is aborted when the time is over or the caller cancels, and says which of these came first. The end is reported at
 * once, also for a function that does not listen to its signal; `onSettled` is called once when the function really has ended, or is given up.
 */
export function attempt<T>(
  call: (signal: AbortSignal) => T | PromiseLike<T>,
  options: {
    readonly timeoutMs: number;
    readonly timeoutReason: () => Error;
    readonly signal: AbortSignal | undefined;
    readonly onSettled: () => void;
  },
): Promise<AttemptEnd<T>> {
  const controller = new AbortController();
  const { promise, resolve } = Promise.withResolvers<AttemptEnd<T>>();
  let settled = false;
  let abandoning: NodeJS.Timeout | undefined;
  const settle = (): void => {
    clearTimeout(abandoning);
    if (!settled) options.onSettled();
    settled = true;
  };
  const stop = (end: AttemptEnd<T>, reason: unknown): void => {
    finish(end);
    if (settled) return;
    abandoning = setTimeout(settle, abandonedMs);
    abandoning.unref();
    controller.abort(reason);
  };
  const onCancel = (): void => stop({ kind: "cancelled", reason: options.signal?.reason }, options.signal?.reason);
  const timer = setTimeout(() => stop({ kind: "timeout" }, options.timeoutReason()), Math.min(foreverMs, Math.max(0, options.timeoutMs)));
  const finish = (end: AttemptEnd<T>): void => {
    clearTimeout(timer);
    options.signal?.removeEventListener("abort", onCancel);
    resolve(end);
  };
  options.signal?.addEventListener("abort", onCancel, { once: true });
  new Promise<T>((run) => {
    run(call(controller.signal));
  }).then(
    (value) => {
      settle();
      finish({ kind: "value", value });
    },
    (error: unknown) => {
      settle();
      finish({ kind: "error", error });
    },
  );
  return promise;
}
