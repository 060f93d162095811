import { isDeeperThan } from "@mcp-failover/domain";
import { RefusedRequest } from "../errors.ts";
import { type Outline, outlineOf, type Span } from "./outline.ts";

/** What the router reads of a client's message; everything else is passed on as the bytes that came. */
export type Envelope =
  | {
      readonly kind: "request";
      readonly id: string | number;
      readonly method: string;
      /** `params.name` of a `tools/call`. */
      readonly tool: string | null;
      readonly params: Readonly<Record<string, unknown>>;
      readonly era: Era;
    }
  | { readonly kind: "notification"; readonly method: string; readonly params: Readonly<Record<string, unknown>>; readonly era: Era }
  /** A client's answer to a request of the server. */
  | { readonly kind: "response"; readonly id: string | number | null; readonly message: Readonly<Record<string, unknown>> };

/** `modern`: protocol 2026-07-28 and later, without sessions; the version travels in each request. */
export type Era = "legacy" | "modern";

export const versionKey = "io.modelcontextprotocol/protocolVersion";
export const subscriptionKey = "io.modelcontextprotocol/subscriptionId";
export const clientInfoKey = "io.modelcontextprotocol/clientInfo";
/** The first version without `initialize` and sessions; versions are dates, so text order is time order. */
export const firstModernVersion = "2026-07-28";

/**
 * Reads the envelope of a message. Throws {@link RefusedRequest} with the statuses and codes that SDK servers use: 400/-32700 for what
 * is not JSON or not JSON-RPC, 400/-32600 for a batch (removed in 2025-06-18).
 */
export function readEnvelope(body: Buffer): Envelope {
  const outline = outlineOf(body);
  if (outline?.id !== undefined && outline.method !== undefined) return new OutlinedRequest(body, outline);
  return parseEnvelope(body);
}

/** A request of which the rest is parsed when it is asked for: mostly it never is. */
class OutlinedRequest {
  readonly kind = "request";
  readonly id: string | number;
  readonly method: string;
  readonly tool: string | null;
  readonly era: Era;
  readonly #body: Buffer;
  readonly #span: Span | null;
  #params: Readonly<Record<string, unknown>> | null = null;

  constructor(body: Buffer, { id, method, params, name, meta }: Outline) {
    this.id = id as string | number;
    this.method = method as string;
    this.tool = this.method === "tools/call" ? name : null;
    this.era = meta === null ? "legacy" : eraOf({ _meta: parsePart(body, meta) });
    this.#body = body;
    this.#span = params;
  }

  get params(): Readonly<Record<string, unknown>> {
    this.#params ??= this.#span === null ? {} : (parsePart(this.#body, this.#span) as Record<string, unknown>);
    return this.#params;
  }
}

function parsePart(bytes: Buffer, { from, to }: Span): unknown {
  return JSON.parse(bytes.toString("utf8", from, to));
}

function parseEnvelope(body: Buffer): Envelope {
  let value: unknown;
  try {
    value = JSON.parse(body.toString("utf8"));
  } catch {
    throw new RefusedRequest(400, -32700, "Parse error: Invalid JSON");
  }
  if (Array.isArray(value)) throw new RefusedRequest(400, -32600, "Invalid Request: send one message a request; batches are not supported");
  if (!isObject(value) || value["jsonrpc"] !== "2.0") throw new RefusedRequest(400, -32700, "Parse error: Invalid JSON-RPC message");
  const { id, method } = value;
  if (typeof method === "string") {
    const params = isObject(value["params"]) ? value["params"] : {};
    const era = eraOf(params);
    if (id === undefined) return { kind: "notification", method, params, era };
    if (!isId(id)) throw new RefusedRequest(400, -32700, "Parse error: the id of a request is a string or a number");
    const name = params["name"];
    return { kind: "request", id, method, tool: method === "tools/call" && typeof name === "string" ? name : null, params, era };
  }
  if (method === undefined && ("result" in value || "error" in value))
    return { kind: "response", id: isId(id) ? id : null, message: value };
  throw new RefusedRequest(400, -32700, "Parse error: Invalid JSON-RPC message");
}

function eraOf(params: Readonly<Record<string, unknown>>): Era {
  const meta = params["_meta"];
  const version = isObject(meta) ? meta[versionKey] : undefined;
  return typeof version === "string" ? "modern" : "legacy";
}

/** The name that the client gives itself, to find the agent of a call. */
export function clientNameOf(info: unknown): string | null {
  const name = isObject(info) ? info["name"] : undefined;
  return typeof name === "string" && name.length <= 128 ? name : null;
}

/** No message means anything so deep, and to write it as text again would end the stack. */
const depthMax = 1000;

/** Throws {@link RefusedRequest} with 400 for a body that is nested too deeply. Short ones cannot be, and are not looked at. */
export function checkDepth(body: Buffer): void {
  if (body.length > 2 * depthMax && isTooDeep(body.toString("utf8"))) {
    throw new RefusedRequest(400, -32700, `Parse error: nested deeper than ${depthMax}`);
  }
}

/** Whether a text is nested more deeply than any message is. */
export function isTooDeep(text: string): boolean {
  return text.length > 2 * depthMax && isDeeperThan(text, depthMax);
}

/** A message of the server, as far as the relay needs it. */
export type ServerMessage =
  | {
      readonly kind: "answer";
      readonly id: string | number | null;
      readonly error: number | null;
      readonly isError: boolean;
      readonly value: Record<string, unknown>;
      /** Known to have nothing in its result that is remembered: no task, no cursor, no state. */
      readonly isPlain?: boolean;
    }
  | { readonly kind: "request"; readonly id: string | number; readonly method: string; readonly value: Record<string, unknown> }
  | { readonly kind: "notification"; readonly method: string; readonly value: Record<string, unknown> }
  | { readonly kind: "other" };

/** An answer in one piece that is a result, if that can be said without parsing it. */
export function outlinedAnswer(bytes: Buffer): Extract<ServerMessage, { kind: "answer" }> | null {
  const outline = outlineOf(bytes);
  if (outline?.id === undefined || outline.method !== undefined || !outline.isResult) return null;
  return new OutlinedAnswer(bytes, outline);
}

/** Parsed when it is asked for. */
class OutlinedAnswer {
  readonly kind = "answer";
  readonly id: string | number | null;
  readonly error = null;
  readonly isError: boolean;
  readonly isPlain: boolean;
  readonly #bytes: Buffer;
  #value: Record<string, unknown> | null = null;

  constructor(bytes: Buffer, { id, isError, isPlain }: Outline) {
    this.id = id as string | number;
    this.isError = isError;
    this.isPlain = isPlain;
    this.#bytes = bytes;
  }

  get value(): Record<string, unknown> {
    this.#value ??= JSON.parse(this.#bytes.toString("utf8")) as Record<string, unknown>;
    return this.#value;
  }
}

/** Reads a message of the server; `other` when it is not JSON-RPC. */
export function readServerMessage(text: string): ServerMessage {
  if (isTooDeep(text)) return { kind: "other" };
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return { kind: "other" };
  }
  return serverMessageOf(value);
}

export function serverMessageOf(value: unknown): ServerMessage {
  if (!isObject(value)) return { kind: "other" };
  const { id, method, result, error } = value;
  if (typeof method === "string") return isId(id) ? { kind: "request", id, method, value } : { kind: "notification", method, value };
  if (isObject(error) && typeof error["code"] === "number") {
    return { kind: "answer", id: isId(id) ? id : null, error: error["code"], isError: false, value };
  }
  if (isObject(result) && isId(id)) return { kind: "answer", id, error: null, isError: result["isError"] === true, value };
  return { kind: "other" };
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
function isId(value: unknown): value is string | number {
  // 1e999 is read as infinite, which no JSON can say again.
  return typeof value === "string" || Number.isFinite(value);
}
