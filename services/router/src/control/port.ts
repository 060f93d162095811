import type { EndpointTls, FailureCode, Topology } from "@mcp-failover/contracts";
import type { LegacyFace } from "@mcp-failover/domain";
import type { EndSignal } from "../ending.ts";
import type { CallTrace } from "../observe/observed-control.ts";

/**
 * The interface between the router's data plane (sockets, sessions, streams) and its control (routes, breakers, policy, accounting).
 *
 * How one call uses it:
 *   const call = control.begin({...});
 *   if (call.implementation === "legacy") -> call.legacy
 *   else for (;;) { const attempt = await call.next(); if (attempt === null) break; ...; if (!attempt.done(result).retry) break; }
 *   // gave up: call.legacy (fallback) where it is not null, else call.problem()
 *   call.end("ok" | "error");   // always; also when the client went away. What comes after the first one is ignored
 *   // at any time: call.end("given_up")
 */
export interface RouterControl {
  /** Null: unknown upstream (404). */
  upstream(name: string): UpstreamView | null;
  upstreams(): readonly string[];
  /** Begins one call: fixes deadline and policy. Throws nothing. */
  begin(call: CallDescription): CallControl;
  ready(): { ok: boolean; reason: string };
  /** Host names and origins that clients may use besides loopback (`router.allowed_hosts`, `allowed_origins`, hosts of `public_urls`). */
  access?(): { readonly hosts: readonly string[]; readonly origins: readonly string[] };
  /** The configuration in force; null before the first. */
  configuration?(): Topology | null;
  /** Annotations seen in an answer to tools/list; believed only where the operator said `trusted: true`. */
  learnTools(upstream: string, tools: readonly LearnedTool[]): void;
  /** Called after the route of an upstream changed (another active endpoint, another configuration); returns how to stop. */
  onRouteChange(listener: (upstream: string) => void): () => void;
}

export interface LearnedTool {
  readonly name: string;
  readonly annotations?: {
    readonly readOnlyHint?: boolean | undefined;
    readonly idempotentHint?: boolean | undefined;
    readonly destructiveHint?: boolean | undefined;
  };
}

export interface UpstreamView {
  readonly name: string;
  readonly kind: "mcp" | "http";
  readonly mode: "active_standby" | "pool";
  readonly sessions: "stateless" | "replayable" | "sticky";
  /** Name of the active endpoint (`active_standby`), or of the first endpoint of the active tier (`pool`). */
  readonly active: string;
  readonly epoch: number;
  readonly generation: number;
  readonly endpoints: readonly EndpointView[];
  readonly bodyBytesMax: number;
  readonly callMs: number;
}

export interface EndpointView {
  readonly name: string;
  readonly url: string;
  readonly role: "write" | "read";
  /** Secrets already resolved: in memory only, for this endpoint only. */
  readonly headers: Readonly<Record<string, string>>;
  /** Files for TLS of its own, where the operator gave some. */
  readonly tls?: EndpointTls;
  /** How it is reached, where that is neither Streamable HTTP nor plain HTTP at `url`. */
  readonly via?: EndpointVia;
}

export type EndpointVia =
  /** A process that the router starts; `url` only stands for it. Secrets of `env` are resolved. */
  | {
      readonly kind: "stdio";
      readonly command: string;
      readonly args: readonly string[];
      readonly env: Readonly<Record<string, string>>;
      readonly cwd: string | undefined;
      readonly sessionsMax: number | undefined;
    }
  /** HTTP+SSE of protocol 2024-11-05, the stream at `url`. */
  | { readonly kind: "sse" };

export interface CallDescription {
  readonly upstream: string;
  readonly kind: "mcp" | "http";
  /** JSON-RPC method or HTTP method. */
  readonly method: string;
  readonly tool: string | null;
  readonly agent: string | null;
  /** The endpoint that holds the session now. */
  readonly sessionEndpoint: string | null;
  /**
   * Why MCP alone can serve it, whatever is rolled back: it `goes_on` with a call whose server has asked the client something (a legacy API would not
   * look at what was answered, R14), or it begins a `task`. Absent: a legacy implementation may serve it.
   */
  readonly mcpOnly?: "goes_on" | "task" | null;
  /** Epoch milliseconds from the client, or Infinity. */
  readonly deadlineMs: number;
  readonly startedAtMs: number;
  /** What the client knows the call by; a call without one leaves no trace where its outcome is unknown. */
  readonly operationId?: string;
  /** Of the request, where traces are made. */
  readonly trace?: CallTrace | undefined;
}

export interface CallControl {
  /** Epoch milliseconds: the client's own deadline less a margin, or the policy's, whichever is sooner. */
  readonly deadlineMs: number;
  /**
   * Epoch milliseconds until which `legacy` may take. Later than `deadlineMs` where a fallback is possible, so that a call whose attempts timed out
   * still gets it: do not abort the signal given to `legacy` at `deadlineMs`. It keeps to this by itself.
   */
  readonly fallbackDeadlineMs: number;
  /** "mcp": use attempts; "legacy": serve by `legacy`. */
  readonly implementation: "mcp" | "legacy";
  readonly safety: "read_only" | "idempotent" | "unsafe";
  /** The route is older than `staleMsMax` and the log is out of reach: the call is served, and the answer should say so. */
  readonly stale: boolean;
  /**
   * Next endpoint to try, or null: give up (with why). `tried` is kept inside.
   * A promise only where the call waits for its turn (`admission`), a write that the active endpoint refused waits for the fleet's next epoch, or a call for the verdict on a half-open
   * endpoint (at most 1.5 s, inside the deadline; `end()` ends the wait with null): so always `await` it, or test for `instanceof Promise`
   * on the hot path.
   */
  next(): Attempt | null | Promise<Attempt | null>;
  /** What the agent is offered where no server answers it, and whether that is to be waited for. Absent: nothing. */
  legacyFace?(): LegacyFace;
  /** Why next() said null, as a typed problem. */
  problem(): CallProblem;
  /**
   * A second attempt, at another endpoint, beside the one that is out and late; null: the call goes on waiting. Ask when `whenLate` says so, and only
   * while nothing of an answer has been given to the client. Tell the attempt that lost as `cancelled`; where one of the two fails, the call waits for
   * the other.
   */
  hedge?(): Attempt | null;
  /**
   * Serves the tool from its legacy HTTP API (rolled back, or as fallback). Null when there is none or it is not allowed: read it
   * again after the attempts, because it becomes null once an unsafe call may have run, and after it was used.
   * It rejects with a `LegacyError`; after that `problem()` says what the client is to be told ("outcome unknown" where it may have run).
   */
  readonly legacy: ((args: unknown, signal: AbortSignal, operationId: string) => Promise<LegacyResult>) | null;
  /**
   * `given_up`: the client wants no answer any more, while attempts may be out: they are told as `aborted` by this, `next()` says null, and what the
   * call held is free at once.
   */
  end(outcome: "ok" | "error" | "given_up"): void;
}

export interface Attempt {
  readonly endpoint: EndpointView;
  readonly connectMs: number;
  /**
   * Aborted when the endpoint hangs and the call may be made at another one: end the attempt and tell a time-out. Null: whatever happens,
   * the attempt is waited for, because what it does must not be done twice.
   */
  readonly givenUp: EndSignal | null;
  /** Calls `listener` once, when such calls have usually been answered. Absent where the call is not made twice at once. */
  readonly whenLate?: ((listener: () => void) => void) | null;
  /** The answer has begun and goes to the client as it comes: the attempt is not given up any more. */
  answering(): void;
  /**
   * Tells the outcome of the attempt; `executed: "no"` only with proof. Returns whether another attempt is allowed
   * (never twice, budget, deadline). Every attempt must be told exactly once.
   */
  done(result: AttemptResult): { readonly retry: boolean };
}

/** Why an exchange failed. `exhausted`: this router's own machine had no file, memory or port left, and nothing was sent; it says nothing of the endpoint. */
export type ExchangeFailure = FailureCode | "exhausted";

export type AttemptResult =
  | {
      readonly outcome: "ok" | "caller" | "soft" | "auth";
      readonly httpStatus: number;
      /** isError or server-side JSON-RPC error. */
      readonly toolError: boolean;
      /** Of a 429 that said so. */
      readonly retryAfterMs?: number;
      /** What has to come before the call was refused (the question for its era, the replay of its session): the call itself was not sent. */
      readonly executed?: "no";
    }
  | {
      readonly outcome: "hard";
      readonly code: ExchangeFailure;
      readonly executed: "no" | "unknown";
      readonly message: string;
      /** Of an answer that is a failure by its status. */
      readonly httpStatus?: number;
      /** Of a 503 that said so. */
      readonly retryAfterMs?: number;
    }
  /** The client went away. */
  | { readonly outcome: "aborted" }
  /** The call's other attempt gave the answer, or the one that this got was not to be used: it says nothing on the endpoint. */
  | { readonly outcome: "cancelled" }
  /**
   * Nothing was sent and nothing is wrong with the endpoint's health: it cannot serve this call (other protocol era, fewer capabilities
   * than the session was promised, a sticky session lives elsewhere). Another endpoint may be tried, without cost to the retry budget.
   */
  | { readonly outcome: "ineligible"; readonly message: string };

export type LegacyResult = { content: unknown[]; structuredContent?: unknown; isError?: boolean };

export interface CallProblem {
  readonly code: "no_endpoint" | "outcome_unknown" | "deadline" | "budget" | "unknown_upstream" | "session_lost" | "overloaded";
  /** A sentence for the client, without secrets. */
  readonly message: string;
  readonly retriable: boolean;
  /** Of `overloaded`: when to come again, and whether the agent calls too often (429) or all together do (503). */
  readonly retryAfterMs?: number;
  readonly httpStatus?: 429 | 503;
}
