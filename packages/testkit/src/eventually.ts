import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";

export interface Patience {
  /** Milliseconds until it fails; default 10,000. Times MCPF_TEST_PATIENCE, which a machine that others use too sets above 1. */
  readonly withinMs?: number;
  /** Milliseconds between two looks; default 20. */
  readonly everyMs?: number;
  /** What was waited for, as the failure says it; default the condition's own text, or the value that was seen last. */
  readonly what?: string | (() => string);
}

type Found<T> = Exclude<T, false | null | undefined>;

/** Waits until the condition gives something else than false, null or undefined, and gives that back. An attempt that throws is one that has not found it yet. */
export async function eventually<T>(condition: () => T | Promise<T>, patience: Patience = {}): Promise<Found<T>> {
  let problem: unknown = null;
  return await look(
    async () => {
      problem = null;
      try {
        return await condition();
      } catch (error) {
        problem = error;
        return null;
      }
    },
    (found): found is Found<Awaited<T>> & Found<T> => found !== false && found !== null && found !== undefined,
    patience,
    () =>
      `${condition}${problem === null ? "" : `; the last attempt failed: ${problem instanceof Error ? problem.message : String(problem)}`}`,
  );
}

/** Waits until what is read is as wanted, and gives it back. What `read` throws is a failure at once. */
export async function becomes<T>(read: () => T | Promise<T>, wanted: (value: T) => boolean, patience: Patience = {}): Promise<T> {
  return await look(
    read,
    (value): value is T => wanted(value),
    patience,
    (last) => `last: ${JSON.stringify(last)?.slice(0, 2000)}`,
  );
}

async function look<T, F extends T>(
  read: () => T | Promise<T>,
  isIt: (value: T) => value is F,
  { withinMs = 10_000, everyMs = 20, what }: Patience,
  seen: (last: T) => string,
): Promise<F> {
  const limitMs = patientMs(withinMs);
  const endMs = performance.now() + limitMs;
  for (;;) {
    const value = await read();
    if (isIt(value)) return value;
    if (performance.now() > endMs) {
      const said = typeof what === "function" ? what() : what;
      assert.fail(`not within ${limitMs} ms: ${said === undefined ? "" : `${said}; `}${seen(value)}`);
    }
    await sleep(everyMs);
  }
}

/** A limit on how long something may take, in milliseconds, times MCPF_TEST_PATIENCE: for what has to be far from another length of time, not fast. */
export function patientMs(ms: number): number {
  const text = process.env["MCPF_TEST_PATIENCE"] ?? "1";
  const factor = Number(text);
  if (!(factor >= 1 && factor <= 20)) throw new RangeError(`MCPF_TEST_PATIENCE=${text}: it is a number from 1 to 20`);
  return ms * factor;
}
