import type { IncomingHttpHeaders } from "node:http";
import { classifyHttpStatus } from "@mcp-failover/domain";
import type { ClientRequest, ClientResponse } from "./client-exchange.ts";
import type { Attempt, AttemptResult, CallControl, RouterControl, UpstreamView } from "./control/port.ts";
import { eitherOf } from "./ending.ts";
import { httpStatusOf, type RouterError, retryAfter, routerErrorOf, sendJson } from "./errors.ts";
import { type AnyLane, alone, runHedged } from "./hedge.ts";
import type { Principal } from "./identity/principal.ts";
import { clientDeadlineMs, type DataPlaneLog, type DataPlaneMetrics, operationHeader } from "./mcp/inbound.ts";
import type { RequestTrace } from "./observe/trace.ts";
import {
  AbortedByRouter,
  type ResponseHeaders,
  retryAfterMsOf,
  type UpstreamClient,
  UpstreamError,
  type UpstreamResponse,
} from "./upstream-client.ts";

/**
 * `/http/<upstream>/*`: any HTTP API. Guarantees:
 * P1  A request is sent again only where the control allows it; the body is held for that, up to the limit.
 * P2  Headers that concern one connection, credentials and cookies stay on their side (requirement R24); redirects are passed on.
 *     The path of the endpoint is not left, because its credential is meant for what is under it.
 * P3  Answers are streamed with back-pressure. One that breaks off midway breaks off for the client too: it is never passed as whole.
 */
export interface HttpContext {
  readonly control: RouterControl;
  readonly client: UpstreamClient;
  readonly log: DataPlaneLog;
  readonly metrics: DataPlaneMetrics;
  readonly nowMs: () => number;
}
export interface HttpInbound {
  readonly request: ClientRequest;
  readonly response: ClientResponse;
  readonly view: UpstreamView;
  readonly principal: Principal;
  /** What follows the name of the upstream in the URL: path and query. */
  readonly suffix: string;
  readonly operationId: string;
  readonly startedAtMs: number;
  readonly trace?: RequestTrace | undefined;
}

/** A body may pause this long; the deadline ends with the headers that the client gets: downloads and event streams take their time. */
const bodyIdleMs = 60_000;

export async function serveHttp(context: HttpContext, inbound: HttpInbound, body: Buffer): Promise<void> {
  const { control, nowMs } = context;
  const { request, response, view } = inbound;
  const call = control.begin({
    upstream: view.name,
    kind: "http",
    method: request.method ?? "GET",
    tool: null,
    agent: inbound.principal.agent ?? agentOf(request.headers["mcpf-agent"]),
    sessionEndpoint: null,
    deadlineMs: clientDeadlineMs(request.headers, inbound.startedAtMs),
    startedAtMs: inbound.startedAtMs,
    operationId: inbound.operationId,
    trace: inbound.trace,
  });
  const abort = new AbortController();
  const deadline = setTimeout(() => abort.abort(new AbortedByRouter("deadline")), Math.max(0, call.deadlineMs - nowMs()));
  response.once("close", () => {
    if (response.writableFinished) return;
    // The control first, as in MCP: a call that waits for its turn leaves the queue to those who are there.
    call.end("given_up");
    abort.abort(new AbortedByRouter("client_gone"));
  });
  try {
    for (let next = await call.next(); next !== null; next = await call.next()) {
      const startedAtMs = nowMs();
      const { attempt, ran } = await sendHedged(context, inbound, body, call, next, abort.signal);
      const { endpoint } = attempt;
      const { upstream } = ran;
      let { told } = ran;
      const measure = (): void => {
        context.metrics.call({ upstream: view.name, endpoint: endpoint.name, outcome: told.outcome }, nowMs() - startedAtMs);
        context.log.debug(
          { upstream: view.name, endpoint: endpoint.name, method: request.method, outcome: told.outcome, operationId: inbound.operationId },
          "attempt",
        );
      };
      if (upstream !== null && (told.outcome === "ok" || told.outcome === "caller")) {
        clearTimeout(deadline);
        const broken = await relay(upstream, inbound, call.stale);
        if (broken !== null) {
          told = isGone(abort.signal)
            ? { outcome: "aborted" }
            : { outcome: "hard", code: broken.code, executed: "unknown", message: broken.message };
        }
        attempt.done(told);
        measure();
        return call.end(told.outcome === "hard" ? "error" : "ok");
      }
      const { retry } = attempt.done(told);
      measure();
      if (told.outcome === "aborted") return call.end("error");
      if (retry) {
        upstream?.discard(250);
        continue;
      }
      // The upstream's own answer says more than ours could; only its 401 and 403 are about the router's credential, not the client's.
      if (upstream !== null && told.outcome !== "auth") {
        clearTimeout(deadline);
        await relay(upstream, inbound, call.stale);
      } else if (told.outcome === "auth") {
        upstream?.discard(250);
        const message = `${endpoint.name} refused the credential that the router has for it; an operator has to renew it`;
        fail(inbound, { code: "upstream_auth", message, retriable: false }, call.stale);
      } else {
        fail(inbound, routerErrorOf(call.problem()), call.stale);
      }
      return call.end("error");
    }
    fail(inbound, routerErrorOf(call.problem()), call.stale);
    call.end("error");
  } catch (error) {
    // Our own fault: its place among the calls of the upstream is free again.
    call.end("error");
    throw error;
  } finally {
    clearTimeout(deadline);
  }
}

/** An exchange as far as its headers. */
interface Sent {
  readonly upstream: UpstreamResponse | null;
  readonly told: AttemptResult;
}

/** A read that is late is sent to a second endpoint too; the answer whose headers come first is the client's, the second one's only if it is no error. */
async function sendHedged(
  context: HttpContext,
  inbound: HttpInbound,
  body: Buffer,
  call: CallControl,
  first: Attempt,
  signal: AbortSignal,
): Promise<{ readonly attempt: Attempt; readonly ran: Sent }> {
  if (first.whenLate == null) return { attempt: first, ran: await send(context, inbound, body, first, signal, alone) };
  const { view, operationId } = inbound;
  return runHedged<Sent>(first, {
    call,
    run: (attempt, lane) => send(context, inbound, body, attempt, signal, lane),
    toldOf: ({ told }) => told,
    isFinal: ({ told: { outcome } }) => outcome === "ok" || outcome === "caller" || outcome === "aborted",
    onOver: (attempt, told, ran) => {
      ran?.upstream?.discard(250);
      const { name } = attempt.endpoint;
      context.log.debug(
        { upstream: view.name, endpoint: name, method: inbound.request.method, outcome: told.outcome, operationId },
        "attempt",
      );
    },
    onTrouble: (err) => context.log.debug({ upstream: view.name, operationId, err }, "what is left of a hedged call failed"),
  });
}

async function send(
  context: HttpContext,
  inbound: HttpInbound,
  body: Buffer,
  attempt: Attempt,
  signal: AbortSignal,
  lane: AnyLane,
): Promise<Sent> {
  const { request } = inbound;
  const { endpoint, givenUp } = attempt;
  const ends = givenUp === null ? signal : eitherOf(signal, givenUp);
  try {
    const upstream = await context.client.send({
      endpoint,
      method: request.method ?? "GET",
      suffix: inbound.suffix,
      headers: requestHeaders(request.headers),
      body: body.length === 0 ? null : body,
      connectMs: attempt.connectMs,
      signal: lane.cancelled === null ? ends : eitherOf(ends, lane.cancelled),
      lane: "call",
    });
    const told = statusTold(upstream, endpoint.name, context.nowMs());
    if (told.outcome === "ok" || told.outcome === "caller") {
      if (!lane.takes(told.outcome === "ok" ? "answer" : "error")) {
        upstream.cancel("the answer is not wanted");
        return { upstream: null, told: { outcome: "cancelled" } };
      }
    }
    // What streams to the client is not given up any more.
    attempt.answering();
    return { upstream, told };
  } catch (error) {
    if (!(error instanceof UpstreamError)) throw error;
    if (isGone(signal)) return { upstream: null, told: { outcome: "aborted" } };
    const executed = error.written ? "unknown" : "no";
    const code = givenUp?.aborted ? "timeout" : error.code;
    return { upstream: null, told: { outcome: "hard", code, executed, message: error.message } };
  }
}

/** As long as the name of an agent may be in MCP. */
function agentOf(header: string | string[] | undefined): string | null {
  return typeof header === "string" && header.length <= 128 ? header : null;
}

/** What the router says of an answer. `stale`: its route may be out of date and the log out of reach, as in MCP (`mcp/call.ts`). */
function ownHeaders(inbound: HttpInbound, stale: boolean): Record<string, string> {
  const { operationId } = inbound;
  return stale ? { [operationHeader]: operationId, "mcpf-route": "stale" } : { [operationHeader]: operationId };
}

function fail(inbound: HttpInbound, error: RouterError, stale: boolean): void {
  const { response, view, operationId } = inbound;
  sendJson(
    response,
    error.httpStatus ?? httpStatusOf(error.code),
    { error: { code: error.code, message: error.message, operationId, upstream: view.name, retriable: error.retriable } },
    {
      ...ownHeaders(inbound, stale),
      ...(error.retriable ? retryAfter(error.retryAfterMs ?? 0) : {}),
    },
  );
}

/** Passes an answer on; null when it was complete. */
function relay(upstream: UpstreamResponse, inbound: HttpInbound, stale: boolean): Promise<UpstreamError | null> {
  const { response } = inbound;
  if (response.destroyed) {
    upstream.cancel("the client is gone");
    return Promise.resolve(null);
  }
  const headers = responseHeaders(upstream.headers);
  // It has no body, and a client that believes in a length waits for one (RFC 9110, 8.6).
  if (upstream.status === 204) delete headers["content-length"];
  response.writeHead(upstream.status, { ...headers, ...ownHeaders(inbound, stale) });
  return new Promise((resolve) => {
    let stalled = false;
    // A client that stopped reading is no failure of the endpoint: it is the one that is hung up on.
    const onIdle = (): void => (stalled ? void response.destroy() : upstream.cancel(`nothing came for ${bodyIdleMs} ms`));
    let idle = setTimeout(onIdle, bodyIdleMs);
    response.on("drain", () => {
      stalled = false;
      idle = idle.refresh();
      upstream.resume();
    });
    upstream.read({
      data(chunk) {
        idle = idle.refresh();
        stalled = !response.write(chunk);
        return !stalled;
      },
      end() {
        clearTimeout(idle);
        response.end();
        resolve(null);
      },
      error(error) {
        clearTimeout(idle);
        response.destroy();
        resolve(error);
      },
    });
  });
}

export function statusTold(answer: Pick<UpstreamResponse, "status" | "headers">, where: string, nowMs: number): AttemptResult {
  const { status: httpStatus, headers } = answer;
  const { outcome, code, toolError } = classifyHttpStatus(httpStatus);
  const retryAfterMs = httpStatus === 429 || httpStatus === 503 ? retryAfterMsOf(headers, nowMs) : null;
  const rest = retryAfterMs === null ? {} : { retryAfterMs };
  if (outcome !== "hard") return { outcome, httpStatus, toolError, ...rest };
  return { outcome, code: code ?? "http_5xx", executed: "unknown", message: `${where} answered ${httpStatus}`, httpStatus, ...rest };
}

function isGone(signal: AbortSignal): boolean {
  return signal.reason instanceof AbortedByRouter && signal.reason.kind === "client_gone";
}

/** Headers that concern one connection (RFC 9110, 7.6.1). */
const hopByHop = new Set([
  "connection",
  "keep-alive",
  "proxy-authenticate",
  "proxy-authorization",
  "proxy-connection",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
]);
const keptFromUpstream = new Set(["host", "content-length", "expect", "authorization", "cookie", "origin"]);
const keptFromClient = new Set(["set-cookie", "www-authenticate"]);

function requestHeaders(headers: IncomingHttpHeaders): Record<string, string | string[]> {
  const named = namedByConnection(headers.connection);
  const passed: Record<string, string | string[]> = {};
  for (const [name, value] of Object.entries(headers)) {
    if (value === undefined || hopByHop.has(name) || keptFromUpstream.has(name) || named.has(name) || name.startsWith("mcpf-")) continue;
    passed[name] = value;
  }
  return passed;
}

function responseHeaders(headers: ResponseHeaders): Record<string, string | string[]> {
  const named = namedByConnection(headers["connection"]);
  const passed: Record<string, string | string[]> = {};
  for (const [name, value] of Object.entries(headers)) {
    if (value === undefined || hopByHop.has(name) || keptFromClient.has(name) || named.has(name)) continue;
    passed[name] = value;
  }
  return passed;
}

function namedByConnection(value: string | string[] | undefined): ReadonlySet<string> {
  return new Set(
    String(value ?? "")
      .toLowerCase()
      .split(",")
      .map((name) => name.trim()),
  );
}
