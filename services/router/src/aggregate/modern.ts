import type { ClientRequest, ClientResponse } from "../client-exchange.ts";
import { Ending } from "../ending.ts";
import { rpcCodes, sendJson } from "../errors.ts";
import type { Principal } from "../identity/principal.ts";
import { clientInfoKey, type Envelope, firstModernVersion, isObject, serverMessageOf, versionKey } from "../mcp/envelope.ts";
import { plainText } from "../mcp/header-text.ts";
import type { McpContext } from "../mcp/inbound.ts";
import { SseWriter } from "../mcp/sse.ts";
import { AbortedByRouter, UpstreamError } from "../upstream-client.ts";
import { type Asked, InnerError, rpcErrorOf } from "./inner-answer.ts";
import { eraOf, type Link, type Links } from "./links.ts";
import type { LocalCall } from "./local-request.ts";
import { pageFrom, targetOf } from "./request.ts";
import { bindState, readState } from "./request-state.ts";
import { type CallListener, SessionCall, type SessionCalls } from "./session-call.ts";
import type { AggregateSettings } from "./settings.ts";
import type { SharedLists } from "./shared-lists.ts";
import { namedBy, type StatelessClient, StatelessUpstream } from "./stateless.ts";
import { fromUpstream, isListMethod, type ListMethod } from "./translate.ts";

type Value = Record<string, unknown>;
type Request = Extract<Envelope, { kind: "request" }>;

/** What `/mcp` works with for clients without sessions. */
export interface ModernContext {
  readonly mcp: McpContext;
  readonly call: LocalCall;
  readonly lists: SharedLists;
  readonly links: Links;
  readonly calls: SessionCalls;
}

/** One request of such a client. */
export interface ModernRequest {
  readonly request: ClientRequest;
  readonly response: ClientResponse;
  readonly envelope: Request;
  readonly principal: Principal;
  readonly settings: AggregateSettings;
  readonly passed: Readonly<Record<string, string>>;
}

const capabilitiesKey = "io.modelcontextprotocol/clientCapabilities";
const tasksExtension = "io.modelcontextprotocol/tasks";
const serverInfoMeta = { "io.modelcontextprotocol/serverInfo": { name: "mcp-failover", version: "1" } };
const headerMismatch = -32020;
const unsupportedVersion = -32022;
const calls: ReadonlySet<string> = new Set(["tools/call", "prompts/get", "resources/read", "completion/complete"]);

/**
 * A request of 2026-07-28 to `/mcp`, but for `subscriptions/listen`. Upstreams of that era get it as it is but for names and URIs; those that know only
 * sessions get it in a session of the router (`links.ts`).
 */
export async function serveModern(context: ModernContext, asked: ModernRequest): Promise<void> {
  const { request, response, envelope, settings } = asked;
  const { method, id, params } = envelope;
  const refuse = (status: number, code: number, message: string, data?: object): void =>
    sendJson(response, status, { jsonrpc: "2.0", id, error: { code, message, ...(data === undefined ? {} : { data }) } });
  const wrong = headerProblem(request, envelope);
  if (wrong !== null) return refuse(400, headerMismatch, `Bad Request: ${wrong}`);
  const requested = metaOf(envelope)[versionKey];
  if (requested !== firstModernVersion) {
    return refuse(400, unsupportedVersion, "Unsupported protocol version", { supported: [firstModernVersion], requested });
  }
  if (method === "server/discover") return sendJson(response, 200, { jsonrpc: "2.0", id, result: discovered });
  if (isListMethod(method)) {
    const page = await pageOf(context, asked, method);
    if (page === null) return refuse(200, -32602, "Invalid params: the list has changed since this cursor was given; begin again");
    return sendJson(response, 200, { jsonrpc: "2.0", id, result: { resultType: "complete", ttlMs: 0, cacheScope: "private", ...page } });
  }
  const target = calls.has(method) ? targetOf(settings, method, params) : "unknown_method";
  if (target === "unknown_method") return refuse(404, -32601, `Method not found: ${method.slice(0, 100)}`);
  if (target === null) {
    const known = settings.upstreams.join(", ") || "nothing yet";
    return refuse(200, -32602, `Invalid params: no upstream of /mcp is named by it; names begin with ${known}`);
  }
  const state = target.params["requestState"];
  const bound = state === undefined ? null : readState(state, target.upstream);
  if (state !== undefined && bound === null) {
    return refuse(200, -32602, `Invalid params: the requestState is none that ${target.upstream} gave for this request`);
  }
  await relay(context, asked, target, bound);
}

const discovered = {
  resultType: "complete",
  supportedVersions: [firstModernVersion],
  capabilities: {
    tools: { listChanged: true },
    prompts: { listChanged: true },
    resources: { subscribe: true, listChanged: true },
    logging: {},
    completions: {},
  },
  ttlMs: 0,
  cacheScope: "private",
  _meta: serverInfoMeta,
};

function metaOf({ params }: Request): Value {
  return isObject(params["_meta"]) ? params["_meta"] : {};
}

/** The headers say what the message says, so that nobody on the way takes it for another one; null: they do. */
function headerProblem({ headers }: ClientRequest, envelope: Request): string | null {
  const said = (name: string): string | undefined => {
    const value = headers[name];
    return typeof value === "string" ? value : undefined;
  };
  if (said("mcp-protocol-version") !== metaOf(envelope)[versionKey]) return "MCP-Protocol-Version is not the version in _meta";
  if (said("mcp-method") !== envelope.method) return "Mcp-Method is not the method of the message";
  const name = envelope.params[namedBy[envelope.method] ?? ""];
  if (typeof name !== "string") return null;
  const header = said("mcp-name");
  return header !== undefined && plainText(header) === name ? null : "Mcp-Name is not the name in the message";
}

/** A client for the upstreams of its own era. */
export function statelessClient(context: ModernContext, asked: ModernRequest, signal: StatelessClient["signal"]): StatelessClient {
  const meta = metaOf(asked.envelope);
  const given = isObject(meta[capabilitiesKey]) ? meta[capabilitiesKey] : {};
  // A task has no name that says whose it is, so `/mcp` has none.
  const { [tasksExtension]: _tasks, ...extensions } = isObject(given["extensions"]) ? given["extensions"] : {};
  const capabilities = "extensions" in given ? { ...given, extensions } : given;
  return {
    call: context.call,
    principal: asked.principal,
    meta: { ...meta, [capabilitiesKey]: capabilities },
    passed: asked.passed,
    signal,
  };
}
export function linkOf({ links }: ModernContext, { envelope, principal }: ModernRequest): Link {
  const meta = metaOf(envelope);
  return links.of(principal, meta[clientInfoKey], meta[capabilitiesKey]);
}

async function pageOf(context: ModernContext, asked: ModernRequest, method: ListMethod): Promise<Value | null> {
  const { settings, principal, envelope } = asked;
  const client = statelessClient(context, asked, new Ending());
  const parts = await Promise.all(
    settings.upstreams.map(async (name) => {
      const era = await eraOf(context.mcp, name, "modern");
      const whom: Asked = era === "modern" ? new StatelessUpstream(name, client) : linkOf(context, asked).with(name);
      return context.lists.ask(method, whom, principal.id, settings);
    }),
  );
  return pageFrom(
    parts.flatMap((part) => part?.items ?? []),
    method,
    envelope.params["cursor"],
  );
}

/** Passes a request to its upstream, and all that it says back: as JSON where the answer is all, else as a stream. */
async function relay(
  context: ModernContext,
  asked: ModernRequest,
  target: { readonly upstream: string; readonly params: Value },
  bound: ReturnType<typeof readState>,
): Promise<void> {
  const { mcp } = context;
  const { response, envelope, request, passed } = asked;
  const { upstream } = target;
  const writer = new SseWriter(response);
  const gone = new Ending();
  const heartbeat = setInterval(() => {
    if (writer.open) writer.comment("alive", mcp.nowMs());
  }, mcp.heartbeatMs);
  let done = false;
  const onClose = (): void => {
    if (!done) gone.abort(new AbortedByRouter("client_gone"));
  };
  response.once("close", onClose);
  const say: CallListener["notify"] = (value, goOn) => {
    writer.begin({});
    const shown = fromUpstream(upstream, serverMessageOf(value), value);
    const more = writer.write({ event: "message", data: JSON.stringify(shown) }, mcp.nowMs());
    if (!more) writer.whenDrained(goOn);
    return more;
  };
  const finish = (answer: Value, kind: "stateless" | "session"): void => {
    if (done) return;
    done = true;
    const shown = fromUpstream(upstream, serverMessageOf({ id: envelope.id, ...answer }), answer);
    const value = { jsonrpc: "2.0", id: envelope.id, ...bindState(upstream, kind, shown) };
    if (writer.open) {
      writer.write({ event: "message", data: JSON.stringify(value) }, mcp.nowMs());
      writer.end();
    } else sendJson(response, 200, value);
  };
  try {
    const { _meta, requestState: _state, inputResponses, ...params } = target.params;
    // A state says of which era the upstream was that gave it.
    const kind = bound?.kind ?? ((await eraOf(mcp, upstream)) === "modern" ? "stateless" : "session");
    if (kind === "session") {
      const link = linkOf(context, asked);
      link.running += 1;
      try {
        await inSession(context, asked, { ...target, params }, bound?.state ?? null, inputResponses, link, gone, say, (answer) =>
          finish(answer, kind),
        );
      } finally {
        link.running -= 1;
      }
      return;
    }
    const again = { ...(bound === null ? {} : { requestState: bound.state }), ...(inputResponses === undefined ? {} : { inputResponses }) };
    const message = { jsonrpc: "2.0", id: envelope.id, method: envelope.method, params: { ...params, ...again } };
    await new StatelessUpstream(upstream, statelessClient(context, asked, gone)).request(
      message,
      { ...passed, ...paramHeaders(request) },
      (heard, value, goOn) => {
        if (heard.kind === "answer") {
          finish("result" in value ? { result: value["result"] } : { error: value["error"] }, kind);
          return true;
        }
        return say(value, goOn);
      },
    );
    finish({ error: { code: -32603, message: `${upstream} gave no answer` } }, kind);
  } catch (error) {
    if (!(error instanceof InnerError || error instanceof UpstreamError))
      mcp.log.error({ err: error, upstream }, "a request to /mcp failed");
    finish({ error: rpcErrorOf(error) }, "stateless");
  } finally {
    clearInterval(heartbeat);
    response.off("close", onClose);
  }
}

/** What is passed on of arguments that travel in headers too. */
function paramHeaders({ headers }: ClientRequest): Record<string, string> {
  return Object.fromEntries(
    Object.entries(headers).flatMap(([name, value]) => (name.startsWith("mcp-param-") && typeof value === "string" ? [[name, value]] : [])),
  );
}

function inSession(
  context: ModernContext,
  asked: ModernRequest,
  target: { readonly upstream: string; readonly params: Value },
  handle: string | null,
  inputResponses: unknown,
  link: Link,
  gone: Ending,
  notify: CallListener["notify"],
  finish: (answer: Value) => void,
): Promise<void> {
  const { envelope, passed } = asked;
  const { upstream, params } = target;
  const what = JSON.stringify([upstream, envelope.method, params["name"] ?? params["uri"] ?? null]);
  return new Promise((resolve) => {
    const listener: CallListener = {
      notify,
      finish: (answer) => {
        gone.removeEventListener("abort", onGone);
        finish(answer);
        resolve();
      },
    };
    const call =
      handle === null ? new SessionCall(link, what, link.with(upstream), context.calls) : context.calls.take(handle, link.key, what);
    const onGone = (): void => {
      call?.cancel();
      resolve();
    };
    if (call === null) {
      const message = `the call that waited for this input is not here any more: it waited too long, or in another router process; it may have run`;
      return listener.finish({
        error: { code: rpcCodes.outcome_unknown, message, data: { code: "outcome_unknown", upstream, retriable: false } },
      });
    }
    // Who has left while the server was looked for is heard of no more.
    if (gone.aborted) return handle === null ? resolve() : onGone();
    gone.addEventListener("abort", onGone);
    if (handle === null) call.begin(envelope.method, params, metaOf(envelope)["progressToken"], passed, listener);
    else call.goOn(inputResponses, listener);
  });
}
