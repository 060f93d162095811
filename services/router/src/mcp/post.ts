import { RefusedRequest, type RouterError, rpcCodes, rpcErrorMessage, sendJson } from "../errors.ts";
import type { Principal } from "../identity/principal.ts";
import { forbiddenTool } from "../identity/tool-access.ts";
import { readBatch, serveBatch } from "./batch.ts";
import { serveCall } from "./call.ts";
import { checkDepth, type Envelope, readEnvelope } from "./envelope.ts";
import { checkPostHeaders, type Inbound, type McpContext, operationHeader, sessionNotFound } from "./inbound.ts";
import { serveInitialize } from "./initialize.ts";
import { serveListen } from "./listen.ts";
import { serveNotification, serveResponse } from "./notify.ts";
import { type Session, subscriptionsMax } from "./session.ts";
import { SessionsFullError } from "./session-table.ts";

/** One message of a client, or several in protocol 2025-03-26. Throws {@link RefusedRequest} at once, or later by its promise. */
export function servePost(context: McpContext, inbound: Inbound, body: Buffer): Promise<unknown> | undefined {
  const { request } = inbound;
  checkPostHeaders(request.headers);
  checkDepth(body);
  const batch = readBatch(body, () => versionOf(context, request.headers, inbound.view.name, inbound.principal));
  if (batch === null) return serveOne(context, inbound, body);
  const id = request.headers["mcp-session-id"];
  return serveBatch(context, inbound, batch, typeof id === "string" ? id : null, async (part, one) => {
    await serveOne(context, part, one);
  });
}

/** The negotiated protocol version, or what the client says where there is no session (requirement R6). */
export function versionOf(
  { sessions }: McpContext,
  headers: Inbound["request"]["headers"],
  upstream: string,
  principal: Principal,
): string | undefined {
  const id = headers["mcp-session-id"];
  const said = headers["mcp-protocol-version"];
  if (typeof id !== "string") return typeof said === "string" ? said : "2025-03-26";
  return sessions.open(id, upstream, principal)?.sealed.version;
}

/** No promise of its own: most of what is done for a call waits for nothing. */
function serveOne(context: McpContext, inbound: Inbound, given: Buffer): Promise<unknown> | undefined {
  const { request, view } = inbound;
  const envelope = readEnvelope(given);
  const body =
    inbound.trace === undefined || envelope.kind === "response" ? given : inbound.trace.enterMessage(envelope.params["_meta"], given);
  const forbidden = forbiddenTool(inbound.principal, view.name, envelope, body, request.headers);
  if (forbidden !== null) {
    if (envelope.kind !== "request") throw new RefusedRequest(403, rpcCodes.forbidden, forbidden.message);
    return refuse(inbound, envelope.id, forbidden);
  }
  if (envelope.kind !== "response" && envelope.era === "modern") {
    if (envelope.kind === "request" && envelope.method === "subscriptions/listen") return serveListen(context, inbound, envelope, body);
    if (envelope.kind === "request") return serveCall(context, inbound, envelope, body, null);
    return serveNotification(context, inbound, envelope, body, null);
  }
  const sessionId = request.headers["mcp-session-id"];
  let session: Session | null = null;
  try {
    if (envelope.kind === "request" && envelope.method === "initialize") {
      if (view.sessions !== "stateless") context.sessions.admit(inbound.principal.holder);
      return serveInitialize(context, inbound, envelope, body);
    }
    if (typeof sessionId === "string") session = context.sessions.open(sessionId, view.name, inbound.principal);
  } catch (error) {
    if (envelope.kind !== "request" || !(error instanceof SessionsFullError)) throw error;
    return refuse(inbound, envelope.id, error.problem);
  }
  if (typeof sessionId === "string" && (session === null || session.lost)) throw sessionNotFound();
  switch (envelope.kind) {
    case "request":
      return serveRequest(context, inbound, envelope, body, session);
    case "notification":
      return serveNotification(context, inbound, envelope, body, session);
    case "response":
      return serveResponse(context, inbound, envelope, body, session);
  }
}

/** The typed error for a request of which nothing was sent. */
function refuse({ response, view, operationId }: Inbound, id: string | number, problem: RouterError): undefined {
  sendJson(response, 200, rpcErrorMessage(id, problem, { upstream: view.name, operationId }), { [operationHeader]: operationId });
}

function serveRequest(
  context: McpContext,
  inbound: Inbound,
  envelope: Extract<Envelope, { kind: "request" }>,
  body: Buffer,
  session: Session | null,
): Promise<unknown> | undefined {
  // A ping asks whether this end of the line lives, and that is the router (requirement R15).
  if (envelope.method === "ping") {
    sendJson(inbound.response, 200, { jsonrpc: "2.0", id: envelope.id, result: {} });
    return undefined;
  }
  const served = serveCall(context, inbound, envelope, body, session);
  if (session === null || !remembered.has(envelope.method)) return served;
  return served.then((outcome) => {
    if (outcome === "ok") remember(context, session, envelope);
  });
}

const remembered: ReadonlySet<string> = new Set(["logging/setLevel", "resources/subscribe", "resources/unsubscribe"]);

/** Keeps what a replay has to say again; in the directory too, for the other router processes. */
function remember(context: McpContext, session: Session, envelope: Extract<Envelope, { kind: "request" }>): void {
  const uri = envelope.params["uri"];
  if (envelope.method === "logging/setLevel") session.level = envelope.params;
  else if (envelope.method === "resources/subscribe" && typeof uri === "string") {
    if (session.subscriptions.size >= subscriptionsMax) return;
    session.subscriptions.add(uri);
  } else if (envelope.method === "resources/unsubscribe" && typeof uri === "string") session.subscriptions.delete(uri);
  else return;
  const { level } = session;
  context.directory
    .change(session.sealed.key, (record) => {
      const subscriptions = new Set(record.subscriptions);
      if (envelope.method === "resources/subscribe") subscriptions.add(String(uri));
      if (envelope.method === "resources/unsubscribe") subscriptions.delete(String(uri));
      return { ...record, level: level ?? record.level, subscriptions: [...subscriptions].slice(0, subscriptionsMax) };
    })
    .catch((error: unknown) => context.log.warn({ err: error }, "the session directory could not be written"));
}
