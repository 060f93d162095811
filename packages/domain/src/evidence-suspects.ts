import { type Evidence, type EvidenceTimes, isStuck, saidAtMs, verdictOf } from "./evidence.ts";

interface KnownSuspects {
  readonly seq: number;
  readonly times: EvidenceTimes;
  readonly nowMs: number;
  readonly suspects: readonly string[];
}
/** One answer for all upstreams that are decided on at one moment: it looks at every word. */
const suspectsOf = new WeakMap<Evidence, KnownSuspects>();

/** Observers that can reach nothing while others can (E5), by their keys, sorted. */
export function suspectObservers(evidence: Evidence, times: EvidenceTimes, nowMs: number): readonly string[] {
  const known = suspectsOf.get(evidence);
  const same = known?.nowMs === nowMs && known.seq === evidence.lastSeq && known.times.evidenceFreshMs === times.evidenceFreshMs;
  if (same && known.times.slowInFlightMs === times.slowInFlightMs) return known.suspects;
  const suspects = findSuspects(evidence, times, nowMs);
  suspectsOf.set(evidence, { seq: evidence.lastSeq, times, nowMs, suspects });
  return suspects;
}

function findSuspects(evidence: Evidence, times: EvidenceTimes, nowMs: number): readonly string[] {
  const reaching = new Set<string>();
  const reachedAtMs = new Map<string, number>();
  const against = new Map<string, { endpoint: string; sinceMs: number }[]>();
  for (const [endpoint, words] of evidence.words) {
    for (const [observer, word] of words) {
      const stuck = isStuck(word, times, nowMs);
      const verdict = verdictOf(word, stuck, times, nowMs);
      if (verdict === "healthy") {
        reaching.add(observer);
        reachedAtMs.set(endpoint, Math.max(reachedAtMs.get(endpoint) ?? 0, saidAtMs(word, stuck)));
      }
      if (verdict === "unhealthy") {
        const failing = against.get(observer) ?? [];
        failing.push({ endpoint, sinceMs: word.hardSinceMs ?? saidAtMs(word, stuck) });
        against.set(observer, failing);
      }
    }
  }
  const contradicted = ({ endpoint, sinceMs }: { endpoint: string; sinceMs: number }): boolean =>
    (reachedAtMs.get(endpoint) ?? 0) > sinceMs;
  return [...against]
    .filter(([observer, failing]) => !reaching.has(observer) && failing.length >= 2 && failing.some(contradicted))
    .map(([observer]) => observer)
    .sort();
}
