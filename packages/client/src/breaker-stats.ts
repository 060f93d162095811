import type { BreakerStatus } from "@mcp-failover/contracts";
import type { CallBreaker } from "@mcp-failover/domain";

/** What is counted in the breaker's window beside what it decides by. */
export const tally = {
  success: 0,
  failure: 1,
  timeout: 2,
  ignored: 3,
  cancelled: 4,
  rejected: 5,
  full: 6,
  fallback: 7,
  retry: 8,
  slow: 9,
  latencyMs: 10,
  measured: 11,
} as const;
export const talliesCount = Object.keys(tally).length;

/** How a breaker stands, and what it has counted in its window of time. */
export interface BreakerStats {
  readonly state: BreakerStatus;
  readonly generation: number;
  /** Why it stands so, for people; empty at the beginning. */
  readonly reason: string;
  /** What is left of the open time; null when it is not open. */
  readonly openForMs: number | null;
  readonly running: number;
  readonly waiting: number;
  /** All that ended in the window: the next seven together. */
  readonly calls: number;
  readonly successes: number;
  readonly failures: number;
  readonly timeouts: number;
  /** Failed in a way that does not count. */
  readonly ignored: number;
  readonly cancelled: number;
  /** Not called, because the breaker was open. */
  readonly rejected: number;
  /** Not called, because the bulkhead was full. */
  readonly full: number;
  readonly fallbacks: number;
  readonly retries: number;
  readonly slow: number;
  /** Null where it is not measured. */
  readonly latencyMeanMs: number | null;
  /** Times that it would have opened while `metrics_only`. */
  readonly withheld: number;
}

export function statsOf(core: CallBreaker, now: { running: number; waiting: number; nowMs: number }): BreakerStats {
  const counts = core.tallies(now.nowMs);
  const of = (index: number): number => counts[index] ?? 0;
  const ends: readonly number[] = [tally.success, tally.failure, tally.timeout, tally.ignored, tally.cancelled, tally.rejected, tally.full];
  return {
    state: core.status,
    generation: core.generation,
    reason: core.reason,
    openForMs: core.openUntilMs === null ? null : Math.max(0, core.openUntilMs - now.nowMs),
    running: now.running,
    waiting: now.waiting,
    calls: ends.reduce((sum, index) => sum + of(index), 0),
    successes: of(tally.success),
    failures: of(tally.failure),
    timeouts: of(tally.timeout),
    ignored: of(tally.ignored),
    cancelled: of(tally.cancelled),
    rejected: of(tally.rejected),
    full: of(tally.full),
    fallbacks: of(tally.fallback),
    retries: of(tally.retry),
    slow: of(tally.slow),
    latencyMeanMs: of(tally.measured) === 0 ? null : of(tally.latencyMs) / of(tally.measured),
    withheld: core.withheld,
  };
}
