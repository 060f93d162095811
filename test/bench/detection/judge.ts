import { quantile } from "../benchmark.ts";
import type { CallRecord } from "./load.ts";

/** What callers saw of a fault. */
export interface Traffic {
  /** From the fault until the last slow or failed call had ended (of an unsafe write: was begun, because it is waited for). */
  readonly normalMs: number;
  /** How calls went in the last seconds before it: where they were slow already, the machine has no room for this rate, and what follows says little. */
  readonly beforeP95Ms: number;
  readonly busy: boolean;
  /** Reads and idempotent writes that were answered with a failure. */
  readonly failed: number;
  /** Calls that had no answer when their callers were given up, long after the load had ended. */
  readonly unanswered: number;
  /** Unsafe writes without a result: each may or may not have run, which is what its caller is told. */
  readonly unknown: number;
  /** What the failed ones were told, with how many times. */
  readonly reasons: Readonly<Record<string, number>>;
  readonly slowestMs: number;
  /** The slowest of the safe ones: from the fault to their begin, and how long they took. */
  readonly slowest: readonly { readonly kind: string; readonly begunMs: number; readonly tookMs: number }[];
  readonly calls: number;
  readonly slowOverMs: number;
}

const slowestKept = 10;
/** What is slow whatever is usual. */
const slowMsMin = 250;

/** How the calls went that were not over at the fault. `nowMs`: when those without an answer were given up. */
export function trafficAfter(calls: readonly CallRecord[], faultMs: number, nowMs: number): Traffic {
  const took = ({ begunMs, endedMs }: CallRecord): number => (endedMs ?? Number.POSITIVE_INFINITY) - begunMs;
  const before = calls.filter(({ endedMs, begunMs }) => endedMs !== null && endedMs < faultMs && begunMs > faultMs - 3000);
  const slowOverMs = Math.max(slowMsMin, 4 * quantile(before.map(took), 0.95));
  // With those that were still out at the fault, which the usual would leave out just where they are the most.
  const begunBefore = calls.filter(({ begunMs }) => begunMs > faultMs - 3000 && begunMs < faultMs - slowMsMin);
  const beforeP95Ms = quantile(
    begunBefore.map(({ begunMs, endedMs }) => Math.min(endedMs ?? faultMs, faultMs) - begunMs),
    0.95,
  );
  // What was answered before the fault is no matter of it.
  const after = calls.filter(({ endedMs }) => endedMs === null || endedMs >= faultMs);
  const isFailed = ({ status }: CallRecord): boolean => status !== 200;
  const bad = after.filter((call) => isFailed(call) || took(call) > slowOverMs);
  const overMs = bad.map(({ kind, begunMs, endedMs }) => (kind === "unsafe" ? begunMs : (endedMs ?? nowMs)) - faultMs);
  const answered = after.filter(({ kind, endedMs }) => kind !== "unsafe" && endedMs !== null).toSorted((a, b) => took(b) - took(a));
  const reasons: Record<string, number> = {};
  for (const { kind, reason } of after) if (reason !== null && kind !== "unsafe") reasons[reason] = (reasons[reason] ?? 0) + 1;
  return {
    reasons,
    normalMs: Math.max(0, ...overMs),
    failed: after.filter((call) => call.kind !== "unsafe" && call.endedMs !== null && isFailed(call)).length,
    unknown: after.filter((call) => call.kind === "unsafe" && isFailed(call)).length,
    unanswered: after.filter(({ endedMs }) => endedMs === null).length,
    beforeP95Ms: Number.isNaN(beforeP95Ms) ? 0 : Math.round(beforeP95Ms),
    busy: beforeP95Ms > slowMsMin,
    slowestMs: answered[0] === undefined ? 0 : took(answered[0]),
    slowest: answered.slice(0, slowestKept).map((call) => ({ kind: call.kind, begunMs: call.begunMs - faultMs, tookMs: took(call) })),
    calls: after.length,
    slowOverMs: Math.round(slowOverMs),
  };
}
