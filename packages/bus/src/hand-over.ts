import type { FollowOptions, Stored } from "./bus.ts";
import type { BusLog } from "./log.ts";

export type FollowHandler = (stored: Stored) => void | Promise<void>;

/** Runs the handler on one message; what it throws is reported, so that the next message follows. */
export async function handOver(stored: Stored, handler: FollowHandler, options: FollowOptions, log: BusLog): Promise<void> {
  try {
    await handler(stored);
  } catch (error) {
    if (options.onError === undefined) return log.warn({ err: error, ...place(stored) }, "a handler failed; the next event follows");
    guarded(() => options.onError?.(error, stored), log, "onError failed");
  }
}

/** Calls back into the user's code, which must not end our loops. */
export function guarded(callback: () => void, log: BusLog, message: string): void {
  try {
    callback();
  } catch (err) {
    log.warn({ err }, message);
  }
}

export function place(stored: { stream: string; seq: number; subject: string }): { stream: string; seq: number; subject: string } {
  return { stream: stored.stream, seq: stored.seq, subject: stored.subject };
}

/** Waits for a loop's end, but never for ever: its handler may hang, or be the one who asks. */
export async function settledWithin(work: Promise<unknown>, ms: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const bound = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([work.catch(() => undefined), bound]);
  clearTimeout(timer);
}

/** What a queued message gets when its handler threw: it comes back, later each time. */
export function backOffMs(attempt: number): number {
  return Math.min(30_000, 500 * 2 ** Math.min(attempt, 10));
}
