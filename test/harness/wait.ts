import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";

const lookMs = 25;

/** Waits until the condition gives something else than false, null or undefined, and gives that back. Fails after `ms` with what was seen last. */
export async function until<T>(
  condition: () => T | Promise<T>,
  ms: number,
  what: string | (() => string) = condition.toString(),
): Promise<Exclude<T, false | null | undefined>> {
  const endMs = performance.now() + ms;
  let problem: unknown = null;
  for (;;) {
    try {
      const found = await condition();
      if (found !== false && found !== null && found !== undefined) return found as Exclude<T, false | null | undefined>;
      problem = null;
    } catch (error) {
      problem = error;
    }
    if (performance.now() > endMs) {
      const last = problem instanceof Error ? `; the last attempt failed: ${problem.message}` : "";
      assert.fail(`not within ${ms} ms: ${typeof what === "string" ? what : what()}${last}`);
    }
    await sleep(lookMs);
  }
}
