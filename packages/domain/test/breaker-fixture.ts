import type { BreakerState } from "@mcp-failover/contracts";
import {
  type BreakerDecision,
  type BreakerInput,
  decideBreaker,
  defaultPolicy,
  initialBreakerState,
  type ObserverEvidence,
} from "@mcp-failover/domain";

export const policy = defaultPolicy.breaker;
export const t0 = 1_700_000_000_000;

/** One observer that has said nothing yet; tests name what differs. */
export const quiet = (observer: string): ObserverEvidence => ({
  observer,
  kind: "router",
  evaluations: [],
  hardRun: 0,
  runSinceMs: null,
  lastNotHardAtMs: null,
  lastAtMs: t0,
  answered: 0,
  slowMs: null,
});
export const failingRun = (observer: string, hardRun: number, sinceMs = t0 - 500): ObserverEvidence => ({
  ...quiet(observer),
  hardRun,
  runSinceMs: sinceMs,
});
export const answering = (observer: string, lastNotHardAtMs = t0 - 100): ObserverEvidence => ({
  ...quiet(observer),
  lastNotHardAtMs,
  answered: 9,
});
export const ratio = (observer: string, calls: number, hard: number, slow = 0): ObserverEvidence => ({
  ...answering(observer),
  evaluations: [-2000, -1000, 0].map((offset) => ({ atMs: t0 + offset, calls, hard, slow })),
});
export const decide = (evidence: readonly ObserverEvidence[], more: Partial<BreakerInput> = {}): BreakerDecision =>
  decideBreaker({
    upstream: "pinecone",
    endpoint: "primary",
    policy,
    nowMs: t0,
    state: initialBreakerState,
    evidence,
    routers: ["router-1", "router-2"],
    ...more,
  });
export const open: BreakerState = { status: "open", generation: 1, sinceMs: t0 - 5000, openUntilMs: t0, openings: 1, permits: [] };
export const halfOpen: BreakerState = {
  status: "half_open",
  generation: 2,
  sinceMs: t0 - 1000,
  openUntilMs: null,
  openings: 1,
  permits: [{ router: "router-1", calls: 10, expiresAtMs: t0 + 29_000 }],
};
