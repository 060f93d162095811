import { latencyBucketsMs, type TrafficTool } from "@mcp-failover/contracts";

/** Calls that ended in one stretch of the store's time. */
export interface ToolBucket {
  readonly startMs: number;
  readonly calls: number;
  readonly errors: number;
  readonly latency: readonly number[];
}

/** Calls of a window; `slow` ones took longer than was asked for. */
export type CallCounts = { calls: number; errors: number; slow: number };

export interface CountWindow {
  readonly fromMs: number;
  readonly toMs: number;
  readonly slowMs: number;
}

export function bucketOf({ calls, errors, latency }: TrafficTool, startMs: number): ToolBucket {
  return { startMs, calls, errors: Math.min(errors, calls), latency };
}

/** Both in one, which begins with the first. */
export function mergedBucket(first: ToolBucket, more: ToolBucket): ToolBucket {
  return {
    startMs: first.startMs,
    calls: first.calls + more.calls,
    errors: first.errors + more.errors,
    latency: sumOf(first.latency, more.latency),
  };
}

function sumOf(counts: readonly number[], more: readonly number[]): readonly number[] {
  const sums = counts.slice();
  for (let index = 0; index < sums.length; index += 1) sums[index] = (sums[index] as number) + (more[index] ?? 0);
  return sums;
}

/** What the buckets hold that begin in [fromMs, toMs). */
export function countBuckets(buckets: readonly ToolBucket[], { fromMs, toMs, slowMs }: CountWindow): CallCounts {
  const counts = { calls: 0, errors: 0, slow: 0 };
  for (const bucket of buckets) {
    if (bucket.startMs < fromMs || bucket.startMs >= toMs) continue;
    counts.calls += bucket.calls;
    counts.errors += bucket.errors;
    counts.slow += Math.min(bucket.calls, slowOf(bucket, slowMs));
  }
  return counts;
}

/** Calls in the latency buckets that lie wholly above a limit; one that straddles it is not counted against anybody. */
function slowOf({ latency }: ToolBucket, slowMs: number): number {
  let slow = 0;
  for (let index = 0; index < latency.length; index += 1) {
    const lowerMs = index === 0 ? 0 : (latencyBucketsMs[index - 1] ?? Number.POSITIVE_INFINITY);
    if (lowerMs >= slowMs) slow += latency[index] as number;
  }
  return slow;
}
