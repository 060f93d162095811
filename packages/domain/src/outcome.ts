import type { FailureCode, OutcomeClass } from "@mcp-failover/contracts";

/**
 * What one answer, or the lack of one, says about an endpoint (design, "Outcome classes"; research R21). The prober and the router
 * judge by the same functions, so that a probe and a call that met the same fault count the same.
 *
 * Invariants, cited by the tests:
 * O1  Only transport errors, time-outs, 5xx and malformed answers are `hard`; exactly those have a failure code.
 * O2  A JSON-RPC error and an `isError` result are never `hard`: the endpoint answered. What is the caller's own mistake is no error of the tool.
 * O3  `executed: "no"` is said only of a request of which no byte was written: a reset or a time-out after that proves nothing.
 */
export interface AnswerClass {
  readonly outcome: OutcomeClass;
  /** Set where `outcome` is `hard`. */
  readonly code: FailureCode | null;
  /** Counts against the tool (rollback), never against the endpoint. */
  readonly toolError: boolean;
}

/** Whether the request may have run on the endpoint. `no` needs proof. */
export type Executed = "no" | "unknown";

/** How far a request came: `connecting` is every moment before its first byte was handed to an established connection. */
export type TransportPhase = "connecting" | "written";

/** Judges the status line alone; for an MCP answer use {@link classifyMcpAnswer}. */
export function classifyHttpStatus(httpStatus: number): AnswerClass {
  if (httpStatus >= 500) return { outcome: "hard", code: "http_5xx", toolError: false };
  if (httpStatus === 429) return { outcome: "soft", code: null, toolError: false };
  if (httpStatus === 401 || httpStatus === 403) return { outcome: "auth", code: null, toolError: false };
  if (httpStatus >= 400) return { outcome: "caller", code: null, toolError: false };
  return { outcome: "ok", code: null, toolError: false };
}

/**
 * Errors that the caller made, or that are part of the protocol's own course: parse, request, method and parameters (JSON-RPC 2.0), resource
 * not found (-32002), URL elicitation required (-32042), and the header checks of MCP 2026-07-28 (-32020 to -32029).
 */
function isCallersRpcError(code: number): boolean {
  if (code === -32700 || (code <= -32600 && code >= -32602)) return true;
  return code === -32002 || code === -32042 || (code <= -32020 && code >= -32029);
}

/** Judges a JSON-RPC error object by its code. Never `hard` (O2). */
export function classifyRpcError(code: number): AnswerClass {
  return { outcome: "caller", code: null, toolError: !isCallersRpcError(code) };
}

export interface McpAnswer {
  readonly httpStatus: number;
  /** `code` of the JSON-RPC error, or null where there is a result, or no JSON-RPC body. */
  readonly rpcErrorCode: number | null;
  /** The result of a tool says `isError: true`. */
  readonly isError: boolean;
}

/** Judges an MCP answer: a bad HTTP status first, then the JSON-RPC error, then the tool's own word. */
export function classifyMcpAnswer({ httpStatus, rpcErrorCode, isError }: McpAnswer): AnswerClass {
  const byStatus = classifyHttpStatus(httpStatus);
  if (byStatus.outcome === "hard" || byStatus.outcome === "soft" || byStatus.outcome === "auth") return byStatus;
  if (rpcErrorCode !== null) return classifyRpcError(rpcErrorCode);
  if (isError) return { outcome: "caller", code: null, toolError: true };
  return byStatus;
}

/** Codes of Node, OpenSSL, llhttp and undici by the failure that they are. What is not here is judged by its beginning, else `other`. */
const failureOf: Readonly<Record<string, FailureCode>> = {
  ECONNREFUSED: "refused",
  ECONNRESET: "reset",
  EPIPE: "reset",
  ECONNABORTED: "reset",
  ETIMEDOUT: "timeout",
  ESOCKETTIMEDOUT: "timeout",
  ABORT_TIMEOUT: "timeout",
  UND_ERR_CONNECT_TIMEOUT: "timeout",
  UND_ERR_HEADERS_TIMEOUT: "timeout",
  UND_ERR_BODY_TIMEOUT: "timeout",
  ENOTFOUND: "dns",
  EAI_AGAIN: "dns",
  EAI_FAIL: "dns",
  EHOSTUNREACH: "unreachable",
  ENETUNREACH: "unreachable",
  EHOSTDOWN: "unreachable",
  ENETDOWN: "unreachable",
  EADDRNOTAVAIL: "unreachable",
  UND_ERR_SOCKET: "closed",
  UND_ERR_CLOSED: "closed",
  UND_ERR_DESTROYED: "closed",
  ERR_STREAM_PREMATURE_CLOSE: "closed",
  UND_ERR_HEADERS_OVERFLOW: "malformed",
  UND_ERR_RES_CONTENT_LENGTH_MISMATCH: "malformed",
  UND_ERR_RES_EXCEEDED_MAX_SIZE: "malformed",
  EPROTO: "tls",
  DEPTH_ZERO_SELF_SIGNED_CERT: "tls",
  SELF_SIGNED_CERT_IN_CHAIN: "tls",
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: "tls",
  UNABLE_TO_GET_ISSUER_CERT: "tls",
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: "tls",
};

/** These can only happen while a connection is being made, so no request was written on it, whatever the caller believes. */
const connectOnly = new Set(["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "EAI_FAIL", "EADDRNOTAVAIL", "UND_ERR_CONNECT_TIMEOUT"]);

/**
 * Judges a transport error by its code (`error.code`, or that of its cause) and by how far the request came.
 * A certificate that does not verify fails the handshake, so it counts as not written only in the phase `connecting`.
 */
export function classifyTransportError(errorCode: string | undefined, phase: TransportPhase): { code: FailureCode; executed: Executed } {
  const executed: Executed = phase === "connecting" || (errorCode !== undefined && connectOnly.has(errorCode)) ? "no" : "unknown";
  return { code: errorCode === undefined ? "other" : failureCodeOf(errorCode), executed };
}

function failureCodeOf(errorCode: string): FailureCode {
  if (Object.hasOwn(failureOf, errorCode)) return failureOf[errorCode] ?? "other";
  if (errorCode.startsWith("HPE_")) return "malformed";
  if (errorCode.startsWith("CERT_") || errorCode.startsWith("ERR_TLS_") || errorCode.startsWith("ERR_SSL_")) return "tls";
  return "other";
}
