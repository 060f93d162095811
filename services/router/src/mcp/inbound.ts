import type { IncomingHttpHeaders } from "node:http";
import type { ClientRequest, ClientResponse } from "../client-exchange.ts";
import type { RouterControl, UpstreamView } from "../control/port.ts";
import { RefusedRequest } from "../errors.ts";
import type { Principal } from "../identity/principal.ts";
import type { RequestTrace } from "../observe/trace.ts";
import type { UpstreamClient } from "../upstream-client.ts";
import type { SessionDirectory } from "./directory.ts";
import { firstModernVersion } from "./envelope.ts";
import type { EraBook } from "./era.ts";
import type { FaceBook } from "./face.ts";
import type { OfferBook } from "./offer-book.ts";
import type { Replay } from "./replay.ts";
import type { RightsWatch } from "./rights.ts";
import type { SessionTable } from "./session-table.ts";
import type { EventId } from "./stream-log.ts";
import type { TaskBook } from "./task-book.ts";
import type { ToolBook } from "./tool-book.ts";

/** What the handlers of `/mcp/<upstream>` work with. */
export interface McpContext {
  readonly control: RouterControl;
  readonly client: UpstreamClient;
  readonly sessions: SessionTable;
  readonly directory: SessionDirectory;
  readonly replay: Replay;
  readonly eras: EraBook;
  readonly claims: StreamClaims;
  readonly faces: FaceBook;
  readonly tools: ToolBook;
  readonly offers: OfferBook;
  readonly tasks: TaskBook;
  readonly rights: RightsWatch;
  readonly log: DataPlaneLog;
  readonly metrics: DataPlaneMetrics;
  readonly nowMs: () => number;
  readonly heartbeatMs: number;
  /** For so long a call that its upstream has parked is looked after for a client of `/mcp` that may come back for it. */
  readonly awayMsMax: number;
  /** Streams without an end of their own (besides those of sessions): how to end each when the router stops. */
  readonly openEnded: Set<() => void>;
}

export interface DataPlaneLog {
  /** Whether what is said at a level is written at all; what is said of each call is not put together for nothing. */
  isLevelEnabled?(level: string): boolean;
  debug(details: object, message: string): void;
  info(details: object, message: string): void;
  warn(details: object, message: string): void;
  error(details: object, message: string): void;
}
export interface DataPlaneMetrics {
  call(labels: { upstream: string; endpoint: string; outcome: string }, tookMs: number): void;
  replay(upstream: string, outcome: string): void;
  toolsDiffer?(upstream: string, endpoint: string): void;
  offersDiffer?(upstream: string, endpoint: string): void;
}

/** What a process says to the other ones of a session whose client came here. */
export interface StreamClaims {
  /**
   * Asks for the stream that one of them opened (requirement R7), or that its client has left: `from` is the event id with which that came back
   * (G4). Null when no process has it.
   */
  claim(sessionKey: string, from: EventId | null): Promise<ClaimedStream | null>;
  /** The client has cancelled a request that does not run here (requirement R13). Whoever runs it ends it; without NATS nobody hears of it. */
  cancelled?(sessionKey: string, requestId: string | number): void;
  /** What the directory says of a session with `/mcp` is another now; `from`: its client came back to its stream here. Without NATS nobody hears of it. */
  changed?(sessionKey: string, from: EventId | null): void;
}
export type ClaimedStream =
  | {
      readonly kind: "released";
      /** What waited there, in order; `isWhole`: it is all that the client has missed. */
      readonly events: readonly ClaimedEvent[];
      readonly isWhole: boolean;
      /** What still comes, until the other process has given the stream up. */
      readonly rest: AsyncIterable<readonly ClaimedEvent[]>;
    }
  | { readonly kind: "in_use" };
export interface ClaimedEvent {
  readonly id?: string | undefined;
  readonly event?: string | undefined;
  readonly data: string;
}

/** One HTTP request to `/mcp/<upstream>`. */
export interface Inbound {
  readonly request: ClientRequest;
  readonly response: ClientResponse;
  readonly view: UpstreamView;
  readonly principal: Principal;
  readonly operationId: string;
  readonly startedAtMs: number;
  readonly trace?: RequestTrace | undefined;
}

export const operationHeader = "mcpf-operation-id";

/**
 * Headers of a client's request that travel to the upstream. Everything else stays here: credentials and cookies are the router's
 * business (requirement R24), Host and Origin were checked here (R23), and the session id is the router's own (R2).
 */
export function forwardedHeaders(headers: IncomingHttpHeaders): Record<string, string> {
  const forwarded: Record<string, string> = {};
  for (const name in headers) {
    const value = headers[name];
    if (typeof value !== "string") continue;
    if (plainHeaders.has(name) || (name.startsWith("mcp-") && name !== "mcp-session-id")) forwarded[name] = value;
  }
  return forwarded;
}
const plainHeaders = new Set(["accept", "content-type", "accept-language", "user-agent", "traceparent", "tracestate", "baggage"]);

/** The time by which the client wants its answer, from `mcpf-timeout-ms`; Infinity without. */
export function clientDeadlineMs(headers: IncomingHttpHeaders, nowMs: number): number {
  const given = Number(headers["mcpf-timeout-ms"]);
  return Number.isFinite(given) && given > 0 ? nowMs + given : Number.POSITIVE_INFINITY;
}

/** Refuses what SDK servers refuse, with the same statuses (406, 415). */
export function checkPostHeaders(headers: IncomingHttpHeaders): void {
  const accept = headers.accept ?? "";
  if (!accept.includes("application/json") || !accept.includes("text/event-stream")) {
    throw new RefusedRequest(406, -32000, "Not Acceptable: Client must accept both application/json and text/event-stream");
  }
  if (headers["content-type"] === "application/json") return;
  const type = (headers["content-type"] ?? "").split(";")[0]?.trim().toLowerCase();
  if (type !== "application/json") throw new RefusedRequest(415, -32000, "Unsupported Media Type: Content-Type must be application/json");
}

/** A client of 2026-07-28 is told what servers of that era tell it: each stream belongs to a request, and none is gone on with (R9). */
export function checkGetHeaders(headers: IncomingHttpHeaders): void {
  if (headers["mcp-protocol-version"] === firstModernVersion && headers["mcp-session-id"] === undefined) {
    throw new RefusedRequest(405, -32000, `Method Not Allowed: in protocol ${firstModernVersion} there is only POST`, { allow: "POST" });
  }
  const accept = headers.accept ?? "";
  if (!accept.includes("text/event-stream")) {
    throw new RefusedRequest(406, -32000, "Not Acceptable: Client must accept text/event-stream");
  }
}

export function sessionNotFound(): RefusedRequest {
  return new RefusedRequest(404, -32001, "Session not found: it has ended or is not one of this router; initialize a new one");
}
