import { routerErrorOf } from "../errors.ts";
import { AbortedByRouter, UpstreamError, type UpstreamResponse } from "../upstream-client.ts";
import { CallAnswer } from "./call-answer.ts";
import type { Envelope } from "./envelope.ts";
import { forwardedHeaders, type Inbound, type McpContext, operationHeader } from "./inbound.ts";
import { changesPromised } from "./listen-changes.ts";
import { lasting } from "./rights.ts";

/**
 * `subscriptions/listen` of the modern era: a stream that lasts until the client leaves. It is no call with a deadline, and it outlives its
 * server: it is asked for again on the endpoint that the routes name, and the client sees one acknowledgement (requirement R16), and hears
 * once that what it listens to may have changed.
 */
export async function serveListen(
  context: McpContext,
  inbound: Inbound,
  envelope: Extract<Envelope, { kind: "request" }>,
  body: Buffer,
): Promise<void> {
  const { control, nowMs } = context;
  const { response, view } = inbound;
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
  const stopFollowing = control.onRouteChange((upstream) => {
    const now = control.upstream(upstream);
    if (upstream !== view.name || now === null || now.mode !== "active_standby" || now.active === current?.endpoint) return;
    current?.response.cancel("the routes name another endpoint");
  });
  try {
    for (let waitMs = waitMsMin; !gone.signal.aborted && !answer.done; waitMs = Math.min(2 * waitMs, waitMsMax)) {
      const opened = await open(context, inbound, envelope, body, gone.signal);
      if (opened.kind === "refused") {
        if (!answer.streaming) answer.error(routerErrorOf(opened.problem), { upstream: view.name, operationId: inbound.operationId });
      } else if (opened.kind === "passed") {
        const { status } = opened.response;
        answer.pass(status, await opened.response.collect(bytesMax), opened.response);
      } else {
        current = opened;
        const openedAtMs = nowMs();
        await answer.relay(opened.response, null, opened.endpoint);
        current = null;
        // One that always breaks at once is not to be heard of, each time, by all who listen.
        if (nowMs() - openedAtMs >= lastingMs) waitMs = waitMsMin;
      }
      // Not all at once, when the server of many listeners has died.
      if (!answer.done) await new Promise((resolve) => setTimeout(resolve, waitMs * (0.5 + Math.random())));
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

type Opened =
  | { readonly kind: "open" | "passed"; readonly response: UpstreamResponse; readonly endpoint: string }
  | { readonly kind: "refused"; readonly problem: Parameters<typeof routerErrorOf>[0] };

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
  for (let attempt = await call.next(); attempt !== null; attempt = await call.next()) {
    const { endpoint, connectMs } = attempt;
    try {
      if ((await context.eras.ask(endpoint, connectMs, signal)) !== "modern") {
        if (attempt.done({ outcome: "ineligible", message: `${endpoint.name} does not speak the modern era` }).retry) continue;
        break;
      }
      const headers = forwardedHeaders(inbound.request.headers);
      const response = await context.client.send({ endpoint, method: "POST", headers, body, connectMs, signal, lane: "stream" });
      const { status } = response;
      if (status < 500) {
        attempt.done({ outcome: status === 200 ? "ok" : "caller", httpStatus: status, toolError: false });
        call.end("ok");
        return { kind: status === 200 ? "open" : "passed", response, endpoint: endpoint.name };
      }
      response.discard(250);
      const message = `${endpoint.name} answered ${status}`;
      if (!attempt.done({ outcome: "hard", code: "http_5xx", executed: "unknown", message }).retry) break;
    } catch (error) {
      if (!(error instanceof UpstreamError)) throw error;
      const told = signal.aborted
        ? ({ outcome: "aborted" } as const)
        : ({ outcome: "hard", code: error.code, executed: error.written ? "unknown" : "no", message: error.message } as const);
      if (!attempt.done(told).retry) break;
    }
  }
  const problem = call.problem();
  call.end("error");
  return { kind: "refused", problem };
}
