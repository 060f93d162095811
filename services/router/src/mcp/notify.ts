import { setTimeout as sleep } from "node:timers/promises";
import type { AttemptResult } from "../control/port.ts";
import { eitherOf } from "../ending.ts";
import { httpStatusOf, RefusedRequest, type RouterError, retryAfter, routerErrorOf } from "../errors.ts";
import { statusTold } from "../http-proxy.ts";
import { UpstreamError, type UpstreamResponse } from "../upstream-client.ts";
import type { Envelope } from "./envelope.ts";
import { forwardedHeaders, type Inbound, type McpContext } from "./inbound.ts";
import { loadShed } from "./refusals.ts";
import { ReplayError, replayTold } from "./replay.ts";
import { splitRequestId } from "./rewrite.ts";
import type { Hold, Session } from "./session.ts";
import { SessionStream } from "./session-stream.ts";
import { isSessionUnknown } from "./session-unknown.ts";

/** Messages of a client that have no answer: notifications, and its answers to the server's requests. The client gets 202. */

/** Delivers a notification to the session's endpoint, or to any without a session. Throws {@link RefusedRequest} when it cannot. */
export async function serveNotification(
  context: McpContext,
  inbound: Inbound,
  envelope: Extract<Envelope, { kind: "notification" }>,
  body: Buffer,
  session: Session | null,
): Promise<void> {
  if (session !== null && session.holds.size === 0) {
    // It began while no server was there; the replay that gives it a place says all that has to be said.
    context.log.debug({ upstream: inbound.view.name, method: envelope.method }, "a notification of a session without a place was dropped");
  } else if (session !== null && envelope.method === "notifications/cancelled") {
    await cancel(context, inbound, envelope, body, session);
  } else {
    const placed = await deliver(context, inbound, envelope.method, body, session);
    if (session !== null && envelope.method === "notifications/initialized" && placed !== null) {
      await openStreamAhead(context, inbound, session, placed);
    }
  }
  accepted(inbound);
}

/** Takes the client's answer back to the endpoint that asked; one for an endpoint that is gone is dropped (requirement R14). */
export async function serveResponse(
  context: McpContext,
  inbound: Inbound,
  envelope: Extract<Envelope, { kind: "response" }>,
  body: Buffer,
  session: Session | null,
): Promise<void> {
  const named = splitRequestId(envelope.id);
  if (session === null || named === null) {
    await deliver(context, inbound, "response", body, session);
    return accepted(inbound);
  }
  const hold = session.holdByTag(named.tag) ?? (await holdFromDirectory(context, session, named.tag));
  if (hold !== null) {
    const restored = Buffer.from(JSON.stringify({ ...envelope.message, id: named.id }));
    await sendTo(context, inbound, session, hold, restored);
  }
  accepted(inbound);
}

/**
 * Ends the call of this session that has the id (C5), and tells each server where it runs or is parked, which may be others than the session's home
 * (requirement R13). One that is not known here may run in another router process, which is told too, or at a server that a restarted process asked.
 */
async function cancel(
  context: McpContext,
  inbound: Inbound,
  envelope: Extract<Envelope, { kind: "notification" }>,
  body: Buffer,
  session: Session,
): Promise<void> {
  const id = envelope.params["requestId"];
  if (typeof id !== "string" && typeof id !== "number") return;
  const giveUp = session.calls.get(id);
  const parked = session.parked.get(id);
  // Where it runs is forgotten as soon as it is over.
  const places = new Set([session.running.get(id), session.hedged.get(id), parked && session.holdByTag(parked.tag)]);
  giveUp?.();
  if (parked !== undefined) {
    session.parked.delete(id);
    session.logs.cancel(id, context.nowMs());
  }
  if (giveUp === undefined && parked === undefined) {
    places.add(session.holds.get(session.home));
    context.claims.cancelled?.(session.sealed.key, id);
  }
  await Promise.all([...places].map((one) => (one == null ? undefined : sendTo(context, inbound, session, one, body))));
}

/** One try, in milliseconds, and how many: an answer names the request, and a cancellation the call, so a server that gets it again takes it once. */
const tryMs = 5000;
const triesMax = 3;
const againMs = 100;

/**
 * Sends to one hold, again where a try broke off: a kept connection that the server closes at that moment is no reason to let it wait for ever for the
 * user's answer. What cannot be delivered at last is void: its session is gone with its endpoint.
 */
export async function sendTo(context: McpContext, inbound: Inbound, session: Session, hold: Hold, body: Buffer): Promise<void> {
  const endpoint = inbound.view.endpoints.find((candidate) => candidate.name === hold.endpoint);
  if (endpoint === undefined) return;
  for (let tries = 1; ; tries += 1) {
    try {
      const response = await context.client.send({
        endpoint,
        method: "POST",
        headers: headersFor(inbound, session, hold),
        body,
        connectMs: 2000,
        signal: AbortSignal.timeout(tryMs),
        lane: "call",
      });
      response.discard(1000);
      return;
    } catch (error) {
      if (!(error instanceof UpstreamError)) throw error;
      if (tries === triesMax || (error.code !== "reset" && error.code !== "closed")) {
        const where = { upstream: inbound.view.name, endpoint: endpoint.name };
        context.log.warn({ ...where, code: error.code, tries }, "a message for a lost endpoint was dropped");
        return;
      }
      await sleep(againMs * tries);
    }
  }
}

export async function holdFromDirectory(context: McpContext, session: Session, tag: string): Promise<Hold | null> {
  const record = await context.directory.read(session.sealed.key);
  if (record === null) return null;
  context.replay.adopt(session, record);
  return session.holdByTag(tag);
}

/** Returns where it went, or null when a replay has already said it. */
async function deliver(
  context: McpContext,
  inbound: Inbound,
  method: string,
  body: Buffer,
  session: Session | null,
): Promise<{ hold: Hold; endpoint: string; connectMs: number } | null> {
  const { control, nowMs } = context;
  const call = control.begin({
    upstream: inbound.view.name,
    kind: "mcp",
    method,
    tool: null,
    agent: null,
    sessionEndpoint: session?.place ?? null,
    deadlineMs: Number.POSITIVE_INFINITY,
    startedAtMs: inbound.startedAtMs,
    operationId: inbound.operationId,
    trace: inbound.trace,
  });
  const leftMs = Math.max(1, Math.min(call.deadlineMs - nowMs(), 60_000));
  const late = AbortSignal.timeout(leftMs);
  const dueAtMs = performance.now() + leftMs;
  let shed: RouterError | null = null;
  for (let attempt = await call.next(); attempt !== null; attempt = await call.next()) {
    const { endpoint, connectMs, givenUp } = attempt;
    const signal = givenUp === null ? late : eitherOf(late, givenUp);
    let told: AttemptResult;
    try {
      let hold: Hold | null = null;
      let response: UpstreamResponse | "session_lost" = "session_lost";
      for (let tries = 0; tries < 2 && response === "session_lost"; tries++) {
        if (session !== null) {
          const how = { lost: hold, connectMs, dueAtMs, initialized: method !== "notifications/initialized" };
          hold = await context.replay.holdOn(session, inbound.view, endpoint, how);
        }
        const headers = session === null || hold === null ? forwardedHeaders(inbound.request.headers) : headersFor(inbound, session, hold);
        response = await afterSend(
          await context.client.send({ endpoint, method: "POST", headers, body, connectMs, signal, lane: "call" }),
          hold !== null && hold.upstreamSession !== null,
        );
      }
      told =
        response === "session_lost"
          ? { outcome: "hard", code: "other", executed: "no", message: `${endpoint.name} does not know the session` }
          : (redirected(response, endpoint.name) ?? statusTold(response, endpoint.name, context.nowMs()));
      if (told.outcome === "ok") {
        attempt.done(told);
        call.end("ok");
        if (session === null || hold === null) return null;
        session.home = endpoint.name;
        return { hold, endpoint: endpoint.name, connectMs };
      }
      if (told.outcome === "caller" && response !== "session_lost") {
        attempt.done(told);
        call.end("ok");
        throw new RefusedRequest(response.status, -32600, `${inbound.view.name} refused the message (${response.status})`);
      }
    } catch (error) {
      if (error instanceof UpstreamError) {
        const code = givenUp?.aborted ? "timeout" : error.code;
        told = { outcome: "hard", code, executed: error.written ? "unknown" : "no", message: error.message };
      } else if (error instanceof ReplayError) {
        if (error.code === "ended" || error.code === "sticky") {
          attempt.done({ outcome: "aborted" });
          call.end("error");
          throw new RefusedRequest(404, -32001, error.message);
        }
        told = replayTold(error);
      } else throw error;
    }
    shed = told.outcome === "soft" ? loadShed(endpoint.name, told.retryAfterMs ?? null) : null;
    if (!attempt.done(told).retry) break;
  }
  const error = shed ?? routerErrorOf(call.problem());
  call.end("error");
  throw new RefusedRequest(httpStatusOf(error.code), -32000, error.message, retryAfter(error.retryAfterMs ?? 0));
}

/** A redirect is not followed, because the credential is for this endpoint alone (R24): the message was not delivered. */
export function redirected(response: UpstreamResponse, where: string): AttemptResult | null {
  if (response.status < 300 || response.status >= 400) return null;
  const message = `${where} answered a message with a redirect (${response.status}), which is not followed`;
  return { outcome: "hard", code: "malformed", executed: "unknown", message };
}

async function afterSend(response: UpstreamResponse, sessionBearing: boolean): Promise<UpstreamResponse | "session_lost"> {
  if (response.status < 400 || response.status >= 500) {
    response.discard(1000);
    return response;
  }
  const body = await response.collect(64 * 1024);
  return sessionBearing && isSessionUnknown(response.status, body) ? "session_lost" : response;
}

function headersFor(inbound: Inbound, session: Session, hold: Hold): Record<string, string> {
  const headers = forwardedHeaders(inbound.request.headers);
  if (hold.upstreamSession !== null) headers["mcp-session-id"] = hold.upstreamSession;
  headers["mcp-protocol-version"] ??= session.sealed.version;
  return headers;
}

/** Requirement R7: the server's stream is open before the client hears that it may go on. */
async function openStreamAhead(
  context: McpContext,
  inbound: Inbound,
  session: Session,
  placed: { hold: Hold; endpoint: string; connectMs: number },
): Promise<void> {
  const endpoint = inbound.view.endpoints.find((candidate) => candidate.name === placed.endpoint);
  if (session.stream !== null || endpoint === undefined) return;
  const stream = new SessionStream(context, session, inbound.view.name);
  session.stream = stream;
  const outcome = await stream.connect(placed.hold, endpoint, placed.connectMs);
  if (outcome.kind === "open" || outcome.kind === "pending") stream.awaitClient();
  else stream.close();
}

function accepted(inbound: Inbound): void {
  const { response } = inbound;
  if (response.headersSent || response.destroyed) return;
  response.writeHead(202, { "content-length": 0 }).end();
}
