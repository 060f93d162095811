import { latencyBucketsMs } from "@mcp-failover/contracts";

const slotMs = 60_000;
const slots = 10;
const buckets = latencyBucketsMs.length + 1;

/** How long the answers of one endpoint took in the last 10 minutes, by the minute: 140 counts, whatever the traffic. */
export class UsualLatency {
  readonly #counts: readonly number[][] = Array.from({ length: slots }, () => new Array<number>(buckets).fill(0));
  readonly #slotOf: number[] = new Array<number>(slots).fill(Number.NEGATIVE_INFINITY);

  observe(latencyMs: number, nowMs: number): void {
    const counts = this.#countsAt(nowMs);
    const found = latencyBucketsMs.findIndex((bound) => latencyMs <= bound);
    const bucket = found === -1 ? buckets - 1 : found;
    counts[bucket] = (counts[bucket] ?? 0) + 1;
  }

  /** Takes in what was counted elsewhere, by the same buckets. */
  add(latency: readonly number[], nowMs: number): void {
    const counts = this.#countsAt(nowMs);
    for (let bucket = 0; bucket < buckets; bucket += 1) counts[bucket] = (counts[bucket] ?? 0) + (latency[bucket] ?? 0);
  }

  #countsAt(nowMs: number): number[] {
    const slot = Math.floor(nowMs / slotMs);
    const index = ((slot % slots) + slots) % slots;
    const counts = this.#counts[index] ?? [];
    if (this.#slotOf[index] !== slot) {
      counts.fill(0);
      this.#slotOf[index] = slot;
    }
    return counts;
  }

  /** Null while fewer than `callsMin` are known. What took longer than the last bucket counts twice its bound. */
  p95Ms(nowMs: number, callsMin: number): number | null {
    const slot = Math.floor(nowMs / slotMs);
    const sums = new Array<number>(buckets).fill(0);
    let calls = 0;
    for (let index = 0; index < slots; index += 1) {
      if (slot - (this.#slotOf[index] ?? Number.NEGATIVE_INFINITY) >= slots) continue;
      const counts = this.#counts[index] ?? [];
      for (let bucket = 0; bucket < buckets; bucket += 1) {
        const count = counts[bucket] ?? 0;
        sums[bucket] = (sums[bucket] ?? 0) + count;
        calls += count;
      }
    }
    if (calls < callsMin) return null;
    let below = 0;
    const found = sums.findIndex((count) => {
      below += count;
      return below >= 0.95 * calls;
    });
    return latencyBucketsMs[found] ?? 2 * (latencyBucketsMs.at(-1) ?? 0);
  }

  clear(): void {
    this.#slotOf.fill(Number.NEGATIVE_INFINITY);
  }
}
