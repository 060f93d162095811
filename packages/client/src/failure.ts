import type { FailureCode, OutcomeClass } from "@mcp-failover/contracts";
import { classifyHttpStatus, classifyTransportError, type Executed } from "@mcp-failover/domain";

/** What an error of a call says about its endpoint, and whether the call may have run there. */
export interface Failure {
  readonly class: OutcomeClass;
  readonly code: FailureCode | null;
  readonly executed: Executed;
}

const caller: Failure = { class: "caller", code: null, executed: "unknown" };

/**
 * Judges what a function threw: an HTTP status (`status`, `statusCode`, `response.status`, or a number in `code`, as fetch wrappers, axios and
 * the MCP SDKs have it), else the code of Node or undici on the error or its causes. What has neither is the function's own error: it says
 * nothing about the endpoint. Only codes that can be met before anything was written prove that the call did not run.
 */
export function failureOf(error: unknown): Failure {
  const status = statusOf(error);
  if (status !== null) {
    const { outcome, code } = classifyHttpStatus(status);
    return outcome === "ok" ? caller : { class: outcome, code, executed: "unknown" };
  }
  const transport = transportFailureOf(error, 0);
  if (transport !== null) return { class: "hard", ...transport };
  return isTimeout(error) ? { class: "hard", code: "timeout", executed: "unknown" } : caller;
}

function statusOf(error: unknown): number | null {
  const { status, statusCode, response, code } = (error ?? {}) as Record<string, unknown>;
  const candidates = [status, statusCode, (response as { status?: unknown } | null | undefined)?.status, code];
  const found = candidates.find((one) => typeof one === "number" && one >= 100 && one < 600);
  return typeof found === "number" ? found : null;
}

/** By the first known code on the chain of causes. An `AggregateError` (a host with several addresses) proves something only if all its errors do. */
function transportFailureOf(error: unknown, depth: number): { code: FailureCode; executed: Executed } | null {
  if (typeof error !== "object" || error === null || depth > 5) return null;
  if (error instanceof AggregateError && error.errors.length > 0) {
    const all = error.errors.map((one) => transportFailureOf(one, depth + 1));
    const known = all.find((one) => one !== null) ?? null;
    return known === null ? null : { code: known.code, executed: all.every((one) => one?.executed === "no") ? "no" : "unknown" };
  }
  const { code, cause, outcomeUnknown } = error as { code?: unknown; cause?: unknown; outcomeUnknown?: unknown };
  const own = typeof code === "string" ? classifyTransportError(code, "written") : null;
  const found = own !== null && own.code !== "other" ? own : transportFailureOf(cause, depth + 1);
  // An error of this SDK that says so knows more than its cause: a fallback that may have run, after a call that did not.
  return found !== null && outcomeUnknown === true ? { ...found, executed: "unknown" } : found;
}

function isTimeout(error: unknown): boolean {
  return error instanceof Error && error.name === "TimeoutError";
}

/**
 * Whether an error counts against a function behind a breaker of its own: everything but what the other side answered on purpose, 4xx with 429, and JSON-RPC
 * errors. Other than for an endpoint of the fleet, an error that says nothing about itself counts: there is nobody else that it could speak of.
 */
export function countsByDefault(error: unknown): boolean {
  const status = statusOf(error);
  if (status !== null) return status >= 500;
  const code = (error as { code?: unknown } | null | undefined)?.code;
  return !(typeof code === "number" && code <= -32_000 && code >= -32_768);
}

/** `fetch` resolves with a `Response` whatever its status. */
export function isBadResponse(value: unknown): boolean {
  return typeof value === "object" && value instanceof Response && value.status >= 500;
}
