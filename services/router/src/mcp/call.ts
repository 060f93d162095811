import type { Attempt, AttemptResult, CallControl, CallProblem } from "../control/port.ts";
import { Ending } from "../ending.ts";
import { type RouterError, routerErrorOf, rpcErrorMessage, sendJson } from "../errors.ts";
import { runHedged } from "../hedge.ts";
import { visibleAnswer } from "../identity/tool-access.ts";
import { AbortedByRouter } from "../upstream-client.ts";
import { AttemptRun, type CallParts, type RelayAnswer } from "./attempt.ts";
import { type Answer, CallAnswer } from "./call-answer.ts";
import { watchCall } from "./call-clock.ts";
import { endpointTag, readCursor, tagNextCursor } from "./cursor.ts";
import { clientInfoKey, clientNameOf, type Envelope } from "./envelope.ts";
import { isBeginning, standInFor, standInMs } from "./face.ts";
import { clientDeadlineMs, type Inbound, type McpContext, operationHeader } from "./inbound.ts";
import { readIssuedState, tagIssuedState } from "./issued-state.ts";
import { sendTo } from "./notify.ts";
import { runningMax, type Session } from "./session.ts";
import { type Tried, withheld } from "./tried.ts";

/**
 * One JSON-RPC request of a client, from its first attempt to its one answer. Guarantees:
 * C1  An attempt is told to the control exactly once; another one is made only where the control allows it.
 * C2  `executed: "no"` is said only with proof: nothing was written (U2), the session could not be had, or the upstream said that it does
 *     not know the session. A reset, a time-out, a 5xx or a stream that ended prove nothing.
 * C3  Every request gets one answer, at the latest at its deadline.
 * C4  A client of the legacy era that hangs up does not cancel its call; one of the modern era does (requirement R13).
 * C5  A call that its client has given up, by hanging up in the modern era or by `notifications/cancelled` of its own session, is over at once: no
 *     attempt, wait or legacy call of it goes on, and what a server still says to it is for nobody, because nothing reads it any more.
 */
export function serveCall(
  context: McpContext,
  inbound: Inbound,
  envelope: Extract<Envelope, { kind: "request" }>,
  given: Buffer,
  session: Session | null,
  relay: RelayAnswer | null = null,
): Promise<AttemptResult["outcome"]> {
  const { view, principal } = inbound;
  const { method } = envelope;
  // What is no question about a task is not looked through for one.
  if (!method.startsWith("tasks/")) return serveCallAt(context, inbound, envelope, given, session, relay, null);
  const known = context.tasks.endpointOf(view.name, principal.id, method, envelope.params);
  const { taskId } = envelope.params;
  // A single endpoint runs them all.
  if (known !== null || view.endpoints.length === 1 || typeof taskId !== "string")
    return serveCallAt(context, inbound, envelope, given, session, relay, known);
  return context.tasks.find(view.name, principal.id, taskId).then((place) => {
    if (place.kind === "runs_on") return serveCallAt(context, inbound, envelope, given, session, relay, place.endpoint);
    // Of a task that nobody saw begin the active endpoint may say so; any other one of a pool would deny what its neighbour runs.
    if (place.kind === "unknown" && view.mode === "active_standby")
      return serveCallAt(context, inbound, envelope, given, session, relay, null);
    const error = place.kind === "unknown" ? unknownTask : unaskedTask;
    const where = { upstream: view.name, operationId: inbound.operationId };
    sendJson(inbound.response, 200, rpcErrorMessage(envelope.id, error, where), { [operationHeader]: inbound.operationId });
    return "ineligible";
  });
}

const unknownTask: RouterError = {
  code: "outcome_unknown",
  message: "no router knows which endpoint runs this task: it may have ended long ago, or be nobody's; it was not made again",
  retriable: false,
};
const unaskedTask: RouterError = {
  code: "outcome_unknown",
  message: "this router did not see the task begin, and cannot ask the others now which endpoint runs it; ask again later",
  retriable: true,
};

function serveCallAt(
  context: McpContext,
  inbound: Inbound,
  envelope: Extract<Envelope, { kind: "request" }>,
  given: Buffer,
  session: Session | null,
  relay: RelayAnswer | null,
  /** The endpoint of the task that is asked for. */
  runsOn: string | null,
): Promise<AttemptResult["outcome"]> {
  const { control, nowMs } = context;
  const { view, request, response } = inbound;
  // A single endpoint's is given on as it is: what looks like ours was named by another router behind it.
  const isNamed = view.endpoints.length > 1;
  // Only a list has one; elsewhere it would choose the endpoint of a call.
  const cursor = isNamed && envelope.method.endsWith("/list") ? readCursor(envelope.params["cursor"]) : null;
  const listing = cursor === null ? null : (view.endpoints.find(({ name }) => endpointTag(name) === cursor.tag)?.name ?? null);
  const issued = isNamed && envelope.era === "modern" ? readIssuedState(given, () => envelope.params) : null;
  const issuer = issued === null ? null : (view.endpoints.find(({ name }) => endpointTag(name) === issued.tag)?.name ?? null);
  const call = control.begin({
    upstream: view.name,
    kind: "mcp",
    method: envelope.method,
    tool: envelope.tool,
    agent: inbound.principal.agent ?? agentOf(request.headers["mcpf-agent"], envelope, session),
    mcpOnly: mcpOnlyOf(envelope),
    sessionEndpoint: listing ?? runsOn ?? (view.sessions === "sticky" ? null : issuer) ?? session?.place ?? null,
    deadlineMs: clientDeadlineMs(request.headers, inbound.startedAtMs),
    startedAtMs: inbound.startedAtMs,
    operationId: inbound.operationId,
    trace: inbound.trace,
  });
  const answer = new CallAnswer(
    response,
    envelope.id,
    {
      [operationHeader]: inbound.operationId,
      ...(session === null ? {} : { "mcp-session-id": session.id }),
      // The route may be out of date and the log out of reach: whoever writes should know (design, "stale route").
      ...(call.stale ? { "mcpf-route": "stale" } : {}),
    },
    nowMs,
    (message, endpoint) => {
      const isRemembered = isNamed && message.isPlain !== true;
      const shown = inbound.principal.mayCallAll(view.name) ? null : visibleAnswer(inbound.principal, view.name, message.value);
      const isTagged = isRemembered && envelope.method.endsWith("/list");
      if (isTagged) return tagNextCursor(shown ?? message.value, endpoint) ?? shown;
      return (isRemembered && envelope.era === "modern" ? tagIssuedState(shown ?? message.value, endpoint) : null) ?? shown;
    },
    session === null ? null : { logs: session.logs, version: String(request.headers["mcp-protocol-version"] ?? session.sealed.version) },
  );
  if (isNamed && envelope.tool !== null) {
    // A name of its own first: V8 takes a function that is written straight into a property for a method, and puts each where it seldom
    // collects. There it kept everything of its call, and with ten thousand calls a second the collector stood in the way for 20 ms at a time.
    const keepTask = (message: Answer, endpoint: string): Promise<void> | null =>
      message.isPlain === true ? null : context.tasks.learn(view.name, inbound.principal.id, endpoint, message.value["result"]);
    answer.beforeAnswer = keepTask;
  }
  const abort = new Ending();
  const gone = new Ending();
  const clock = watchCall({
    nowMs,
    deadlineMs: call.deadlineMs,
    heartbeatMs: context.heartbeatMs,
    onDeadline: () => abort.abort(new AbortedByRouter("deadline")),
    onHeartbeat: () => answer.heartbeat(context.heartbeatMs),
  });
  const onGivenUp = (): void => {
    if (answer.done) return;
    // The control first: how the attempts take their end must not count.
    call.end("given_up");
    if (session !== null) answer.cancel();
    gone.abort(new AbortedByRouter("client_gone"));
    abort.abort(gone.reason);
  };
  const endsWithClient = envelope.era === "modern";
  if (endsWithClient) response.once("close", onGivenUp);
  else if (session !== null && session.calls.size < runningMax) session.calls.set(envelope.id, onGivenUp);
  const inForce = isBeginning(envelope) && call.legacyFace?.().inForce === true;
  const standIn = inForce ? setTimeout(() => !answer.streaming && abort.abort(new AbortedByRouter("stand_in")), standInMs) : null;
  const parts: CallParts = {
    context,
    inbound,
    envelope,
    body: issued?.body ?? given,
    session,
    call,
    clock,
    answer,
    cursor,
    runsOn,
    relay,
    signal: abort,
    gone,
  };
  return new CallRun(parts, () => {
    clock.stop();
    if (standIn !== null) clearTimeout(standIn);
    if (endsWithClient) response.off("close", onGivenUp);
    else session?.calls.delete(envelope.id, onGivenUp);
  }).serve();
}

class CallRun {
  readonly #parts: CallParts;
  readonly #over: () => void;
  constructor(parts: CallParts, over: () => void) {
    this.#parts = parts;
    this.#over = over;
  }

  /**
   * Returns how the call ended for the client. One function waits for all that may have to be waited for: each promise between would cost
   * every call. An error of the router's own ends the call; what the control keeps for it is given back all the same (C1).
   */
  async serve(): Promise<AttemptResult["outcome"]> {
    const { call, answer, context, gone } = this.#parts;
    let open: Attempt | null = null;
    try {
      if (call.implementation === "legacy") return await this.#serveLegacyAlone();
      // What no endpoint could serve is said as the last of them said it.
      let unserved: ((answer: CallAnswer) => void) | null = null;
      for (;;) {
        const next = call.next();
        let attempt: Attempt | null = next instanceof Promise ? await next : next;
        if (attempt === null) return await this.#giveUp(unserved);
        open = attempt;
        const startedAtMs = context.nowMs();
        let tried: Tried;
        // Its client may have left while it waited for its turn.
        if (gone.aborted) tried = { kind: "answered", told: { outcome: "aborted" } };
        else if (attempt.whenLate == null || !this.#mayHedge) tried = await new AttemptRun(this.#parts, attempt).run();
        else {
          ({ attempt, ran: tried } = await this.#runHedged(attempt, startedAtMs));
          open = attempt;
        }
        tried = this.#unlessStoodIn(tried);
        const { retry } = attempt.done(tried.told);
        open = null;
        this.#measure(attempt, tried.told, startedAtMs);
        if (tried.kind === "answered") {
          call.end(tried.told.outcome === "hard" ? "error" : "ok");
          return tried.told.outcome;
        }
        if (answer.prompted) {
          answer.withdraw();
          return await this.#giveUp(() =>
            this.#fail({ code: "outcome_unknown", message: "the server was lost while it waited for the client", retriable: false }),
          );
        }
        if (tried.told.outcome === "ineligible") unserved = tried.giveUp;
        else if (!this.#isPinned) unserved = null;
        if (!retry) return await this.#giveUp(tried.giveUp ?? unserved);
      }
    } catch (error) {
      open?.done({ outcome: "aborted" });
      // Its place among the calls of the upstream is free again.
      call.end("error");
      throw error;
    } finally {
      this.#over();
    }
  }

  /**
   * Another endpoint can only take it where nothing ties it to one; a call that begins a task would begin two. What goes on with a call
   * carries the state of the endpoint that asked, and another one would ask the user again (R14).
   */
  get #mayHedge(): boolean {
    const { relay, envelope } = this.#parts;
    return relay === null && !this.#isPinned && mcpOnlyOf(envelope) === null;
  }

  async #runHedged(first: Attempt, startedAtMs: number): Promise<{ attempt: Attempt; ran: Tried }> {
    const parts = this.#parts;
    const { context, inbound, session, envelope, gone } = parts;
    const runs = new Map<Attempt, AttemptRun>();
    return runHedged<Tried>(first, {
      call: parts.call,
      run: (attempt, lane) => {
        const run = new AttemptRun(parts, attempt, lane);
        runs.set(attempt, run);
        return run.run();
      },
      toldOf: (ran) => this.#unlessStoodIn(ran).told,
      isFinal: ({ kind }) => kind === "answered",
      onOver: (attempt, told) => {
        this.#measure(attempt, told, startedAtMs);
        // In the legacy era the end of a connection cancels nothing (R13). What the client has cancelled, both servers are told by its own message.
        const hold = runs.get(attempt)?.sentOn ?? null;
        if (told.outcome !== "cancelled" || session === null || hold === null || gone.aborted) return;
        const params = { requestId: envelope.id, reason: "answered by another endpoint" };
        const body = Buffer.from(JSON.stringify({ jsonrpc: "2.0", method: "notifications/cancelled", params }));
        sendTo(context, inbound, session, hold, body).catch((err: unknown) => this.#sayTrouble(err));
      },
      onTrouble: (err) => this.#sayTrouble(err),
    });
  }

  #sayTrouble(err: unknown): void {
    const { context, inbound } = this.#parts;
    context.log.warn({ upstream: inbound.view.name, operationId: inbound.operationId, err }, "what is left of a hedged call failed");
  }

  async #serveLegacyAlone(): Promise<AttemptResult["outcome"]> {
    const { call } = this.#parts;
    const served = call.legacy !== null && (await this.#serveLegacy(call.legacy));
    if (!served) this.#fail(call.problem());
    call.end(served ? "ok" : "error");
    return served ? "ok" : "hard";
  }

  /** A server that is slow to let an agent begin, for which legacy stands in, has not failed for that (F4). */
  #unlessStoodIn(tried: Tried): Tried {
    const { reason } = this.#parts.signal;
    if (tried.kind === "answered" || tried.told.outcome !== "hard") return tried;
    return reason instanceof AbortedByRouter && reason.kind === "stand_in" ? withheld : tried;
  }

  /** One endpoint alone can serve it. */
  get #isPinned(): boolean {
    return this.#parts.cursor !== null || this.#parts.runsOn !== null;
  }

  /** Nothing more can be tried: the fallback where it is allowed, or one error. */
  async #giveUp(giveUp: ((answer: CallAnswer) => void) | null): Promise<AttemptResult["outcome"]> {
    const { call, answer, gone, context, inbound, envelope } = this.#parts;
    // The control takes the fallback away where the call may have run already.
    const { legacy } = call;
    if (legacy !== null && !answer.done && !gone.aborted && (await this.#serveLegacy(legacy))) {
      call.end("ok");
      return "ok";
    }
    const stood = answer.done || gone.aborted || answer.streaming ? null : (standInFor(context, inbound, envelope, call)?.() ?? null);
    if (stood !== null) {
      answer.whole(Buffer.from(JSON.stringify({ jsonrpc: "2.0", id: envelope.id, result: stood.result })), stood.headers);
      call.end("error");
      return "ok";
    }
    if (!answer.done) {
      if (giveUp !== null) giveUp(answer);
      else this.#fail(call.problem());
    }
    call.end("error");
    return "hard";
  }

  #fail(problem: CallProblem): void {
    const { answer, inbound } = this.#parts;
    answer.error(routerErrorOf(problem), { upstream: inbound.view.name, operationId: inbound.operationId });
  }

  /** Serves a tool from its legacy HTTP API; false when that failed too. */
  async #serveLegacy(legacy: NonNullable<CallControl["legacy"]>): Promise<boolean> {
    const { answer, envelope, inbound, gone, context } = this.#parts;
    try {
      const result = await legacy(envelope.params["arguments"] ?? {}, gone.toSignal(), inbound.operationId);
      // Results of the modern era say whether they are complete (requirement R20).
      answer.result(envelope.era === "modern" ? { resultType: "complete", ...result } : result);
      return true;
    } catch (error) {
      // What is refused because there is too much is counted; a line for each would be too much again.
      const level = this.#parts.call.problem().code === "overloaded" ? "debug" : "warn";
      context.log[level](
        { upstream: inbound.view.name, tool: envelope.tool, operationId: inbound.operationId, err: error },
        "legacy tool failed",
      );
      return false;
    }
  }

  #measure(attempt: Attempt, told: AttemptResult, startedAtMs: number): void {
    const { context, inbound, envelope } = this.#parts;
    const tookMs = context.nowMs() - startedAtMs;
    context.metrics.call({ upstream: inbound.view.name, endpoint: attempt.endpoint.name, outcome: told.outcome }, tookMs);
    if (context.log.isLevelEnabled?.("debug") === false) return;
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

/** What only a server of MCP can serve: what goes on with a call that it has begun (R14), and a call that begins a task. */
function mcpOnlyOf({ params }: Extract<Envelope, { kind: "request" }>): "goes_on" | "task" | null {
  if (params["requestState"] !== undefined || params["inputResponses"] !== undefined) return "goes_on";
  return params["task"] === undefined ? null : "task";
}

function agentOf(
  header: string | string[] | undefined,
  envelope: Extract<Envelope, { kind: "request" }>,
  session: Session | null,
): string | null {
  if (typeof header === "string" && header.length <= 128) return header;
  if (session !== null) return clientNameOf(session.sealed.clientParams["clientInfo"]);
  const meta = envelope.params["_meta"] as Record<string, unknown> | undefined;
  // Of sessions, only the request that begins one says it.
  return clientNameOf(envelope.method === "initialize" ? envelope.params["clientInfo"] : meta?.[clientInfoKey]);
}
