import { isObject, serverMessageOf } from "../mcp/envelope.ts";
import type { UpstreamError, UpstreamResponse } from "../upstream-client.ts";
import { LocalResponse } from "./local-exchange.ts";

/** A line to a server on which whole JSON-RPC messages travel both ways: a process's standard streams, or the transport of 2024-11-05. */
export interface MessagePipe {
  /** Resolves once the message was handed over. Rejects with an {@link UpstreamError}; `written: false` is proof that the server never had it. */
  send(text: string): Promise<void>;
  /** Stops and goes on with the reading of what the server says. */
  pause(): void;
  resume(): void;
  /** Ends the line in good order. */
  close(): void;
}
export interface PipeListener {
  /** `text` is the message as it came, without line breaks. */
  message(value: Record<string, unknown>, text: string): void;
  /** Called once, also after `close()`; nothing comes after it. */
  lineEnded(error: UpstreamError): void;
}

/** The server took a message with a status of its own instead of a place on the line; what it said is the answer. */
export class MessageRefused extends Error {
  override readonly name = "MessageRefused";
  readonly code = "message_refused";
  readonly retriable = false;
  readonly response: UpstreamResponse;
  constructor(response: UpstreamResponse) {
    super(`the server answered a message with status ${response.status}`);
    this.response = response;
  }
}

/** A message of a client, as far as a bridge needs it. */
export type ClientMessage =
  | { readonly kind: "request"; readonly id: string | number; readonly method: string; readonly value: Record<string, unknown> }
  | { readonly kind: "other"; readonly method: string | null; readonly value: Record<string, unknown> };

/** Null: no JSON-RPC message. The data plane has looked at it already. */
export function clientMessageOf(body: Buffer | null): ClientMessage | null {
  let value: unknown;
  try {
    value = JSON.parse(body?.toString("utf8") ?? "");
  } catch {
    return null;
  }
  if (!isObject(value)) return null;
  const { id, method } = value;
  if (typeof method === "string" && (typeof id === "string" || typeof id === "number")) return { kind: "request", id, method, value };
  return { kind: "other", method: typeof method === "string" ? method : null, value };
}

/** One message in one line, in its own bytes where they are one line already. */
export function lineOf(body: Buffer | null, value: object): string {
  const text = body?.toString("utf8") ?? "";
  return text === "" || /[\r\n]/.test(text) ? JSON.stringify(value) : text;
}

/** `1` and `"1"` are different ids. */
export function idKey(id: string | number): string {
  return `${typeof id} ${id}`;
}

/** Requests are put in as they begin. */
export function oldestBegunMs(pending: ReadonlyMap<string, { readonly begunMs: number }>): number | null {
  for (const { begunMs } of pending.values()) return begunMs;
  return null;
}

/** What a notification or request says that it belongs to: the token of a progress report. */
export function progressTokenOf(value: Record<string, unknown>): string | number | null {
  const message = serverMessageOf(value);
  if (message.kind !== "notification" || message.method !== "notifications/progress" || !isObject(value["params"])) return null;
  const token = value["params"]["progressToken"];
  return typeof token === "string" || typeof token === "number" ? token : null;
}

/** The token that a request asks to be told its progress by. */
export function askedTokenOf(value: Record<string, unknown>): string | number | null {
  const meta = isObject(value["params"]) ? value["params"]["_meta"] : undefined;
  const token = isObject(meta) ? meta["progressToken"] : undefined;
  return typeof token === "string" || typeof token === "number" ? token : null;
}

export const jsonHeaders = { "content-type": "application/json" } as const;
export const sseHeaders = { "content-type": "text/event-stream", "cache-control": "no-cache" } as const;

/** An error as servers with Streamable HTTP answer it. */
export function refusal(status: number, code: number, message: string, headers: Record<string, string> = {}): LocalResponse {
  const body = JSON.stringify({ jsonrpc: "2.0", id: null, error: { code, message } });
  return LocalResponse.whole(status, { ...jsonHeaders, ...headers }, body);
}
export const unknownSession = (): LocalResponse => refusal(404, -32001, "Session not found");
export const tooMany = (what: string): LocalResponse => refusal(429, -32000, `too many ${what}; try again later`, { "retry-after": "1" });
