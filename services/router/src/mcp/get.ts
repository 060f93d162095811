import type { UpstreamView } from "../control/port.ts";
import { RefusedRequest, type RouterError, retryAfter, rpcErrorMessage } from "../errors.ts";
import { visibleAnswer } from "../identity/tool-access.ts";
import { AbortedByRouter, UpstreamError, type UpstreamResponse } from "../upstream-client.ts";
import { firstPrimedVersion } from "./call-answer.ts";
import { readServerMessage, type ServerMessage } from "./envelope.ts";
import {
  type ClaimedStream,
  checkGetHeaders,
  forwardedHeaders,
  type Inbound,
  type McpContext,
  operationHeader,
  sessionNotFound,
} from "./inbound.ts";
import { holdFromDirectory } from "./notify.ts";
import { openAnywhere } from "./open-anywhere.ts";
import { rewriteEvent } from "./rewrite.ts";
import { lasting } from "./rights.ts";
import type { Hold, Session } from "./session.ts";
import { SessionStream, type StreamOutcome, streamHeaders, streamOutcome } from "./session-stream.ts";
import { formatEvent, readEvents, SseWriter } from "./sse.ts";
import { type EventId, eventIdOf, isOfSession, isStreamOf, readEventId, requestIdOf, type StreamLog } from "./stream-log.ts";
import { streamInUse, takesOver } from "./take-over.ts";

/** 2.5 s: longer than a stream that nobody claims stays open in another router process. */
const conflictTries = 50;
const conflictPauseMs = 50;

/** The client's GET: the session's stream, or the resumption of one that broke. */
export async function serveGet(context: McpContext, inbound: Inbound): Promise<void> {
  const { request } = inbound;
  // Whoever left before this takes no stream: the end of his connection is not heard any more.
  if (inbound.response.destroyed) return;
  checkGetHeaders(request.headers);
  const sessionId = request.headers["mcp-session-id"];
  if (typeof sessionId !== "string") return passGet(context, inbound);
  const session = context.sessions.open(sessionId, inbound.view.name, inbound.principal);
  if (session === null || session.lost) throw sessionNotFound();
  const from = lastEventIdOf(request);
  if (from !== null && (await comeBack(context, inbound, session, from))) return;
  await serveFresh(context, inbound, session, from);
}

/** A client that comes back; of `/mcp` too, which has no endpoints. */
export type ComingBack = Pick<Inbound, "response" | "principal" | "operationId"> & {
  readonly view: Pick<UpstreamView, "name" | "endpoints">;
};

/** Null: it does not come back, or with an id that is none of ours. */
export function lastEventIdOf({ headers }: Inbound["request"]): EventId | null {
  const given = headers["last-event-id"];
  return typeof given === "string" ? readEventId(given) : null;
}

/** The client comes back to a stream whose connection broke (requirement R9). False: it gets the session's own stream. */
export async function comeBack(context: McpContext, inbound: ComingBack, session: Session, from: EventId): Promise<boolean> {
  if (session.stream?.name === from.stream) return false;
  const log = session.logs.get(from.stream);
  if (from.isLast || log?.isVoid) {
    // It has its answer, or wants none. SDK 1.x comes back after one that is an error, for ever unless it is told this (as EventSource defines 204).
    inbound.response.writeHead(204, headersOf(inbound, session)).end();
    return true;
  }
  // The session's own stream was given up, and is not over: more comes, from the upstream or on a stream that is opened anew. That of a call has
  // all that matters in what is left of it: its answer is the last that is said, and is forgotten last.
  const isOfSessions = isOfSession(from.stream);
  const isGivenUp = log?.state === "ended" && isOfSessions;
  if (log !== null && log.state !== "parked" && !isGivenUp && (isOfSessions ? log.covers(from.seq) : log.leads(from.seq))) {
    goOnFromLog(context, inbound, session, log, from);
    return true;
  }
  const hold = session.holdByTag(from.tag) ?? (from.tag === "" ? null : await holdFromDirectory(context, session, from.tag));
  if (inbound.response.destroyed) return true;
  if (hold !== null && from.upstreamId !== "" && (await resume(context, inbound, session, hold, from))) return true;
  const requestId = requestIdOf(from.stream);
  if (requestId === null) return false;
  // Nobody knows the stream any more, and its request may have run: an answer, rather than a client that waits (R10).
  const message = `the stream of this call is lost with its server or router; the call may have run`;
  const error: RouterError = { code: "outcome_unknown", message, retriable: false };
  const writer = new SseWriter(inbound.response);
  writer.begin(headersOf(inbound, session));
  const place = { upstream: inbound.view.name, operationId: inbound.operationId };
  const data = JSON.stringify(rpcErrorMessage(requestId, error, place));
  writer.write({ event: "message", data, id: afterAll(from) }, context.nowMs());
  writer.end();
  return true;
}

/** What the client has missed, and what is still to come. */
function goOnFromLog(context: McpContext, inbound: ComingBack, session: Session, log: StreamLog, from: EventId): void {
  const { response } = inbound;
  const writer = new SseWriter(response);
  writer.begin(headersOf(inbound, session));
  writer.flushHeaders();
  const missed = log.after(from.seq);
  // SDK clients remember only ids of this connection: without one they could not come again, should it break before the next event.
  if (missed.length === 0 && log.state === "live" && session.sealed.version >= firstPrimedVersion) {
    writer.write({ id: eventIdOf(from), data: "" }, context.nowMs());
  }
  for (const text of missed) writer.writeText(text, context.nowMs());
  if (log.state !== "live") {
    writer.end();
    return;
  }
  const before = log.sink;
  log.sink = writer;
  // The upstream may go on at once where it waited for the old connection: what it says then is for the new one.
  before?.end();
  lasting(context, { ...streamOf(inbound), isOfCall: isOfCall(from) }, () => writer.end());
}

function headersOf(inbound: Pick<Inbound, "operationId">, session: Session): Record<string, string> {
  return { "mcp-session-id": session.id, [operationHeader]: inbound.operationId };
}

function streamOf({ response, principal, view }: ComingBack): Parameters<typeof lasting>[1] {
  return { response, principal, upstream: view.name };
}

/** The stream of a call ends with its answer; the session's own does not. */
function isOfCall(from: EventId): boolean {
  return requestIdOf(from.stream) !== null;
}

/** The session's own stream. */
async function serveFresh(context: McpContext, inbound: Inbound, session: Session, from: EventId | null): Promise<void> {
  const { response, view } = inbound;
  // Whoever has left meanwhile takes it from nobody.
  if (response.destroyed) return;
  const writer = new SseWriter(response);
  let borrowed: Extract<ClaimedStream, { kind: "released" }> | null = null;
  let hasTakenOver = false;
  let stream = session.stream;
  let hasEndedRest = false;
  if (stream !== null) {
    hasTakenOver = !stream.take();
    if (hasTakenOver && !stream.takeOver()) throw streamInUse();
  } else {
    // One that is gone on with at its server has its client's connection too (T1 of `take-over.ts`); what that one got is not known.
    if (session.logs.isOwnRead && !takesOver(session)) throw streamInUse();
    hasEndedRest = session.logs.takeOverOwn();
    stream = new SessionStream(context, session, view.name);
    stream.take();
    session.stream = stream;
    try {
      borrowed = await openOrBorrow(context, session, view.name, stream, from);
    } catch (error) {
      stream.close();
      throw error;
    }
  }
  if (response.destroyed) return stream.close();
  const attached = stream;
  lasting(context, streamOf(inbound), () => attached.closeOf(writer));
  response.once("close", () => attached.detach(writer));
  const last = from?.stream === attached.name ? from : null;
  // The other router process had its stream and has told what it missed.
  const isWhole = borrowed?.isWhole ?? false;
  const before =
    from === null || last !== null || isWhole || !isOfSession(from.stream) ? [] : (session.logs.get(from.stream)?.after(from.seq) ?? []);
  const earlier = [...before, ...(borrowed?.events ?? []).map(formatEvent)];
  const isKept = attached.attach(writer, headersOf(inbound, session), { earlier, last, hasTakenOver });
  const isKnown = from === null || last !== null || isWhole;
  if (!isKnown || hasEndedRest || ((last !== null || hasTakenOver) && !isKept)) {
    const known = await context.directory.read(session.sealed.key);
    attached.tellGap(new Set([...(known?.subscriptions ?? []), ...session.subscriptions]));
  }
  if (borrowed !== null) await attached.borrow(borrowed.rest);
}

/** Opens the stream here; or returns what another router process has of it, which is to be passed on meanwhile. */
async function openOrBorrow(
  context: McpContext,
  session: Session,
  upstream: string,
  stream: SessionStream,
  from: EventId | null,
): Promise<Extract<ClaimedStream, { kind: "released" }> | null> {
  const open = (): Promise<StreamOutcome> =>
    openAnywhere(context, session, upstream, (hold, endpoint, connectMs) => stream.connect(hold, endpoint, connectMs));
  let outcome = await open();
  if (outcome.kind === "conflict") {
    const claimed = await context.claims.claim(session.sealed.key, from);
    if (claimed?.kind === "released") return claimed;
    for (let tries = 0; outcome.kind === "conflict" && claimed === null && tries < conflictTries; tries++) {
      await new Promise((resolve) => setTimeout(resolve, conflictPauseMs));
      outcome = await open();
    }
  }
  refuse(outcome, upstream);
  return null;
}

function refuse(outcome: StreamOutcome, upstream: string): void {
  switch (outcome.kind) {
    case "open":
    case "pending":
      return;
    case "unsupported":
      throw new RefusedRequest(405, -32000, "Method Not Allowed: this upstream has no stream of its own", { allow: "POST, DELETE" });
    case "conflict":
      throw streamInUse();
    case "session_lost":
      throw sessionNotFound();
    case "refused":
      if (outcome.status === 404) throw sessionNotFound();
      throw new RefusedRequest(
        outcome.status >= 400 && outcome.status < 500 ? outcome.status : 503,
        -32000,
        `${upstream} refused the stream`,
        outcome.retryAfterMs == null ? {} : retryAfter(outcome.retryAfterMs),
      );
    case "failed":
      throw new RefusedRequest(503, -32000, `no endpoint of ${upstream} can open the stream now; try again`, { "retry-after": "1" });
  }
}

/**
 * Goes on with a broken stream where it was (requirement R9). Returns false when the endpoint does not know it any more: the client then
 * gets a fresh stream, and errors for what it still waited for there.
 */
async function resume(context: McpContext, inbound: ComingBack, session: Session, hold: Hold, from: EventId): Promise<boolean> {
  const { response, view } = inbound;
  // It came back before, and that connection hangs: a server lets one at a time read the rest.
  const parked = session.logs.get(from.stream);
  if (parked?.isRead && isOfSession(from.stream) && !takesOver(session)) throw streamInUse();
  const isAgain = parked?.takeOver() ?? false;
  const log = session.logs.goOn(from, context.nowMs());
  // What this process has read of the parked stream is not asked for again.
  const missed = log.after(from.seq);
  const eventId = missed.length > 0 && log.upstreamId !== "" ? log.upstreamId : from.upstreamId;
  const endpoint = view.endpoints.find((candidate) => candidate.name === hold.endpoint);
  if (endpoint === undefined) return false;
  const abort = new AbortController();
  response.once("close", () => abort.abort(new AbortedByRouter("client_gone")));
  const isLeft = (): boolean => response.destroyed || abort.signal.aborted;
  const writer = new SseWriter(response);
  log.reader = writer;
  log.onVoid = () => {
    abort.abort(new AbortedByRouter("given_up"));
    writer.begin(headersOf(inbound, session));
    writer.end();
  };
  // Its request was cancelled while its endpoint was looked for.
  if (log.isVoid) log.takeOver();
  let upstream: UpstreamResponse;
  let outcome: StreamOutcome;
  try {
    for (let tries = 1; ; tries++) {
      upstream = await context.client.send({
        endpoint,
        method: "GET",
        headers: { ...streamHeaders(session, hold), "last-event-id": eventId },
        body: null,
        connectMs: 1000,
        signal: abort.signal,
        lane: "stream",
      });
      outcome = await streamOutcome(upstream);
      // The server has not seen yet that the other one has left.
      if (isLeft() || !isAgain || outcome.kind !== "conflict" || tries === conflictTries) break;
      await new Promise((resolve) => setTimeout(resolve, conflictPauseMs));
    }
  } catch (error) {
    // What is kept for the client is for when it comes again.
    if (isLeft()) return true;
    log.onVoid = null;
    if (error instanceof UpstreamError) return answerParked(context, inbound, session, hold, from, null);
    throw error;
  }
  if (isLeft()) return true;
  if (outcome.kind !== "open") {
    log.onVoid = null;
    if (outcome.kind === "unsupported") refuse(outcome, view.name);
    return answerParked(context, inbound, session, hold, from, null);
  }
  writer.begin(headersOf(inbound, session));
  writer.flushHeaders();
  let isOver = false;
  log.onVoid = () => {
    isOver = true;
    writer.end();
    upstream.cancel("its request was cancelled, or its client came back once more");
  };
  for (const text of missed) writer.writeText(text, context.nowMs());
  let isSilent = missed.length === 0;
  // SDK clients remember only ids of this connection: without one they could not come again, should it end before its next event.
  const prime = (): void => {
    if (isSilent && session.sealed.version >= firstPrimedVersion) writer.write({ id: eventIdOf(from), data: "" }, context.nowMs());
    isSilent = false;
  };
  // The answer to a call may be there already; the session's own stream may be silent for long.
  if (!isOfCall(from)) prime();
  const heartbeat = setInterval(() => {
    prime();
    writer.comment("alive", context.nowMs());
  }, context.heartbeatMs);
  lasting(context, { ...streamOf(inbound), isOfCall: isOfCall(from) }, () => writer.end());
  response.once("close", () => clearInterval(heartbeat));
  const broken = (): void => {
    if (isOver) return;
    prime();
    if (log.state !== "ended") log.park(context.nowMs());
    if (!answerParked(context, inbound, session, hold, from, writer)) writer.end();
  };
  readEvents(upstream, {
    event: (event) => {
      if (isOver) return true;
      const message: ServerMessage = event.data === "" ? { kind: "other" } : readServerMessage(event.data);
      if (message.kind === "answer" && message.id !== null) session.parked.delete(message.id);
      const shown = message.kind === "answer" ? visibleAnswer(inbound.principal, view.name, message.value) : null;
      const own = shown === null ? event : { ...event, data: JSON.stringify(shown) };
      const more = writer.writeText(log.add(rewriteEvent(own, message, hold), hold, message.kind === "answer").text, context.nowMs());
      isSilent = false;
      if (message.kind === "answer") log.end(context.nowMs());
      if (!more) writer.whenDrained(() => upstream.resume());
      return more;
    },
    end: () => {
      if (isOver) return;
      prime();
      if (log.state !== "ended") log.park(context.nowMs());
      writer.end();
    },
    error: broken,
    malformed: broken,
  });
  return true;
}

/**
 * Gives its error to the request of this stream when its answer was parked on an endpoint that is lost (requirement R10). Others are left to
 * their own streams: they may have been answered by another router process. True when there was one.
 */
function answerParked(
  context: McpContext,
  inbound: ComingBack,
  session: Session,
  hold: Hold,
  from: EventId,
  begun: SseWriter | null,
): boolean {
  const lost = [...session.parked].filter(([id, parked]) => parked.tag === hold.tag && isStreamOf(from.stream, id));
  if (lost.length === 0) return false;
  const writer = begun ?? new SseWriter(inbound.response);
  writer.begin(headersOf(inbound, session));
  for (const [id, parked] of lost) {
    session.parked.delete(id);
    writer.write({ event: "message", data: JSON.stringify(parked.error), id: afterAll(from) }, context.nowMs());
  }
  writer.end();
  return true;
}

/** The id of an answer that the router gives in place of the stream's own. */
function afterAll(from: EventId): string {
  return eventIdOf({ ...from, seq: from.seq + 1, isLast: true });
}

/** A GET without a session: it goes to an endpoint as it is (a stateless server answers 405). */
async function passGet(context: McpContext, inbound: Inbound): Promise<void> {
  const { request, response, view } = inbound;
  const call = context.control.begin({
    upstream: view.name,
    kind: "mcp",
    method: "GET",
    tool: null,
    agent: null,
    sessionEndpoint: null,
    deadlineMs: Number.POSITIVE_INFINITY,
    startedAtMs: inbound.startedAtMs,
  });
  const abort = new AbortController();
  response.once("close", () => abort.abort(new AbortedByRouter("client_gone")));
  for (let attempt = await call.next(); attempt !== null; attempt = await call.next()) {
    const { endpoint, connectMs } = attempt;
    try {
      const headers = { ...forwardedHeaders(request.headers), accept: "text/event-stream" };
      const upstream = await context.client.send({
        endpoint,
        method: "GET",
        headers,
        body: null,
        connectMs,
        signal: abort.signal,
        lane: "stream",
      });
      attempt.done({ outcome: upstream.status < 400 ? "ok" : "caller", httpStatus: upstream.status, toolError: false });
      call.end("ok");
      return relayRaw(context, inbound, upstream);
    } catch (error) {
      if (!(error instanceof UpstreamError)) throw error;
      const gone = abort.signal.aborted;
      const { retry } = attempt.done(
        gone ? { outcome: "aborted" } : { outcome: "hard", code: error.code, executed: "no", message: error.message },
      );
      if (gone || !retry) break;
    }
  }
  call.end("error");
  throw new RefusedRequest(503, -32000, `no endpoint of ${view.name} can be reached; try again`, { "retry-after": "1" });
}

async function relayRaw(context: McpContext, inbound: Inbound, upstream: UpstreamResponse): Promise<void> {
  if (upstream.status === 200) {
    const writer = new SseWriter(inbound.response);
    writer.begin({ [operationHeader]: inbound.operationId });
    writer.flushHeaders();
    lasting(context, streamOf(inbound), () => writer.end());
    readEvents(upstream, {
      event: (event) => {
        const more = writer.write(event, context.nowMs());
        if (!more) writer.whenDrained(() => upstream.resume());
        return more;
      },
      end: () => writer.end(),
      error: () => writer.end(),
      malformed: () => writer.end(),
    });
    return;
  }
  if (upstream.status < 400 || upstream.status === 401 || upstream.status === 403 || upstream.status >= 500) {
    upstream.discard(250);
    throw new RefusedRequest(502, -32000, `${inbound.view.name} refused the stream (${upstream.status})`);
  }
  upstream.discard(250);
  throw new RefusedRequest(
    upstream.status,
    -32000,
    upstream.status === 405 ? "Method not allowed." : "Bad Request: a session id is needed for a stream",
    upstream.status === 405 ? { allow: "POST, DELETE" } : {},
  );
}
