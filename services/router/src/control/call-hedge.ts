import { budgetTokens, chargeHedge, hedgeTarget, hedgeTokens, mayHedge, type RouteQuestion } from "@mcp-failover/domain";
import type { CallAttempt } from "./attempt.ts";
import type { CallWorld } from "./call-world.ts";
import type { EndpointState } from "./endpoint-state.ts";
import type { UpstreamState } from "./upstream-state.ts";

/** Where a read goes a second time while its attempt is late, or null; the hedge is taken from its budget, not yet from that of retries. */
export function hedgeEndpoint(
  world: CallWorld,
  upstream: UpstreamState,
  first: CallAttempt,
  leftMs: number,
  question: () => RouteQuestion,
): EndpointState | null {
  const { hedge } = upstream.policy.router;
  const nowMs = world.monotonicMs();
  const key = first.hedgeKey;
  const may = mayHedge(
    {
      key,
      waitedMs: nowMs - first.begunMs,
      p95Ms: key === null ? null : first.state.usualP95MsOf(key, nowMs, hedge.callsMin),
      leftMs,
      hedgeTokens: hedgeTokens(upstream.hedges, upstream.turn, hedge),
      retryTokens: budgetTokens(upstream.budget, nowMs),
      queued: upstream.admission.waiting > 0,
    },
    hedge,
  );
  if (!may) return null;
  const target = hedgeTarget(question(), upstream.policy.router);
  const endpoint = target === null ? undefined : upstream.endpoints.find(({ name }) => name === target);
  if (endpoint === undefined) return null;
  upstream.hedges = chargeHedge(upstream.hedges, upstream.turn, hedge);
  return endpoint;
}
