import type { ClientRequest, ClientResponse } from "../client-exchange.ts";
import { RefusedRequest, sendJson } from "../errors.ts";
import type { Principal } from "../identity/principal.ts";
import { type BatchInbound, readBatch, serveBatch } from "../mcp/batch.ts";
import { checkDepth, type Envelope, readEnvelope } from "../mcp/envelope.ts";
import { comeBack, lastEventIdOf } from "../mcp/get.ts";
import { checkGetHeaders, checkPostHeaders, type McpContext, sessionNotFound } from "../mcp/inbound.ts";
import { versionOf } from "../mcp/post.ts";
import { lasting } from "../mcp/rights.ts";
import { newSessionKey, nowhere, SessionTooLargeError } from "../mcp/seal.ts";
import { SseWriter } from "../mcp/sse.ts";
import { type EventId, isOfSession } from "../mcp/stream-log.ts";
import { streamInUse } from "../mcp/take-over.ts";
import { spanNameOf } from "../observe/observed-control.ts";
import type { Observing } from "../observe/start-observing.ts";
import type { RequestTrace } from "../observe/trace.ts";
import type { InnerSession } from "./inner-session.ts";
import { KeptSessions } from "./kept-sessions.ts";
import type { LastLists } from "./last-lists.ts";
import { Links } from "./links.ts";
import { type LocalCall, localCaller, newOperationId } from "./local-request.ts";
import { type ModernContext, type ModernRequest, serveModern } from "./modern.ts";
import { serveModernListen } from "./modern-listen.ts";
import { splitId } from "./names.ts";
import { serveRequest } from "./request.ts";
import { AggregateSession } from "./session.ts";
import { SessionCalls } from "./session-call.ts";
import { type AggregateSettings, aggregateSettings } from "./settings.ts";
import { SharedLists } from "./shared-lists.ts";

/** `/mcp`: the tools, prompts and resources of several upstreams as one MCP server, built on `/mcp/<upstream>`. */
export interface Aggregate {
  /** Throws {@link RefusedRequest}. */
  serve(request: ClientRequest, response: ClientResponse, principal: Principal, readBody: () => Promise<Buffer>): Promise<void>;
  /** The largest body that any of its upstreams takes. */
  bodyBytesMax(): number;
  /** Another router process says that it has changed a session, or that its client came back there with an event id. */
  changed(sessionKey: string, from: EventId | null): void;
  close(): void;
}

/** What the handlers of `/mcp` work with. */
export interface AggregateContext {
  readonly mcp: McpContext;
  readonly settings: AggregateSettings;
  readonly lists: SharedLists;
  readonly session: AggregateSession;
  /** Headers of the client that travel to the upstreams' own faces. */
  readonly passed: Readonly<Record<string, string>>;
}

/** No upstream can have this name: sessions of the one are no sessions of the other. */
const ownName = "*";
const versions = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
const lookMs = 2000;
const idleMs = 30 * 60_000;
const sessionsMax = 20_000;
const looksAtOnce = 20;

/** `beginTrace`: null where no traces are made. `last`: null where this process has nothing in common with others. */
export function createAggregate(mcp: McpContext, beginTrace: Observing["trace"], last: LastLists | null): Aggregate {
  const call: LocalCall = localCaller(mcp, beginTrace);
  const lists = new SharedLists(mcp.nowMs, last);
  const sessions = new KeptSessions<AggregateSession>(sessionsMax);
  const links = new Links(mcp, call);
  const calls = new SessionCalls();
  const ticker = setInterval(() => {
    links.sweep();
    const beforeMs = mcp.nowMs() - idleMs;
    for (const session of sessions.all()) {
      if (session.busy || session.usedAtMs > beforeMs) continue;
      session.close();
      sessions.forget(session);
    }
    look().catch((error: unknown) => mcp.log.error({ err: error }, "the lists of /mcp could not be looked at"));
  }, lookMs);
  ticker.unref();
  let looking = false;
  const look = async (): Promise<void> => {
    if (looking) return;
    looking = true;
    try {
      const all = [...sessions.all()];
      for (let from = 0; from < all.length; from += looksAtOnce) {
        await Promise.all(
          all.slice(from, from + looksAtOnce).map((session) => {
            const settings = settingsFor(session.principal);
            return settings === null ? undefined : session.look(lists, settings).then((goesOn) => goesOn || drop(session));
          }),
        );
      }
    } finally {
      looking = false;
    }
  };

  /** Its client has ended it, here or at another router process. */
  const drop = (session: AggregateSession): void => {
    sessions.forget(session);
    mcp.sessions.end(session.session);
    session.close();
  };
  const follow = async (session: AggregateSession, from: EventId | null): Promise<void> => {
    if (from !== null) session.leave(from);
    const settings = settingsFor(session.principal);
    if (settings !== null && !(await session.follow(settings))) drop(session);
  };

  const settingsFor = (principal: Principal): AggregateSettings | null => {
    const settings = aggregateSettings(mcp.control);
    return settings && { ...settings, upstreams: settings.upstreams.filter((name) => principal.mayUse(name) && principal.still(name)) };
  };

  const sessionOf = async (id: string | string[] | undefined, principal: Principal): Promise<AggregateSession> => {
    const session = typeof id === "string" ? mcp.sessions.open(id, ownName, principal) : null;
    if (session === null) throw sessionNotFound();
    let known = sessions.use(session.id);
    // It has left the memory while nobody used it here.
    if (known !== undefined && known.session !== session && !known.busy) {
      known.close();
      sessions.forget(known);
      known = undefined;
    }
    if (known === undefined) {
      if ((await mcp.directory.read(session.sealed.key))?.ended) throw sessionNotFound();
      known = sessions.use(session.id) ?? sessions.keep(new AggregateSession(mcp, call, session, principal));
    }
    known.usedAtMs = mcp.nowMs();
    known.principal = principal;
    return known;
  };

  const begin = (response: ClientResponse, envelope: Extract<Envelope, { kind: "request" }>, principal: Principal): void => {
    const asked = envelope.params["protocolVersion"];
    const version = typeof asked === "string" && versions.includes(asked) ? asked : (versions[0] as string);
    const part = { key: newSessionKey(), upstream: ownName, version, capabilities: [], endpoint: nowhere, upstreamSession: null };
    mcp.sessions.admit(principal.holder);
    try {
      const session = mcp.sessions.start(
        { ...part, clientParams: envelope.params, issuedAtMs: mcp.nowMs(), principal: principal.id },
        principal.holder,
      );
      const changes = { listChanged: true };
      const capabilities = { tools: changes, prompts: changes, resources: { subscribe: true, ...changes }, logging: {}, completions: {} };
      const result = { protocolVersion: version, capabilities, serverInfo: { name: "mcp-failover", version: "1" } };
      sendJson(response, 200, { jsonrpc: "2.0", id: envelope.id, result }, { "mcp-session-id": session.id });
    } catch (error) {
      if (!(error instanceof SessionTooLargeError)) throw error;
      sendJson(response, 200, { jsonrpc: "2.0", id: envelope.id, error: { code: -32602, message: error.message } });
    }
  };

  const post = async (
    request: ClientRequest,
    response: ClientResponse,
    principal: Principal,
    settings: AggregateSettings,
    given: Buffer,
  ): Promise<void> => {
    checkPostHeaders(request.headers);
    checkDepth(given);
    const batch = readBatch(given, () => versionOf(mcp, request.headers, ownName, principal));
    if (batch === null) return postOne(request, response, principal, settings, given);
    const id = request.headers["mcp-session-id"];
    if (typeof id !== "string") throw withoutSession();
    const whole: BatchInbound = { request, response, operationId: newOperationId() };
    return serveBatch(mcp, whole, batch, id, (part, one) => postOne(part.request, part.response, principal, settings, one));
  };

  const postOne = async (
    request: ClientRequest,
    response: ClientResponse,
    principal: Principal,
    settings: AggregateSettings,
    given: Buffer,
  ): Promise<void> => {
    const read = readEnvelope(given);
    const trace = read.kind === "request" ? beginTrace?.(request.headers) : undefined;
    const body = trace === undefined || read.kind !== "request" ? given : trace.enterMessage(read.params["_meta"], given);
    const envelope = body === given ? read : readEnvelope(body);
    if (trace !== undefined && envelope.kind === "request") endWith(response, trace, envelope);
    if (envelope.kind !== "response" && envelope.era === "modern") {
      if (envelope.kind === "request") return modern(request, response, envelope, principal, settings);
      // A client of that era ends a request by hanging up; it has nothing else to tell a server that knows no session.
      response.writeHead(202, { "content-length": 0 }).end();
      return;
    }
    if (envelope.kind === "request" && envelope.method === "initialize") return begin(response, envelope, principal);
    const id = request.headers["mcp-session-id"];
    if (id === undefined) throw withoutSession();
    const session = await sessionOf(id, principal);
    const context: AggregateContext = { mcp, settings, lists, session, passed: passedOf(request) };
    if (envelope.kind === "request")
      return serveRequest(context, response, envelope, JSON.parse(body.toString("utf8")) as Record<string, unknown>);
    await tell(context, envelope);
    response.writeHead(202, { "content-length": 0 }).end();
  };

  /** The step of the whole request; what each upstream was asked for it is below that, with what came of it. */
  const endWith = (response: ClientResponse, trace: RequestTrace, { method, tool }: Extract<Envelope, { kind: "request" }>): void => {
    const startMs = mcp.nowMs();
    response.once("close", () => {
      trace.ended({
        name: spanNameOf(method, tool),
        startMs,
        endMs: mcp.nowMs(),
        failed: !response.writableFinished,
        attributes: { "mcp.method.name": method.slice(0, 128), ...(tool === null ? {} : { "gen_ai.tool.name": tool.slice(0, 128) }) },
      });
    });
  };

  const modernContext: ModernContext = { mcp, call, lists, links, calls };
  const modern = (
    request: ClientRequest,
    response: ClientResponse,
    envelope: Extract<Envelope, { kind: "request" }>,
    principal: Principal,
    settings: AggregateSettings,
  ): Promise<void> => {
    const asked: ModernRequest = { request, response, envelope, principal, settings, passed: passedOf(request) };
    if (envelope.method !== "subscriptions/listen") return serveModern(modernContext, asked);
    return serveModernListen(modernContext, asked, () => settingsFor(principal));
  };

  const get = async (
    request: ClientRequest,
    response: ClientResponse,
    session: AggregateSession,
    settings: AggregateSettings,
  ): Promise<void> => {
    // It may have left while its session was looked up; the end of its connection is not heard any more.
    if (response.destroyed) return;
    const from = lastEventIdOf(request);
    const inbound = { response, principal: session.principal, operationId: newOperationId(), view: { name: "", endpoints: [] } };
    if (from !== null && !isOfSession(from.stream) && (await comeBack(mcp, inbound, session.session, from))) return;
    // Whoever has left meanwhile takes it from nobody.
    if (response.destroyed) return;
    const writer = new SseWriter(response);
    if (!session.attach(writer, { "mcp-session-id": session.session.id }, from)) throw streamInUse();
    const stop = (): void => writer.end();
    const heartbeat = setInterval(() => writer.comment("alive", mcp.nowMs()), mcp.heartbeatMs);
    lasting(mcp, { response, principal: session.principal, upstream: "" }, stop);
    response.once("close", () => {
      clearInterval(heartbeat);
      session.detach(writer);
    });
    session.follow(settings).then(
      (goesOn) => goesOn || drop(session),
      (error: unknown) => mcp.log.error({ err: error }, "the streams of the upstreams could not be opened"),
    );
  };

  return {
    async serve(request, response, principal, readBody) {
      const settings = settingsFor(principal);
      if (settings === null) throw new RefusedRequest(404, -32000, "not found: router.aggregate is switched off; use /mcp/<upstream>");
      switch (request.method) {
        case "POST":
          return post(request, response, principal, settings, await readBody());
        case "GET":
          checkGetHeaders(request.headers);
          return get(request, response, await sessionOf(request.headers["mcp-session-id"], principal), settings);
        case "DELETE": {
          const session = await sessionOf(request.headers["mcp-session-id"], principal);
          sessions.forget(session);
          mcp.sessions.end(session.session);
          // First of all, so that no session with an upstream that is just being begun stays behind.
          await mcp.directory.change(session.session.sealed.key, (record) => ({ ...record, ended: true }));
          mcp.claims.changed?.(session.session.sealed.key, null);
          await session.end();
          response.writeHead(200, { "content-length": 0 }).end();
          return;
        }
        default:
          throw new RefusedRequest(405, -32000, "Method not allowed.", { allow: "GET, POST, DELETE" });
      }
    },
    changed(key, from) {
      const known = mcp.sessions.byKey(key);
      const session = known === null ? undefined : sessions.use(known.id);
      if (session === undefined) return;
      follow(session, from).catch((error: unknown) => mcp.log.error({ err: error }, "a session of /mcp could not be looked at"));
    },
    bodyBytesMax: () => Math.max(0, ...mcp.control.upstreams().map((name) => mcp.control.upstream(name)?.bodyBytesMax ?? 0)),
    close() {
      clearInterval(ticker);
      calls.close();
      links.close();
      for (const session of sessions.all()) {
        session.close();
        sessions.forget(session);
      }
    },
  };
}

function withoutSession(): RefusedRequest {
  return new RefusedRequest(400, -32000, "Bad Request: no session; send initialize first");
}

/** A notification of the client, or its answer to a server: to the upstream that it belongs to, whichever router process asked there. */
async function tell({ mcp, session, settings, passed }: AggregateContext, envelope: Exclude<Envelope, { kind: "request" }>): Promise<void> {
  const toOne = (upstream: string): InnerSession | null =>
    settings.upstreams.includes(upstream) ? session.with(upstream, passed) : session.known(upstream);
  if (envelope.kind === "response") {
    const named = splitId(envelope.id);
    if (named !== null) await toOne(named.upstream)?.tell({ ...envelope.message, id: named.id });
    return;
  }
  // Each upstream was told `initialized` when its session was begun.
  if (envelope.method === "notifications/initialized") return;
  const message = { jsonrpc: "2.0", method: envelope.method, params: envelope.params };
  const id = envelope.method === "notifications/cancelled" ? envelope.params["requestId"] : undefined;
  const isId = typeof id === "string" || typeof id === "number";
  const running = isId ? session.running.get(id) : undefined;
  // A request that does not run here runs in another process: who does not know it ignores that it is cancelled.
  if (isId && running === undefined) mcp.claims.cancelled?.(session.session.sealed.key, id);
  else if (isId) session.session.calls.get(id)?.();
  const whom = running === undefined ? await session.begunWith(settings) : [running];
  await Promise.allSettled(whom.map((upstream) => toOne(upstream)?.tell(message)));
}

const passedNames = ["mcpf-agent", "mcpf-timeout-ms", "traceparent", "tracestate", "baggage", "accept-language", "user-agent"];

function passedOf(request: ClientRequest): Record<string, string> {
  return Object.fromEntries(
    passedNames.flatMap((name) => (typeof request.headers[name] === "string" ? [[name, request.headers[name]]] : [])),
  );
}
