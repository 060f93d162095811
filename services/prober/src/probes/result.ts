import type { Degradation, FailureCode, Observation, OutcomeClass } from "@mcp-failover/contracts";
import { classifyHttpStatus } from "@mcp-failover/domain";

/** What a probe found: an observation without who, when and why. */
export interface ProbeResult {
  readonly outcome: OutcomeClass;
  readonly code: FailureCode | null;
  /** A sentence without secrets: it is made of our own words, of a status and of an error code, never of what the server sent. */
  readonly error: string | null;
  readonly httpStatus: number | null;
  readonly era: Observation["era"];
  /** How long the deciding request took; null: take the time of the whole probe. */
  readonly responseTimeMs: number | null;
  readonly retryAfterMs: number | null;
  /** It answers, but not as well as it is expected to; absent: as well. */
  readonly degraded?: Degradation;
  /** MCP: the hash of the tool list, where it is watched. */
  readonly toolsHash?: string;
}

/** All is well. */
export function okResult(responseTimeMs: number | null = null): ProbeResult {
  return { outcome: "ok", code: null, error: null, httpStatus: null, era: null, responseTimeMs, retryAfterMs: null };
}

/** Alive, with credentials that it refuses. */
export function authResult(error: string): ProbeResult {
  return { ...okResult(), outcome: "auth", error };
}

const statusText = {
  hard: "it failed",
  soft: "it limits our rate",
  auth: "it refuses our credentials",
  caller: "it does not know the request",
};

/** A result by the status alone. */
export function resultOfStatus(status: number, retryAfter: string | null, responseTimeMs: number, era: Observation["era"]): ProbeResult {
  const { outcome, code } = classifyHttpStatus(status);
  return {
    outcome,
    code,
    error: outcome === "ok" ? null : `HTTP ${status}: ${statusText[outcome]}`,
    httpStatus: status,
    era,
    responseTimeMs,
    retryAfterMs: outcome === "soft" ? retryAfterMsOf(retryAfter) : null,
  };
}

export function hardResult(
  code: FailureCode,
  error: string,
  httpStatus: number | null = null,
  era: Observation["era"] = null,
): ProbeResult {
  return { outcome: "hard", code, error, httpStatus, era, responseTimeMs: null, retryAfterMs: null };
}

/** `Retry-After` in seconds; a date is not worth a clock here, the policy's own waits do. */
function retryAfterMsOf(value: string | null): number | null {
  if (value === null || !/^\d{1,6}$/.test(value)) return null;
  return Number(value) * 1000;
}
