import { sendJson } from "../errors.ts";
import { UpstreamError } from "../upstream-client.ts";
import { type Inbound, type McpContext, operationHeader, sessionNotFound } from "./inbound.ts";
import type { Hold, Session } from "./session.ts";
import { streamHeaders } from "./session-stream.ts";

/**
 * The client ends its session (requirement R5): every endpoint that holds it is told, the state is dropped, and later requests get 404.
 * A server that does not let clients end sessions says 405, which the client gets, and the session lives on.
 */
export async function serveDelete(context: McpContext, inbound: Inbound): Promise<void> {
  const { request, response, view, principal } = inbound;
  const sessionId = request.headers["mcp-session-id"];
  const session = typeof sessionId === "string" ? context.sessions.open(sessionId, view.name, principal) : null;
  if (session === null) throw sessionNotFound();
  const record = await context.directory.read(session.sealed.key);
  if (record?.ended) {
    context.sessions.end(session);
    throw sessionNotFound();
  }
  if (record !== null) context.replay.adopt(session, record);
  const told = new Set(session.holds.values());
  const statuses = await Promise.all([...told].map((hold) => end(context, inbound, session, hold)));
  if (statuses.length > 0 && statuses.every((status) => status === 405)) {
    return sendJson(
      response,
      405,
      { jsonrpc: "2.0", id: null, error: { code: -32000, message: "Method not allowed." } },
      { allow: "GET, POST" },
    );
  }
  session.stream?.close();
  context.sessions.end(session);
  const stood = await context.directory.change(session.sealed.key, (now) => ({ ...now, ended: true }));
  // A place that it was given while its servers were told.
  context.replay.adopt(session, stood);
  for (const hold of session.holds.values()) {
    const endpoint = view.endpoints.find(({ name }) => name === hold.endpoint);
    if (endpoint !== undefined && !told.has(hold)) context.replay.forget(session, endpoint, hold);
  }
  if (!response.destroyed) response.writeHead(200, { "content-length": 0, [operationHeader]: inbound.operationId }).end();
}

/** Status of the upstream; 0 when it could not be told, which ends the session just as well. */
async function end(context: McpContext, inbound: Inbound, session: Session, hold: Hold): Promise<number> {
  const endpoint = inbound.view.endpoints.find((candidate) => candidate.name === hold.endpoint);
  if (endpoint === undefined || hold.upstreamSession === null) return 0;
  try {
    const upstream = await context.client.send({
      endpoint,
      method: "DELETE",
      headers: streamHeaders(session, hold),
      body: null,
      connectMs: 1000,
      signal: AbortSignal.timeout(2000),
      lane: "call",
    });
    upstream.discard(250);
    return upstream.status;
  } catch (error) {
    if (!(error instanceof UpstreamError)) throw error;
    return 0;
  }
}
