import type { AttemptResult, UpstreamView } from "../control/port.ts";
import { type RouterError, routerErrorOf } from "../errors.ts";
import { statusTold } from "../http-proxy.ts";
import { AbortedByRouter, UpstreamError, type UpstreamResponse } from "../upstream-client.ts";
import { CallAnswer } from "./call-answer.ts";
import { type Envelope, readServerMessage } from "./envelope.ts";
import { DiscoverRefused } from "./era.ts";
import { forwardedHeaders, type Inbound, type McpContext, operationHeader } from "./inbound.ts";
import { changesPromised } from "./listen-changes.ts";
import { redirected } from "./notify.ts";
import { credentialRefused, loadShed } from "./refusals.ts";
import { lasting } from "./rights.ts";

/**
 * `subscriptions/listen` of the modern era: a stream that lasts until the client leaves. It is no call with a deadline, and it outlives its
 * server: it is asked for again on the endpoint that the routes name, and the client sees one acknowledgement (requirement R16), and hears
 * once that what it listens to may have changed. Once it has begun, a server that fails, sheds load or refuses the router's credential ends it
 * for nobody: it is asked again after a pause.
 */
export async function serveListen(
  context: McpContext,
  inbound: Inbound,
  envelope: Extract<Envelope, { kind: "request" }>,
  body: Buffer,
): Promise<void> {
  const { control, nowMs } = context;
  const { response, view } = inbound;
  const place = { upstream: view.name, operationId: inbound.operationId };
  const answer = new CallAnswer(response, envelope.id, { [operationHeader]: inbound.operationId }, nowMs);
  let missed: readonly object[] | null = null;
  answer.onAcknowledged = (acknowledgement) => {
    // The rest is heard from now on: what changes later is told by the server.
    for (const message of missed ?? []) answer.say(message);
    missed ??= changesPromised(acknowledgement, envelope.id);
  };
  const gone = new AbortController();
  response.once("close", () => gone.abort(new AbortedByRouter("client_gone")));
  const heartbeat = setInterval(() => answer.heartbeat(context.heartbeatMs), context.heartbeatMs);
  let current: { response: UpstreamResponse; endpoint: string } | null = null;
  const stop = (): void => {
    gone.abort(new AbortedByRouter("shutdown"));
    response.destroy();
  };
  lasting(context, { response, principal: inbound.principal, upstream: view.name }, stop);
  const active = (): string | null => activeOf(control.upstream(view.name));
  const stopFollowing = control.onRouteChange((upstream) => {
    if (upstream !== view.name || current === null || (active() ?? current.endpoint) === current.endpoint) return;
    current.response.cancel(movedAway);
  });
  try {
    for (let waitMs = waitMsMin; !gone.signal.aborted && !answer.done; waitMs = Math.min(2 * waitMs, waitMsMax)) {
      const before = active();
      const opened = await open(context, inbound, envelope, body, gone.signal);
      let restMs = 0;
      if (opened.kind === "refused") {
        if (!answer.streaming) answer.error(opened.error, place);
        restMs = Math.min(opened.error.retryAfterMs ?? 0, restMsMax);
      } else if (opened.kind === "passed") {
        await pass(answer, opened, envelope.id, place);
      } else {
        current = opened;
        const openedAtMs = performance.now();
        const relayed = answer.relay(opened.response, null, opened.endpoint);
        // Whom the routes name now is heard from now on, though this one took a while to answer.
        if (active() !== before && active() !== opened.endpoint) opened.response.cancel(movedAway);
        await relayed;
        current = null;
        // One that always breaks at once is not to be heard of, each time, by all who listen.
        if (performance.now() - openedAtMs >= lastingMs) waitMs = waitMsMin;
      }
      // Not all at once, when the server of many listeners has died.
      if (!answer.done) await new Promise((resolve) => setTimeout(resolve, restMs + waitMs * (0.5 + Math.random())));
    }
  } finally {
    stopFollowing();
    clearInterval(heartbeat);
  }
}

const waitMsMin = 50;
const lastingMs = 1000;
const waitMsMax = 5000;
const bytesMax = 1024 * 1024;
/** Of the pause that a server asks for. */
const restMsMax = 30_000;
const movedAway = "the routes name another endpoint";

type Opened =
  | { readonly kind: "open" | "passed"; readonly response: UpstreamResponse; readonly endpoint: string }
  | { readonly kind: "refused"; readonly error: RouterError };

/** Null: the routes name none. */
function activeOf(view: UpstreamView | null): string | null {
  return view?.mode === "active_standby" ? view.active : null;
}

/** What a server says that takes no such request; on a stream that has begun only if it is an answer to this one. */
async function pass(
  answer: CallAnswer,
  { response, endpoint }: Extract<Opened, { kind: "open" | "passed" }>,
  id: string | number,
  place: { upstream: string; operationId: string },
): Promise<void> {
  let body: Buffer;
  try {
    body = await response.collect(bytesMax);
  } catch (error) {
    if (!(error instanceof UpstreamError)) throw error;
    if (!answer.streaming)
      answer.error({ code: "upstream_malformed", message: `${endpoint} broke off its answer`, retriable: true }, place);
    return;
  }
  const said = answer.streaming ? readServerMessage(body.toString("utf8")) : null;
  if (said === null || (said.kind === "answer" && said.id === id)) return answer.pass(response.status, body, response);
  answer.error(
    { code: "upstream_malformed", message: `${endpoint} refused to be listened to (${response.status})`, retriable: true },
    place,
  );
}

async function open(
  context: McpContext,
  inbound: Inbound,
  envelope: Extract<Envelope, { kind: "request" }>,
  body: Buffer,
  signal: AbortSignal,
): Promise<Opened> {
  const call = context.control.begin({
    upstream: inbound.view.name,
    kind: "mcp",
    method: envelope.method,
    tool: null,
    agent: null,
    sessionEndpoint: null,
    deadlineMs: Number.POSITIVE_INFINITY,
    startedAtMs: context.nowMs(),
  });
  let refusal: RouterError | null = null;
  for (let attempt = await call.next(); attempt !== null; attempt = await call.next()) {
    const { endpoint, connectMs } = attempt;
    try {
      if ((await context.eras.ask(endpoint, connectMs, signal)) !== "modern") {
        if (attempt.done({ outcome: "ineligible", message: `${endpoint.name} does not speak the modern era` }).retry) continue;
        break;
      }
      const headers = forwardedHeaders(inbound.request.headers);
      const response = await context.client.send({ endpoint, method: "POST", headers, body, connectMs, signal, lane: "stream" });
      const told = toldOf(response, endpoint.name, context.nowMs());
      if (response.status === 200 || told.outcome === "caller") {
        attempt.done(told);
        call.end("ok");
        return { kind: response.status === 200 ? "open" : "passed", response, endpoint: endpoint.name };
      }
      response.discard(250);
      refusal = refusalOf(told, endpoint.name);
      if (!attempt.done(told).retry) break;
    } catch (error) {
      if (error instanceof DiscoverRefused) {
        const told = statusTold({ status: error.httpStatus, headers: {} }, endpoint.name, context.nowMs());
        const rest = error.retryAfterMs === null ? {} : { retryAfterMs: error.retryAfterMs };
        refusal = refusalOf({ ...told, ...rest }, endpoint.name);
        if (!attempt.done({ ...told, ...rest }).retry) break;
        continue;
      }
      if (!(error instanceof UpstreamError)) throw error;
      const told = signal.aborted
        ? ({ outcome: "aborted" } as const)
        : ({ outcome: "hard", code: error.code, executed: error.written ? "unknown" : "no", message: error.message } as const);
      refusal = null;
      if (!attempt.done(told).retry) break;
    }
  }
  const error = refusal ?? routerErrorOf(call.problem());
  call.end("error");
  return { kind: "refused", error };
}

function toldOf(response: UpstreamResponse, endpoint: string, nowMs: number): AttemptResult {
  const told = redirected(response, endpoint) ?? statusTold(response, endpoint, nowMs);
  if (told.outcome !== "ok" || response.status === 200) return told;
  const message = `${endpoint} answered a request with status ${response.status}`;
  return { outcome: "hard", code: "malformed", executed: "unknown", message };
}

/** Null: the control says it. */
function refusalOf(told: AttemptResult, endpoint: string): RouterError | null {
  if (told.outcome === "auth") return credentialRefused(endpoint, told.httpStatus);
  return told.outcome === "soft" && told.httpStatus === 429 ? loadShed(endpoint, told.retryAfterMs ?? null) : null;
}
