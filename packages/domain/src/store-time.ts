/**
 * The store's clock can be set back: by hand or by NTP, or because a node whose clock ran ahead leads a stream no longer. What was stamped
 * before lies in the future then, and would be waited for, or be taken for fresh, for as long as the clock was set back.
 *
 * ST1  What is folded of SIGNALS is forgotten when its times go back so far: evidence begins anew, as after a start.
 * ST2  A stamp in a state that lies so far ahead of now was given by another clock: nothing is waited for because of it.
 * ST3  What has to have lasted since such a stamp has lasted since the clock was set back, as far as is known: not for less time than that, and
 *      only where the stamp was given before it, not by a clock that still runs ahead.
 */

/** That the store's clock was set back, as whoever folds SIGNALS saw it. */
export type SetBack = {
  /** The latest time before it. */
  fromMs: number;
  /** The first time after it. */
  toMs: number;
};

/** Less is what leaders of two streams, or two readers, differ by; it is caught up with before it matters. */
const setBackMsMin = 10_000;

/** Whether a time was stamped by the store's clock before it was set back, and is none of the clock that says that it is `nowMs`. */
export function isOfAnotherClock(atMs: number, nowMs: number): boolean {
  return atMs - nowMs > setBackMsMin;
}

/** The time, or 0 (long ago) where it is none of this clock. */
export function timeOfThisClock(atMs: number, nowMs: number): number {
  return isOfAnotherClock(atMs, nowMs) ? 0 : atMs;
}

/** The time; or that of the set-back, where it was stamped before that (ST3). `setBack`: undefined where none is known of. */
export function timeSinceSetBack(atMs: number, nowMs: number, setBack: SetBack | undefined): number {
  if (setBack === undefined || !isOfAnotherClock(atMs, nowMs) || isOfAnotherClock(atMs, setBack.fromMs)) return atMs;
  return setBack.toMs;
}
