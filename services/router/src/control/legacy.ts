import type { Topology } from "@mcp-failover/contracts";
import { classifyTransportError, type Executed } from "@mcp-failover/domain";
import { lookUp } from "@mcp-failover/service-kit";
import { Agent, type Dispatcher, request } from "undici";
import { resolveHeaders } from "./endpoint-headers.ts";
import type { LegacyResult } from "./port.ts";

type LegacyConfig = NonNullable<Topology["upstreams"][string]["tools"][string]["legacy"]>;

/** The legacy API did not serve the tool. The message is for the client, and holds no secret. */
export class LegacyError extends Error {
  override readonly name = "LegacyError";
  readonly code = "legacy_failed";
  /** `no` only with proof: then the call may be made again, whatever its kind. */
  readonly executed: Executed;
  readonly retriable: boolean;
  /** The time for the call was over. */
  readonly timedOut: boolean;
  constructor(message: string, options: { executed: Executed; timedOut?: boolean; cause?: unknown }) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.executed = options.executed;
    this.retriable = options.executed === "no";
    this.timedOut = options.timedOut ?? false;
  }
}

/** One tool's legacy API, with its secrets resolved: they go to this URL alone. */
export interface LegacyTool {
  readonly name: string;
  readonly url: string;
  readonly method: "GET" | "POST";
  readonly headers: Readonly<Record<string, string>>;
  readonly timeoutMs: number | null;
  /** Why it cannot be called, for example a missing secret; null: it can. */
  readonly problem: string | null;
}

export function legacyToolOf(name: string, config: LegacyConfig, secrets: Parameters<typeof resolveHeaders>[1]): LegacyTool {
  const resolved = resolveHeaders({ headers: config.headers }, secrets);
  return {
    name,
    url: config.url,
    method: config.method,
    headers: resolved.ok ? resolved.headers : {},
    timeoutMs: config.timeout_ms ?? null,
    problem: resolved.ok ? null : resolved.reason,
  };
}

/**
 * A pool for legacy APIs. undici rather than axios, because it is the router's library already: one pool, one set of error codes, and no second
 * HTTP client to keep. It follows no redirect, and sends nothing twice by itself.
 */
export function legacyAgent(connectMs: number): Agent {
  const connections = legacyConnectionsMax;
  return new Agent({ connect: { timeout: connectMs, lookup: lookUp }, headersTimeout: 0, bodyTimeout: 0, pipelining: 1, connections });
}

/** Connections of one router process to one legacy API. Who gets one, and how long one is waited for, is said by `LegacyPlaces`. */
export const legacyConnectionsMax = 64;

export interface LegacyCall {
  readonly tool: LegacyTool;
  readonly args: unknown;
  readonly signal: AbortSignal;
  /** Sent as `Idempotency-Key`, so that an API that knows it runs the call once. */
  readonly operationId: string;
  readonly timeoutMs: number;
  readonly bodyBytesMax: number;
  readonly agent: Dispatcher;
  readonly redact: (text: string) => string;
}

/** Calls a tool's legacy HTTP API. 4xx become results with `isError`; throws {@link LegacyError} for everything else that went wrong. */
export async function callLegacy(call: LegacyCall): Promise<LegacyResult> {
  const { tool, args } = call;
  if (tool.problem !== null) throw new LegacyError(`the legacy API of ${tool.name} cannot be called: ${tool.problem}`, { executed: "no" });
  const given = args ?? {};
  if (typeof given !== "object" || Array.isArray(given)) return toolError(`the arguments of ${tool.name} have to be an object`);
  if (call.timeoutMs <= 0) throw new LegacyError(`no time was left for the legacy API of ${tool.name}`, { executed: "no", timedOut: true });
  const timeout = AbortSignal.timeout(Math.ceil(call.timeoutMs));
  const sent = { begun: false };
  try {
    const response = await request(tool.method === "GET" ? withQuery(tool.url, given) : tool.url, {
      method: tool.method,
      headers: {
        accept: "application/json",
        "accept-encoding": "identity",
        ...(tool.method === "POST" ? { "content-type": "application/json" } : {}),
        ...tool.headers,
        "idempotency-key": call.operationId,
      },
      ...(tool.method === "POST" ? { body: JSON.stringify(given) } : {}),
      signal: AbortSignal.any([call.signal, timeout]),
      dispatcher: call.agent.compose(noting(sent)),
    });
    return await readAnswer(call, response);
  } catch (error) {
    if (error instanceof LegacyError) throw error;
    throw legacyErrorOf(call, error, timeout.aborted, sent.begun);
  }
}

/** Says when a request has a connection and is written to it: before that, nothing of it can have run. */
function noting(sent: { begun: boolean }): Dispatcher.DispatcherComposeInterceptor {
  return (dispatch) => (options, handler) => {
    const start = handler.onRequestStart?.bind(handler);
    handler.onRequestStart = (controller, context) => {
      start?.(controller, context);
      sent.begun ||= !controller.aborted;
    };
    return dispatch(options, handler);
  };
}

/** Arguments as a query: lists as repeated names, objects as JSON, `null` and `undefined` not at all. */
function withQuery(url: string, args: object): string {
  const target = new URL(url);
  for (const [name, value] of Object.entries(args)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one === null || one === undefined) continue;
      target.searchParams.append(name, typeof one === "object" ? JSON.stringify(one) : String(one));
    }
  }
  return target.href;
}

async function readAnswer(call: LegacyCall, { statusCode, headers, body }: Dispatcher.ResponseData): Promise<LegacyResult> {
  const { tool } = call;
  const text = await readText(call, body);
  if (statusCode >= 500) throw new LegacyError(`the legacy API of ${tool.name} answered ${statusCode}`, { executed: "unknown" });
  if (statusCode === 401 || statusCode === 403)
    return toolError(`the legacy API of ${tool.name} refused the router's credential (${statusCode})`);
  if (statusCode >= 400)
    return toolError(call.redact(text).slice(0, errorTextMax) || `the legacy API of ${tool.name} answered ${statusCode}`);
  if (statusCode >= 300) {
    const why = `the legacy API of ${tool.name} answered with a redirect (${statusCode}), which is not followed: configure the address it leads to`;
    throw new LegacyError(why, { executed: "unknown" });
  }
  // A write that has nothing to say is done, whatever type the nothing is of.
  if (text === "" || !/\bjson\b/i.test(String(headers["content-type"] ?? ""))) return { content: [{ type: "text", text }] };
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new LegacyError(`the legacy API of ${tool.name} said that it answers JSON, and did not`, { executed: "unknown", cause });
  }
  // MCP: `structuredContent` is an object; a list or a number is in the text alone.
  const structured = json !== null && typeof json === "object" && !Array.isArray(json) ? { structuredContent: json } : {};
  return { content: [{ type: "text", text: JSON.stringify(json) }], ...structured };
}

const errorTextMax = 4096;

async function readText(call: LegacyCall, body: Dispatcher.ResponseData["body"]): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of body as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > call.bodyBytesMax) {
      const why = `the legacy API of ${call.tool.name} answered with more than ${call.bodyBytesMax} bytes`;
      body.destroy();
      throw new LegacyError(why, { executed: "unknown" });
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

function toolError(text: string): LegacyResult {
  return { content: [{ type: "text", text }], isError: true };
}

function legacyErrorOf(call: LegacyCall, error: unknown, timedOut: boolean, begun: boolean): LegacyError {
  const { name } = call.tool;
  const executed: Executed = begun ? "unknown" : "no";
  if (timedOut) {
    const why = begun ? "did not answer in time" : "could not be reached in time; the call was not sent";
    return new LegacyError(`the legacy API of ${name} ${why}`, { executed, timedOut: true, cause: error });
  }
  if (call.signal.aborted) return new LegacyError(`the call of ${name} was ended`, { executed, cause: error });
  const { code } = classifyTransportError((error as { code?: string }).code, "written");
  return new LegacyError(`the legacy API of ${name} could not be reached (${code})`, { executed, cause: error });
}
