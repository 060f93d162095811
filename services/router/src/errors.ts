import type { ClientResponse } from "./client-exchange.ts";
import type { CallProblem } from "./control/port.ts";

/**
 * The router's own JSON-RPC error codes. They lie outside -32768 to -32000, because SDKs use that range for errors of their own
 * (requirement R22). Clients see them in HTTP 200: SDK clients turn any other status into an opaque transport error.
 */
export const rpcCodes = {
  /** The call was sent, no answer came, and it may have run. */
  outcome_unknown: 1001,
  /** No endpoint could be reached; the call did not run. */
  no_endpoint: 1002,
  /** The time for the call was over before it could be sent. */
  deadline: 1003,
  /** The upstream sheds load (429). */
  overloaded: 1004,
  /** The upstream refused the router's own credential. */
  upstream_auth: 1005,
  /** The session lived on an endpoint that is gone, and must not move (`sessions: sticky`). */
  session_lost: 1006,
  /** Too many of the recent calls were sent again already. */
  budget: 1007,
  unknown_upstream: 1008,
  /** The upstream answered with something that is no answer. */
  upstream_malformed: 1009,
  /** The agent may not do this; nothing was sent. */
  forbidden: 1010,
} as const;
export type RouterErrorCode = keyof typeof rpcCodes;

/** An answer of the router itself, for one call. */
export interface RouterError {
  readonly code: RouterErrorCode;
  readonly message: string;
  readonly retriable: boolean;
  readonly retryAfterMs?: number;
  /** Where there is no JSON-RPC request to answer; default {@link httpStatusOf}. */
  readonly httpStatus?: number;
}

export function routerErrorOf({ code, message, retriable, retryAfterMs, httpStatus }: CallProblem): RouterError {
  return {
    code,
    message,
    retriable,
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
    ...(httpStatus === undefined ? {} : { httpStatus }),
  };
}

/** The header that says so, in whole seconds and at least one (RFC 9110, 10.2.3). */
export function retryAfter(ms: number): { readonly "retry-after": string } {
  return { "retry-after": String(Math.max(1, Math.ceil(ms / 1000))) };
}

export interface ErrorPlace {
  readonly upstream: string;
  readonly operationId: string;
}

/** A JSON-RPC error answer to `id`. */
export function rpcErrorMessage(id: string | number | null, error: RouterError, place: ErrorPlace): object {
  return {
    jsonrpc: "2.0",
    id,
    error: {
      code: rpcCodes[error.code],
      message: error.message,
      data: {
        code: error.code,
        operationId: place.operationId,
        upstream: place.upstream,
        retriable: error.retriable,
        ...(error.retryAfterMs === undefined ? {} : { retryAfterMs: error.retryAfterMs }),
      },
    },
  };
}

/** The HTTP status that a router error has where there is no JSON-RPC request to answer (`/http/*`, notifications). */
export function httpStatusOf(code: RouterErrorCode): number {
  switch (code) {
    case "outcome_unknown":
    case "upstream_auth":
    case "upstream_malformed":
      return 502;
    case "deadline":
      return 504;
    case "forbidden":
      return 403;
    case "unknown_upstream":
    case "session_lost":
      return 404;
    case "overloaded":
      return 429;
    case "no_endpoint":
    case "budget":
      return 503;
  }
}

/** A request that is refused before it is a call: status and JSON-RPC shaped body, as SDK servers answer. */
export class RefusedRequest extends Error {
  override readonly name = "RefusedRequest";
  readonly code = "refused";
  readonly retriable: boolean = false;
  readonly status: number;
  readonly rpcCode: number;
  readonly headers: Readonly<Record<string, string>>;
  constructor(status: number, rpcCode: number, message: string, headers: Readonly<Record<string, string>> = {}) {
    super(message);
    this.status = status;
    this.rpcCode = rpcCode;
    this.headers = headers;
  }
}

/** Writes a whole JSON answer, unless the client is gone or an answer has begun. */
export function sendJson(
  response: ClientResponse,
  status: number,
  body: object | Buffer,
  headers: Readonly<Record<string, string>> = {},
): void {
  if (response.headersSent || response.destroyed) return;
  const bytes = Buffer.isBuffer(body) ? body : Buffer.from(JSON.stringify(body));
  const all: Record<string, string | number> = { "content-type": "application/json", "content-length": bytes.length };
  for (const name in headers) all[name] = headers[name] as string;
  response.writeHead(status, all);
  // As text of single bytes the head and a short body are one string, and one write.
  if (bytes.length <= joinedBytesMax) response.end(bytes.toString("latin1"), "latin1");
  else response.end(bytes);
}

const joinedBytesMax = 64 * 1024;

export function sendRefusal(response: ClientResponse, refusal: RefusedRequest): void {
  sendJson(response, refusal.status, rpcErrorBody(null, refusal.rpcCode, refusal.message), refusal.headers);
}

export function rpcErrorBody(id: string | number | null, code: number, message: string): object {
  return { jsonrpc: "2.0", id, error: { code, message } };
}
