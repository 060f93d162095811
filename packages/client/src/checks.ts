/** Throws `RangeError` on a number of the caller's that is outside its bounds; null and undefined are left to the default. */
export function checkNumber(name: string, value: number | null | undefined, min: number, max: number, whole: boolean): void {
  if (value === undefined || value === null) return;
  if (!(value >= min && value <= max) || (whole && !Number.isInteger(value)))
    throw new RangeError(`${name} is ${value}: give ${whole ? "a whole number" : "a number"} from ${min} to ${max}`);
}

/**
 * Throws `TypeError` on what cannot be listened to: what ends a call would meet that in a timer, where it ends the process. By its shape, because a signal of
 * another realm (`node:vm`, Jest) or of a polyfill is one too.
 */
export function checkSignal(signal: AbortSignal | undefined): void {
  if (signal === undefined || signal === null) return;
  if (typeof signal.addEventListener !== "function" || typeof signal.removeEventListener !== "function")
    throw new TypeError("signal is no AbortSignal: give that of an AbortController, and not the controller");
}
