import { createHash } from "node:crypto";
import type { ClientResponse } from "../client-exchange.ts";
import { Ending } from "../ending.ts";
import { sendJson } from "../errors.ts";
import { CallAnswer } from "../mcp/call-answer.ts";
import { type Envelope, isObject } from "../mcp/envelope.ts";
import { AbortedByRouter, UpstreamError } from "../upstream-client.ts";
import { InnerError, type Listener, rpcErrorOf } from "./inner-answer.ts";
import { splitName, splitUri } from "./names.ts";
import type { AggregateContext } from "./serve.ts";
import type { AggregateSettings } from "./settings.ts";
import { fromUpstream, isListMethod, type ListMethod, lists } from "./translate.ts";

type Value = Record<string, unknown>;
type Request = Extract<Envelope, { kind: "request" }>;

const pageSize = 500;
const runningMax = 1024;
const awayLooks = 10;

/** One request of a client: answered here, or by the upstream that it names. */
export async function serveRequest(context: AggregateContext, response: ClientResponse, envelope: Request, message: Value): Promise<void> {
  const { method, id, params } = envelope;
  const answer = (result: unknown): void => sendJson(response, 200, { jsonrpc: "2.0", id, result });
  const refuse = (code: number, text: string): void => sendJson(response, 200, { jsonrpc: "2.0", id, error: { code, message: text } });
  if (method === "ping") return answer({});
  if (method === "logging/setLevel") {
    await context.session.setLevel(params, context.settings);
    return answer({});
  }
  if (isListMethod(method)) {
    const page = await pageOf(context, method, params["cursor"]);
    return page === null ? refuse(-32602, "Invalid params: the list has changed since this cursor was given; begin again") : answer(page);
  }
  const target = targetOf(context.settings, method, params);
  if (target === null) {
    return refuse(
      -32602,
      `Invalid params: no upstream of /mcp is named by it; names begin with ${context.settings.upstreams.join(", ") || "nothing yet"}`,
    );
  }
  if (target === "unknown_method") return refuse(-32601, `Method not found: ${method.slice(0, 100)}`);
  const isResult = await relay(context, response, id, target.upstream, { ...message, params: target.params });
  if (isResult && (method === "resources/subscribe" || method === "resources/unsubscribe")) {
    context.session.subscribed(target.upstream, String(target.params["uri"]), method === "resources/subscribe");
  }
}

async function pageOf(context: AggregateContext, method: ListMethod, cursor: unknown): Promise<Value | null> {
  return pageFrom(await context.session.list(method, context.lists, context.settings, context.passed), method, cursor);
}

/** A page of a list of all upstreams; null for a cursor of another list. */
export function pageFrom(items: readonly Value[], method: ListMethod, cursor: unknown): Value | null {
  const mark = `${items.length}.${hashOf(items)}`;
  let from = 0;
  if (cursor !== undefined) {
    const [, offset, given] = typeof cursor === "string" ? (/^(\d{1,7})\.(.*)$/.exec(cursor) ?? []) : [];
    if (given !== mark) return null;
    from = Number(offset);
  }
  const more = from + pageSize < items.length ? { nextCursor: `${from + pageSize}.${mark}` } : {};
  return { [lists[method].key]: items.slice(from, from + pageSize), ...more };
}

function hashOf(items: readonly unknown[]): string {
  return createHash("sha256").update(JSON.stringify(items)).digest("base64url").slice(0, 16);
}

/** Whose a request is, and its params as that upstream knows them. */
export function targetOf(
  { upstreams, separator }: AggregateSettings,
  method: string,
  params: Value,
): { upstream: string; params: Value } | null | "unknown_method" {
  const byName = (given: unknown, put: (name: string) => Value) => {
    const found = typeof given === "string" ? splitName(given, separator, upstreams) : null;
    return found && { upstream: found.upstream, params: put(found.name) };
  };
  const byUri = (given: unknown, put: (uri: string) => Value) => {
    const found = typeof given === "string" ? splitUri(given, upstreams) : null;
    return found && { upstream: found.upstream, params: put(found.uri) };
  };
  switch (method) {
    case "tools/call":
    case "prompts/get":
      return byName(params["name"], (name) => ({ ...params, name }));
    case "resources/read":
    case "resources/subscribe":
    case "resources/unsubscribe":
      return byUri(params["uri"], (uri) => ({ ...params, uri }));
    case "completion/complete": {
      const ref = isObject(params["ref"]) ? params["ref"] : {};
      return typeof ref["uri"] === "string"
        ? byUri(ref["uri"], (uri) => ({ ...params, ref: { ...ref, uri } }))
        : byName(ref["name"], (name) => ({ ...params, ref: { ...ref, name } }));
    }
    default:
      return "unknown_method";
  }
}

/** Passes a request to its upstream, and all that it says back: as JSON where the answer is all, else as a stream. Returns whether it is a result. */
async function relay(
  context: AggregateContext,
  response: ClientResponse,
  id: string | number,
  upstream: string,
  message: Value,
): Promise<boolean> {
  const { session, mcp, passed } = context;
  const { logs, sealed } = session.session;
  const answer = new CallAnswer(response, id, { "mcp-session-id": session.session.id }, mcp.nowMs, undefined, {
    logs,
    version: sealed.version,
  });
  const stopPriming = answer.primeLater();
  const heartbeat = setInterval(() => answer.heartbeat(mcp.heartbeatMs), mcp.heartbeatMs);
  let isResult = false;
  const finish = (value: Value): void => {
    if (answer.done) return;
    isResult = "result" in value;
    answer.give(value);
  };
  // A client that hangs up does not cancel its call. Without an id it cannot come back for the answer.
  const gone = new Ending();
  const leave = (): void => gone.abort(new AbortedByRouter("client_gone"));
  let away: NodeJS.Timeout | undefined;
  const onClose = (): void => {
    if (!answer.streaming) {
      leave();
      return;
    }
    let looks = 0;
    away = setInterval(() => {
      looks = answer.isHeard ? 0 : looks + 1;
      if (looks >= awayLooks) leave();
    }, mcp.awayMsMax / awayLooks);
  };
  const cancelled = new Ending();
  const { calls } = session.session;
  // The client gets no answer then, whatever the upstream still says (C5).
  const onGivenUp = (): void => {
    if (answer.done) return;
    answer.cancel();
    cancelled.abort(new AbortedByRouter("client_gone"));
    leave();
  };
  if (session.running.size < runningMax) {
    session.running.set(id, upstream);
    calls.set(id, onGivenUp);
  }
  if (response.destroyed) onClose();
  response.once("close", onClose);
  const hear: Listener = (heard, value, goOn) => {
    if (heard.kind === "answer") {
      finish(fromUpstream(upstream, heard, value));
      return true;
    }
    return answer.tell(fromUpstream(upstream, heard, value), goOn);
  };
  try {
    await session.with(upstream, passed).request(message, passed, hear, gone, cancelled);
    // An answer always came, or what kept it away was thrown.
    finish({ jsonrpc: "2.0", id, error: { code: -32603, message: `${upstream} gave no answer` } });
  } catch (error) {
    if (!(error instanceof InnerError || error instanceof UpstreamError))
      mcp.log.error({ err: error, upstream }, "a request to /mcp failed");
    finish({ jsonrpc: "2.0", id, error: rpcErrorOf(error) });
  } finally {
    stopPriming();
    clearInterval(heartbeat);
    clearInterval(away);
    response.off("close", onClose);
    if (calls.get(id) === onGivenUp) session.running.delete(id);
    calls.delete(id, onGivenUp);
  }
  return isResult;
}
