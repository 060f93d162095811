import { rpcErrorBody } from "../errors.ts";
import { UpstreamError } from "../upstream-client.ts";
import { serveCall } from "./call.ts";
import { failed, toldOf } from "./call-answer.ts";
import type { Envelope } from "./envelope.ts";
import type { Inbound, McpContext } from "./inbound.ts";
import { firstAnswer } from "./replay.ts";
import { capabilityPaths, newSessionKey, SessionTooLargeError } from "./seal.ts";

/**
 * Starts a session: the client's `initialize` goes to an endpoint as it is, and the answer comes back with a session id of the router
 * (requirement R2). An upstream without sessions gets one too, unless it is configured `stateless`: with it the session can move to
 * an endpoint that has them.
 */
export async function serveInitialize(
  context: McpContext,
  inbound: Inbound,
  envelope: Extract<Envelope, { kind: "request" }>,
  body: Buffer,
): Promise<void> {
  await serveCall(context, inbound, envelope, body, null, async (response, endpoint, answer) => {
    let first: Awaited<ReturnType<typeof firstAnswer>>;
    try {
      first = await firstAnswer(response);
    } catch (error) {
      if (!(error instanceof UpstreamError)) throw error;
      return failed(error.code, error.message);
    }
    if (first === null || first.id !== envelope.id) {
      return failed("malformed", `${endpoint.name} gave no answer to initialize`);
    }
    const told = toldOf(first, response.status);
    const bytes = Buffer.from(first.text);
    const result = first.value["result"] as { protocolVersion?: unknown; capabilities?: unknown } | undefined;
    if (first.error === null) {
      const asked = envelope.params["protocolVersion"];
      context.faces.learnServer(inbound.view.name, asked, first.value["result"]);
      context.offers.learn(inbound.view.name, endpoint.name, asked, first.value["result"]);
    }
    const header = response.headers["mcp-session-id"];
    const upstreamSession = typeof header === "string" ? header : null;
    if (first.error !== null || (upstreamSession === null && inbound.view.sessions === "stateless")) {
      answer.whole(bytes, {});
      return { kind: "answered", told, message: first };
    }
    try {
      const sealed = {
        key: newSessionKey(),
        upstream: inbound.view.name,
        version: String(result?.protocolVersion ?? ""),
        clientParams: envelope.params,
        capabilities: capabilityPaths(result?.capabilities),
        endpoint: endpoint.name,
        upstreamSession,
        issuedAtMs: context.nowMs(),
        principal: inbound.principal.id,
      };
      const session = context.sessions.start(sealed, inbound.principal.holder);
      answer.whole(bytes, { "mcp-session-id": session.id });
    } catch (error) {
      if (!(error instanceof SessionTooLargeError)) throw error;
      answer.whole(Buffer.from(JSON.stringify(rpcErrorBody(envelope.id, -32602, error.message))), {});
    }
    return { kind: "answered", told, message: first };
  });
}
