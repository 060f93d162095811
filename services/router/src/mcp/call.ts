import type { Attempt, AttemptResult, CallControl, CallProblem, EndpointView, LearnedTool } from "../control/port.ts";
import { type RouterError, routerErrorOf, rpcErrorMessage } from "../errors.ts";
import { AbortedByRouter, UpstreamError, type UpstreamResponse } from "../upstream-client.ts";
import { CallAnswer, type Relayed } from "./call-answer.ts";
import { clientInfoKey, clientNameOf, type Envelope, isObject } from "./envelope.ts";
import { clientDeadlineMs, forwardedHeaders, type Inbound, type McpContext, operationHeader } from "./inbound.ts";
import { ReplayError } from "./replay.ts";
import { type Hold, parkedMax, runningMax, type Session } from "./session.ts";

/**
 * One JSON-RPC request of a client, from its first attempt to its one answer. Guarantees:
 * C1  An attempt is told to the control exactly once; another one is made only where the control allows it.
 * C2  `executed: "no"` is said only with proof: nothing was written (U2), the session could not be had, or the upstream said that it does
 *     not know the session. A reset, a time-out, a 5xx or a stream that ended prove nothing.
 * C3  Every request gets one answer, at the latest at its deadline.
 * C4  A client of the legacy era that hangs up does not cancel its call; one of the modern era does (requirement R13).
 */
export async function serveCall(
  context: McpContext,
  inbound: Inbound,
  envelope: Extract<Envelope, { kind: "request" }>,
  body: Buffer,
  session: Session | null,
  relay: RelayAnswer | null = null,
): Promise<AttemptResult["outcome"]> {
  const { control, nowMs } = context;
  const { view, request, response } = inbound;
  const call = control.begin({
    upstream: view.name,
    kind: "mcp",
    method: envelope.method,
    tool: envelope.tool,
    agent: agentOf(request.headers["mcpf-agent"], envelope, session),
    sessionEndpoint: session?.home ?? null,
    deadlineMs: clientDeadlineMs(request.headers, inbound.startedAtMs),
    startedAtMs: inbound.startedAtMs,
  });
  const answer = new CallAnswer(
    response,
    envelope.id,
    { [operationHeader]: inbound.operationId, ...(session === null ? {} : { "mcp-session-id": session.id }) },
    nowMs,
  );
  const abort = new AbortController();
  const gone = new AbortController();
  const deadline = setTimeout(() => abort.abort(new AbortedByRouter("deadline")), Math.max(0, call.deadlineMs - nowMs()));
  const heartbeat = setInterval(() => answer.heartbeat(context.heartbeatMs), context.heartbeatMs);
  const onClose = (): void => {
    if (answer.done || envelope.era !== "modern") return;
    gone.abort(new AbortedByRouter("client_gone"));
    abort.abort(gone.signal.reason);
  };
  response.once("close", onClose);
  const run = new CallRun({ context, inbound, envelope, body, session, call, answer, relay, signal: abort.signal, gone: gone.signal });
  try {
    return await run.serve();
  } finally {
    clearTimeout(deadline);
    clearInterval(heartbeat);
    response.off("close", onClose);
  }
}

/** Takes a successful answer of the upstream instead of the plain relay (`initialize`). */
export type RelayAnswer = (response: UpstreamResponse, endpoint: EndpointView, answer: CallAnswer) => Promise<Relayed>;

interface CallParts {
  readonly context: McpContext;
  readonly inbound: Inbound;
  readonly envelope: Extract<Envelope, { kind: "request" }>;
  readonly body: Buffer;
  readonly session: Session | null;
  readonly call: CallControl;
  readonly answer: CallAnswer;
  readonly relay: RelayAnswer | null;
  /** Ends attempts: at the deadline, or when the client is gone. */
  readonly signal: AbortSignal;
  /** Ends the fallback too, which may take longer than the attempts. */
  readonly gone: AbortSignal;
}

/** How one attempt ended: the client has its answer, or what it gets unless another attempt is made. */
type Tried =
  | { readonly kind: "answered"; readonly told: AttemptResult }
  | { readonly kind: "not_answered"; readonly told: AttemptResult; readonly giveUp: ((answer: CallAnswer) => void) | null };

class CallRun {
  readonly #parts: CallParts;
  constructor(parts: CallParts) {
    this.#parts = parts;
  }

  /** Returns how the call ended for the client. */
  async serve(): Promise<AttemptResult["outcome"]> {
    const { call, answer } = this.#parts;
    if (call.implementation === "legacy") {
      const served = call.legacy !== null && (await this.#serveLegacy(call.legacy));
      if (!served) this.#fail(call.problem());
      call.end(served ? "ok" : "error");
      return served ? "ok" : "hard";
    }
    for (let attempt = await call.next(); ; attempt = await call.next()) {
      if (attempt === null) return this.#giveUp(null);
      const startedAtMs = this.#parts.context.nowMs();
      const tried = await this.#try(attempt);
      const { retry } = attempt.done(tried.told);
      this.#measure(attempt, tried.told, startedAtMs);
      if (tried.kind === "answered") {
        call.end(tried.told.outcome === "hard" ? "error" : "ok");
        return tried.told.outcome;
      }
      if (answer.prompted) {
        answer.withdraw();
        return this.#giveUp(() =>
          this.#fail({ code: "outcome_unknown", message: "the server was lost while it waited for the client", retriable: false }),
        );
      }
      if (!retry) return this.#giveUp(tried.giveUp);
    }
  }

  /** Nothing more can be tried: the fallback where it is allowed, or one error. */
  async #giveUp(giveUp: ((answer: CallAnswer) => void) | null): Promise<AttemptResult["outcome"]> {
    const { call, answer, gone } = this.#parts;
    // The control takes the fallback away where the call may have run already.
    const { legacy } = call;
    if (legacy !== null && !answer.done && !gone.aborted && (await this.#serveLegacy(legacy))) {
      call.end("ok");
      return "ok";
    }
    if (!answer.done) {
      if (giveUp !== null) giveUp(answer);
      else this.#fail(call.problem());
    }
    call.end("error");
    return "hard";
  }

  #fail(problem: CallProblem | RouterError): void {
    const { answer, inbound } = this.#parts;
    const error = routerErrorOf(problem as CallProblem);
    answer.error(error, { upstream: inbound.view.name, operationId: inbound.operationId });
  }

  /** Serves a tool from its legacy HTTP API; false when that failed too. */
  async #serveLegacy(legacy: NonNullable<CallControl["legacy"]>): Promise<boolean> {
    const { answer, envelope, inbound, gone, context } = this.#parts;
    try {
      const result = await legacy(envelope.params["arguments"] ?? {}, gone, inbound.operationId);
      // Results of the modern era say whether they are complete (requirement R20).
      answer.result(envelope.era === "modern" ? { resultType: "complete", ...result } : result);
      return true;
    } catch (error) {
      context.log.warn(
        { upstream: inbound.view.name, tool: envelope.tool, operationId: inbound.operationId, err: error },
        "legacy tool failed",
      );
      return false;
    }
  }

  async #try(attempt: Attempt): Promise<Tried> {
    const { envelope, context, signal, session } = this.#parts;
    let hold: Hold | null = null;
    try {
      if (envelope.era === "modern" && envelope.method !== "server/discover") {
        const era = await context.eras.ask(attempt.endpoint, attempt.connectMs, signal);
        if (era !== "modern")
          return notAnswered({ outcome: "ineligible", message: `${attempt.endpoint.name} does not speak ${envelope.era}` });
      }
      if (session !== null) hold = await this.#hold(session, attempt, null);
    } catch (error) {
      return this.#unplaced(error, attempt);
    }
    let tried = await this.#send(attempt, hold);
    if (tried !== "session_lost") return tried;
    try {
      hold = await this.#hold(session as Session, attempt, hold);
    } catch (error) {
      return this.#unplaced(error, attempt);
    }
    tried = await this.#send(attempt, hold);
    if (tried !== "session_lost") return tried;
    return notAnswered(hard("other", "no", `${attempt.endpoint.name} does not know the session that it has just given`));
  }

  #hold(session: Session, attempt: Attempt, lost: Hold | null): Promise<Hold> {
    const { context, inbound, call } = this.#parts;
    const how = { lost, connectMs: attempt.connectMs, deadlineMs: call.deadlineMs, initialized: true };
    return context.replay.holdOn(session, inbound.view, attempt.endpoint, how);
  }

  /** The session could not be had on the endpoint: the call itself was not sent, which is proof (C2). */
  #unplaced(error: unknown, attempt: Attempt): Tried {
    if (error instanceof UpstreamError) {
      if (this.#clientGone()) return { kind: "answered", told: { outcome: "aborted" } };
      return notAnswered(hard(error.code, "no", error.message));
    }
    if (!(error instanceof ReplayError)) throw error;
    if (error.code === "ended" || error.code === "sticky") {
      return {
        kind: "not_answered",
        told: { outcome: "aborted" },
        giveUp: () => this.#fail({ code: "session_lost", message: error.message, retriable: false } as RouterError),
      };
    }
    if (error.status === 401 || error.status === 403) return this.#credentialRefused(attempt, error.status);
    return notAnswered({ outcome: "ineligible", message: error.message });
  }

  async #send(attempt: Attempt, hold: Hold | null): Promise<Tried | "session_lost"> {
    const { context, inbound, envelope, body, session, answer, signal } = this.#parts;
    const { endpoint } = attempt;
    const headers = forwardedHeaders(inbound.request.headers);
    if (hold !== null && session !== null) {
      if (hold.upstreamSession !== null) headers["mcp-session-id"] = hold.upstreamSession;
      headers["mcp-protocol-version"] ??= session.sealed.version;
      hold.inFlight++;
      hold.usedAtMs = context.nowMs();
      session.home = endpoint.name;
      if (session.running.size < runningMax) session.running.set(envelope.id, hold);
    }
    try {
      let response: UpstreamResponse;
      try {
        response = await context.client.send({
          endpoint,
          method: "POST",
          headers,
          body,
          connectMs: attempt.connectMs,
          signal,
          lane: "call",
        });
      } catch (error) {
        if (!(error instanceof UpstreamError)) throw error;
        if (this.#clientGone()) return { kind: "answered", told: { outcome: "aborted" } };
        return notAnswered(hard(error.code, error.written ? "unknown" : "no", error.message));
      }
      if (response.status === 200) {
        const { relay } = this.#parts;
        const relayed = relay === null ? await answer.relay(response, hold, endpoint.name) : await relay(response, endpoint, answer);
        if (relayed.kind === "failed")
          return this.#clientGone() ? { kind: "answered", told: { outcome: "aborted" } } : notAnswered(relayed.told);
        if (relayed.kind === "parked") this.#park(hold);
        if (envelope.method === "server/discover") context.eras.learn(endpoint, relayed.told.outcome === "ok" ? "modern" : "legacy");
        if (envelope.method === "tools/list" && relayed.kind === "answered") learnTools(context, inbound.view.name, relayed.message.value);
        return { kind: "answered", told: relayed.told };
      }
      return await this.#notOk(attempt, response, hold);
    } finally {
      if (hold !== null) {
        hold.inFlight--;
        session?.running.delete(envelope.id);
      }
    }
  }

  /** An answer with a status other than 200. */
  async #notOk(attempt: Attempt, response: UpstreamResponse, hold: Hold | null): Promise<Tried | "session_lost"> {
    const { envelope, context } = this.#parts;
    const { endpoint } = attempt;
    const { status } = response;
    if (status === 401 || status === 403) {
      response.discard(250);
      return this.#credentialRefused(attempt, status);
    }
    if (status === 429) {
      response.discard(250);
      const retryAfterMs = retryAfterOf(response, context.nowMs());
      const error: RouterError = {
        code: "overloaded",
        message: `${endpoint.name} sheds load; try again later`,
        retriable: true,
        ...(retryAfterMs === null ? {} : { retryAfterMs }),
      };
      return { kind: "not_answered", told: { outcome: "soft", httpStatus: status, toolError: false }, giveUp: () => this.#refuse(error) };
    }
    if (status >= 500) {
      response.discard(250);
      return notAnswered(hard("http_5xx", "unknown", `${endpoint.name} answered ${status}`));
    }
    if (status < 400) {
      response.discard(250);
      return notAnswered(hard("malformed", "unknown", `${endpoint.name} answered a request with status ${status}`));
    }
    let body: Buffer;
    try {
      body = await response.collect(1024 * 1024);
    } catch (error) {
      if (!(error instanceof UpstreamError)) throw error;
      return notAnswered(hard(error.code, "unknown", error.message));
    }
    if (hold !== null && isSessionUnknown(status, body)) return "session_lost";
    if (envelope.method === "server/discover") context.eras.learn(endpoint, "legacy");
    this.#parts.answer.pass(status, body, response);
    return { kind: "answered", told: { outcome: "caller", httpStatus: status, toolError: false } };
  }

  /** The upstream's 401 names another resource than the client asked: it is not passed on (requirement R24). */
  #credentialRefused(attempt: Attempt, httpStatus: number): Tried {
    const error: RouterError = {
      code: "upstream_auth",
      message: `${attempt.endpoint.name} refused the credential that the router has for it (${httpStatus}); an operator has to renew it`,
      retriable: false,
    };
    return { kind: "not_answered", told: { outcome: "auth", httpStatus, toolError: false }, giveUp: () => this.#refuse(error) };
  }
  #refuse(error: RouterError): void {
    const { answer, inbound } = this.#parts;
    answer.error(error, { upstream: inbound.view.name, operationId: inbound.operationId });
  }

  /** The client fetches the answer with its last event id; should the endpoint be lost first, it gets the error that is kept here. */
  #park(hold: Hold | null): void {
    const { answer, session, envelope, inbound } = this.#parts;
    answer.park();
    if (hold === null || session === null || session.parked.size >= parkedMax) return;
    const error: RouterError = {
      code: "outcome_unknown",
      message: `${hold.endpoint} was lost before it gave the answer; the call may have run`,
      retriable: false,
    };
    const place = { upstream: inbound.view.name, operationId: inbound.operationId };
    session.parked.set(envelope.id, { tag: hold.tag, error: rpcErrorMessage(envelope.id, error, place) });
  }

  #clientGone(): boolean {
    return this.#parts.gone.aborted;
  }

  #measure(attempt: Attempt, told: AttemptResult, startedAtMs: number): void {
    const { context, inbound, envelope } = this.#parts;
    const tookMs = context.nowMs() - startedAtMs;
    context.metrics.call({ upstream: inbound.view.name, endpoint: attempt.endpoint.name, outcome: told.outcome }, tookMs);
    context.log.debug(
      {
        upstream: inbound.view.name,
        endpoint: attempt.endpoint.name,
        method: envelope.method,
        tool: envelope.tool,
        outcome: told.outcome,
        ...(told.outcome === "hard" ? { code: told.code, executed: told.executed } : {}),
        tookMs,
        operationId: inbound.operationId,
      },
      "attempt",
    );
  }
}

/**
 * Whether an answer means that the upstream does not know the session (requirement R4): 404 by the protocol; 400 with a JSON-RPC error
 * about the session by server-everything and by SDK servers that lost their memory. It is proof that the request did not run.
 */
export function isSessionUnknown(status: number, body: Buffer): boolean {
  if (status === 404) return true;
  if (status !== 400) return false;
  try {
    const value = JSON.parse(body.toString("utf8")) as { error?: { code?: unknown; message?: unknown } };
    return value.error?.code === -32000 && /session|not initialized/i.test(String(value.error.message));
  } catch {
    return false;
  }
}

/** What the server says of its tools; the control believes it only where the operator does (requirement R19). */
function learnTools(context: McpContext, upstream: string, value: Record<string, unknown>): void {
  const tools = isObject(value["result"]) ? value["result"]["tools"] : undefined;
  if (!Array.isArray(tools)) return;
  const named = tools.slice(0, 1000).flatMap((tool: unknown): LearnedTool[] => {
    if (!isObject(tool) || typeof tool["name"] !== "string") return [];
    const { name, annotations } = tool;
    if (!isObject(annotations)) return [{ name }];
    const hint = (key: string): boolean | undefined => (typeof annotations[key] === "boolean" ? annotations[key] : undefined);
    return [
      {
        name,
        annotations: {
          readOnlyHint: hint("readOnlyHint"),
          idempotentHint: hint("idempotentHint"),
          destructiveHint: hint("destructiveHint"),
        },
      },
    ];
  });
  context.control.learnTools(upstream, named);
}

function agentOf(
  header: string | string[] | undefined,
  envelope: Extract<Envelope, { kind: "request" }>,
  session: Session | null,
): string | null {
  if (typeof header === "string" && header.length <= 128) return header;
  if (session !== null) return clientNameOf(session.sealed.clientParams["clientInfo"]);
  const meta = envelope.params["_meta"] as Record<string, unknown> | undefined;
  return clientNameOf(meta?.[clientInfoKey]);
}

function retryAfterOf(response: UpstreamResponse, nowMs: number): number | null {
  const value = response.headers["retry-after"];
  if (typeof value !== "string") return null;
  const ms = /^\d+$/.test(value) ? Number(value) * 1000 : Date.parse(value) - nowMs;
  return Number.isFinite(ms) && ms >= 0 ? Math.min(ms, 3_600_000) : null;
}

function hard(code: Extract<AttemptResult, { outcome: "hard" }>["code"], executed: "no" | "unknown", message: string): AttemptResult {
  return { outcome: "hard", code, executed, message };
}
function notAnswered(told: AttemptResult): Tried {
  return { kind: "not_answered", told, giveUp: null };
}
