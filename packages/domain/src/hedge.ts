import type { HedgePolicy } from "./policy.ts";
import { defaultPolicy } from "./policy.ts";
import type { Safety } from "./retry.ts";
import { availabilityOf, planRoute, type RouteEndpoint, type RoutePolicy, type RouteQuestion } from "./routing.ts";

/**
 * When a read that is out for longer than usual is made at a second endpoint too, and where (design, "Retry and hedge"; research R19; Dean and
 * Barroso, "The Tail at Scale": a second request after the 95th percentile adds some 5 % of load at most).
 *
 * Invariants, cited by the tests:
 * E1  Only a read is hedged, and of the reads only what is no part of a session: never a write, never what is not known to be a read.
 * E2  Over any run of n calls at most `burst` + `ratio` x n are hedged, and each is paid from the retry budget as well.
 * E3  Not before max(`afterMsMin`, the usual p95 of such calls at that endpoint), never while fewer than `callsMin` of them are known, nor when the
 *     call has no time left, nor while calls wait for a place.
 * E4  The second endpoint is another one that the call may go to, good, with a closed breaker; there is none for a sticky session, nor when under
 *     half of the endpoints are good (panic).
 */
export interface HedgeCall {
  readonly kind: "mcp" | "http";
  readonly method: string;
  readonly tool: string | null;
  readonly safety: Safety;
}

/** R19, column "hedge": what asks for nothing but an answer. What begins, sets or follows something of a session stays with its endpoint. */
const hedgedMethods: ReadonlySet<string> = new Set([
  "tools/call",
  "tools/list",
  "resources/list",
  "resources/templates/list",
  "resources/read",
  "prompts/list",
  "prompts/get",
  "completion/complete",
]);
const hedgedVerbs: ReadonlySet<string> = new Set(["GET", "HEAD"]);

/** Which calls are alike in how long they take: the same tool or method. Null: such a call is never hedged (E1). */
export function hedgeKeyOf({ kind, method, tool, safety }: HedgeCall): string | null {
  if (safety !== "read_only") return null;
  if (kind === "http") return hedgedVerbs.has(method) ? method : null;
  return hedgedMethods.has(method) ? (tool ?? method) : null;
}

/** A token bucket that calls alone fill, so that quiet times grant nothing (gRPC A6 throttles hedges by a bucket of 10 too). */
export interface HedgeBudget {
  readonly tokens: number;
  /** Calls of the upstream when the tokens were counted. */
  readonly calls: number;
}

export function initialHedgeBudget(calls: number, policy: HedgePolicy = defaultPolicy.router.hedge): HedgeBudget {
  return { tokens: policy.burst, calls };
}

export function hedgeTokens(budget: HedgeBudget, calls: number, policy: HedgePolicy = defaultPolicy.router.hedge): number {
  return Math.min(policy.burst, budget.tokens + policy.ratio * Math.max(0, calls - budget.calls));
}

/** A hedge was sent. */
export function chargeHedge(budget: HedgeBudget, calls: number, policy: HedgePolicy = defaultPolicy.router.hedge): HedgeBudget {
  return { tokens: hedgeTokens(budget, calls, policy) - 1, calls };
}

/** From what age on a read is late; null: nobody knows what is usual (E3). */
export function lateAfterMs(p95Ms: number | null, policy: HedgePolicy = defaultPolicy.router.hedge): number | null {
  return p95Ms === null ? null : Math.max(policy.afterMsMin, p95Ms);
}

export interface HedgeQuestion {
  readonly key: string | null;
  readonly waitedMs: number;
  /** Of such calls at the endpoint where it is out; null: too few are known. */
  readonly p95Ms: number | null;
  /** Until the deadline, which both attempts share. */
  readonly leftMs: number;
  /** In the budget of hedges, and in that of retries. */
  readonly hedgeTokens: number;
  readonly retryTokens: number;
  /** Calls of the upstream wait for a place: there is more load than it takes. */
  readonly queued: boolean;
}

/** Whether a second attempt may be made now; where is {@link hedgeTarget}'s to say. */
export function mayHedge(question: HedgeQuestion, policy: HedgePolicy = defaultPolicy.router.hedge): boolean {
  const { key, waitedMs, p95Ms, leftMs, queued } = question;
  if (!policy.enabled || key === null || queued || leftMs <= 0) return false;
  const afterMs = lateAfterMs(p95Ms, policy);
  return afterMs !== null && waitedMs >= afterMs && question.hedgeTokens >= 1 && question.retryTokens >= 1;
}

/** Where the second attempt goes, or null (E4). `question.tried` has the endpoint that lets the call wait. */
export function hedgeTarget(question: RouteQuestion, policy: RoutePolicy = defaultPolicy.router): string | null {
  if (question.safety !== "read_only" || (question.sessions === "sticky" && question.sessionEndpoint !== null)) return null;
  const good = question.endpoints.filter((endpoint) => availabilityOf(endpoint, policy.scoreMin) === "good");
  if (good.length / question.endpoints.length < policy.panicRatio) return null;
  const able = good.filter((endpoint) => isClosed(endpoint) && !question.tried.includes(endpoint.name));
  if (able.length === 0) return null;
  const others = { ...question, endpoints: able, tried: [], again: false, sessionEndpoint: null, mayWait: false, mayWaitVerdict: false };
  return planRoute(others, policy).endpoint;
}

/** An operator's "disabled" or "metrics_only" says that the breaker stops nothing, not that more may be sent than has to be. */
const isClosed = ({ breaker, health }: RouteEndpoint): boolean => breaker === "closed" && health === "healthy";
