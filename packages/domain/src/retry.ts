import type { Executed } from "./outcome.ts";
import { defaultPolicy, type RouterPolicy } from "./policy.ts";

/**
 * When a call may be sent again (design, principle 6; research R19).
 *
 * Invariants, cited by the tests:
 * R1  An `unsafe` call is never sent again unless `executed` is `no`: a duplicate write is worse than an error.
 * R2  No call is sent more than `attemptsMax` times, nor after its deadline.
 * R3  Over any time T, retries that may load a server again are at most 20 % of the calls + 10 a second x T + the bucket's reserve.
 * R4  Annotations count only for an upstream that the operator trusts, and the operator's own word is stronger than any annotation.
 */
export type Safety = "read_only" | "idempotent" | "unsafe";

export interface RetryQuestion {
  readonly safety: Safety;
  /** Of the attempt that just failed. */
  readonly executed: Executed;
  /** Attempts made so far, this one included. */
  readonly attempts: number;
  readonly attemptsMax: number;
  readonly budget: RetryBudget;
  readonly deadlineMs: number;
  readonly nowMs: number;
}

export type RetryAnswer =
  /** `charged`: take it from the budget by {@link chargeRetry}. */
  | { readonly retry: true; readonly charged: boolean }
  | { readonly retry: false; readonly rule: "outcome_unknown" | "attempts" | "deadline" | "budget" };

/**
 * Whether a failed call may be sent again. A retry after proof that nothing ran is not charged: no server did work for the first attempt,
 * so the second adds no load, and the budget exists against load that multiplies (Finagle, Linkerd).
 */
export function mayRetry({ safety, executed, attempts, attemptsMax, budget, deadlineMs, nowMs }: RetryQuestion): RetryAnswer {
  if (safety === "unsafe" && executed !== "no") return { retry: false, rule: "outcome_unknown" };
  if (nowMs >= deadlineMs) return { retry: false, rule: "deadline" };
  if (attempts >= attemptsMax) return { retry: false, rule: "attempts" };
  if (executed === "no") return { retry: true, charged: false };
  return budgetTokens(budget, nowMs) >= 1 ? { retry: true, charged: true } : { retry: false, rule: "budget" };
}

/** What annotations of MCP say about a tool; every one of them is a hint of the server. */
export interface ToolAnnotations {
  readonly readOnlyHint?: boolean | undefined;
  readonly idempotentHint?: boolean | undefined;
  readonly destructiveHint?: boolean | undefined;
}

export interface SafetyQuestion {
  readonly kind: "mcp" | "http";
  /** JSON-RPC method or HTTP method. */
  readonly method: string;
  /** Of the tool, as its server announced them; null: never seen. */
  readonly annotations: ToolAnnotations | null;
  /** The operator trusts this upstream's annotations. */
  readonly trusted: boolean;
  /** The operator's own list in the configuration; null: the tool is not in it. */
  readonly operator: { readonly read_only?: boolean | undefined; readonly idempotent?: boolean | undefined } | null;
}

/** Methods of MCP that change nothing on the server beyond the session that they belong to. */
const readOnlyMethods: ReadonlySet<string> = new Set([
  "initialize",
  "ping",
  "server/discover",
  "tools/list",
  "resources/list",
  "resources/templates/list",
  "resources/read",
  "prompts/list",
  "prompts/get",
  "completion/complete",
  "roots/list",
  "tasks/get",
  "tasks/list",
  "tasks/result",
  "subscriptions/listen",
  // Of the session alone, which is replayed wherever it moves: they may follow it to any endpoint that takes it.
  "logging/setLevel",
  "resources/subscribe",
  "resources/unsubscribe",
  "notifications/initialized",
  "notifications/cancelled",
  "notifications/progress",
  "notifications/roots/list_changed",
]);
/** The second time changes nothing that the first did not. */
const idempotentMethods: ReadonlySet<string> = new Set(["tasks/cancel"]);
/** RFC 9110, 9.2.1 (safe) and 9.2.2 (idempotent). */
const safeHttpMethods: ReadonlySet<string> = new Set(["GET", "HEAD", "OPTIONS", "TRACE"]);
const idempotentHttpMethods: ReadonlySet<string> = new Set(["PUT", "DELETE"]);

/** How often a call may run: `unsafe` is whatever is not known to be anything else. */
export function safetyOf({ kind, method, annotations, trusted, operator }: SafetyQuestion): Safety {
  if (kind === "http") {
    const verb = method.toUpperCase();
    if (safeHttpMethods.has(verb)) return "read_only";
    return idempotentHttpMethods.has(verb) ? "idempotent" : "unsafe";
  }
  if (method !== "tools/call") {
    if (readOnlyMethods.has(method)) return "read_only";
    return idempotentMethods.has(method) ? "idempotent" : "unsafe";
  }
  const believed = trusted ? annotations : null;
  // A server that says both "read-only" and "destructive" contradicts itself, so its "read-only" is not believed.
  const saysReadOnly = believed?.readOnlyHint === true && believed.destructiveHint !== true;
  if (operator?.read_only ?? saysReadOnly) return "read_only";
  return (operator?.idempotent ?? believed?.idempotentHint === true) ? "idempotent" : "unsafe";
}

/**
 * A token bucket whose content fades with a time constant of 10 s (Finagle's `RetryBudget` has a ttl of 10 s): each call puts 0.2 tokens in, each
 * second 10, a retry takes 1. The content settles at 10 s worth of the present traffic, so that it needs no cap of its own.
 */
export interface RetryBudget {
  readonly tokens: number;
  readonly atMs: number;
  /** Tokens that time adds in a second. */
  readonly perSecondMin: number;
  /** Tokens that a call adds. */
  readonly ratio: number;
}

/** Finagle: 10 s. */
export const retryBudgetTtlMs = 10_000;

/** A budget that has seen no traffic: the reserve of 10 s at the minimum rate. */
export function initialRetryBudget(
  nowMs: number,
  policy: Pick<RouterPolicy, "retryBudget" | "retriesPerSecondMin"> = defaultPolicy.router,
): RetryBudget {
  const tokens = policy.retriesPerSecondMin * (retryBudgetTtlMs / 1000);
  return { tokens, atMs: nowMs, perSecondMin: policy.retriesPerSecondMin, ratio: policy.retryBudget };
}

/** What is in the bucket now. A clock that goes back adds nothing. */
export function budgetTokens(budget: RetryBudget, nowMs: number): number {
  const passedMs = Math.max(0, nowMs - budget.atMs);
  if (passedMs === 0) return budget.tokens;
  const kept = Math.exp(-passedMs / retryBudgetTtlMs);
  const reserve = budget.perSecondMin * (retryBudgetTtlMs / 1000);
  return reserve + (budget.tokens - reserve) * kept;
}

/** A call began. */
export function creditCall(budget: RetryBudget, nowMs: number): RetryBudget {
  return { ...budget, tokens: budgetTokens(budget, nowMs) + budget.ratio, atMs: Math.max(nowMs, budget.atMs) };
}

/** A retry was granted with `charged: true`. */
export function chargeRetry(budget: RetryBudget, nowMs: number): RetryBudget {
  return { ...budget, tokens: budgetTokens(budget, nowMs) - 1, atMs: Math.max(nowMs, budget.atMs) };
}
