import { Counter } from "prom-client";
import type { Kit } from "./kit.ts";

/** So seldom people are told again. */
const tellEveryMs = 60_000;

/**
 * Says that a limit makes this process leave out what it was told, which nobody would see otherwise: counts it in `metric`, and has one line in
 * the log a minute at most, with what was left out since the one before. Call what it gives with how much has come to that; 0 is nothing new.
 */
export function openLeftOut(
  kit: Pick<Kit, "log" | "registry">,
  { metric, help, line }: { readonly metric: string; readonly help: string; readonly line: string },
): (count: number) => void {
  const leftOut = new Counter({ name: metric, help, registers: [kit.registry] });
  let toldMs = Number.NEGATIVE_INFINITY;
  let untold = 0;
  return (count) => {
    leftOut.inc(count);
    untold += count;
    if (untold === 0 || performance.now() - toldMs < tellEveryMs) return;
    toldMs = performance.now();
    kit.log.warn({ leftOut: untold }, line);
    untold = 0;
  };
}
