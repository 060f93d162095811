import { createParser } from "eventsource-parser";
import { isCoded, type SendRequest, type Wire, type WireAnswer } from "./wire.ts";

/** What a JSON-RPC request over Streamable HTTP came to. */
export type RpcAnswer = {
  readonly status: number;
  readonly sessionId: string | null;
  readonly retryAfter: string | null;
  readonly ms: number;
} & (
  | { readonly kind: "result"; readonly result: unknown }
  | { readonly kind: "error"; readonly errorCode: number }
  /** No JSON-RPC answer to our id: another body, none, or a stream that ended without it. */
  | { readonly kind: "none"; readonly why: string }
);

export interface RpcRequest extends Omit<SendRequest, "method" | "body"> {
  readonly id: string;
  readonly method: string;
  readonly params?: unknown;
  readonly bytesMax: number;
  /** Called as soon as the headers name a session, so that it can be ended even when the rest of the answer never comes. */
  readonly onSession?: (sessionId: string) => void;
}

/** Sends one request and reads until its answer, as JSON or as a stream of events, and no further. Throws what the transport threw. */
export async function callRpc(wire: Wire, request: RpcRequest): Promise<RpcAnswer> {
  const startedMs = performance.now();
  const { id, method, params } = request;
  const answer = await post(wire, request, { jsonrpc: "2.0", id, method, ...(params === undefined ? {} : { params }) });
  const sessionId = answer.header("mcp-session-id");
  if (sessionId !== null) request.onSession?.(sessionId);
  try {
    const isStream = (answer.header("content-type") ?? "").includes("text/event-stream");
    const found = await (isCoded(answer)
      ? coded
      : isStream
        ? fromStream(answer, id, request.bytesMax)
        : fromJson(answer, id, request.bytesMax));
    return {
      ...found,
      status: answer.status,
      sessionId,
      retryAfter: answer.header("retry-after"),
      ms: performance.now() - startedMs,
    };
  } finally {
    answer.release();
  }
}

/** Sends a notification; the answer is its status. */
export async function notifyRpc(wire: Wire, request: Omit<RpcRequest, "id" | "bytesMax">): Promise<number> {
  const answer = await post(wire, request, { jsonrpc: "2.0", method: request.method });
  answer.release();
  return answer.status;
}

function post(wire: Wire, request: Omit<RpcRequest, "id" | "bytesMax">, message: unknown): Promise<WireAnswer> {
  return wire.send({
    url: request.url,
    method: "POST",
    headers: { ...request.headers, "content-type": "application/json", accept: "application/json, text/event-stream" },
    body: JSON.stringify(message),
    tls: request.tls ?? null,
    fresh: request.fresh,
    signal: request.signal,
  });
}

type Found =
  | { readonly kind: "result"; readonly result: unknown }
  | { readonly kind: "error"; readonly errorCode: number }
  | { readonly kind: "none"; readonly why: string };

const coded: Found = { kind: "none", why: "its body is compressed, which was not asked for" };

async function fromJson(answer: WireAnswer, id: string, bytesMax: number): Promise<Found> {
  const decoder = new TextDecoder();
  let text = "";
  let bytes = 0;
  for await (const chunk of answer.chunks()) {
    bytes += chunk.byteLength;
    if (bytes > bytesMax) return { kind: "none", why: `its body is over ${bytesMax} bytes` };
    text += decoder.decode(chunk, { stream: true });
  }
  if (text.trim() === "") return { kind: "none", why: "its body is empty" };
  return matchText(text, id) ?? { kind: "none", why: "its body is no JSON-RPC answer" };
}

async function fromStream(answer: WireAnswer, id: string, bytesMax: number): Promise<Found> {
  const decoder = new TextDecoder();
  let found: Found | null = null;
  let tooLarge = false;
  const parser = createParser({
    maxBufferSize: bytesMax,
    onEvent: ({ data }) => {
      found ??= data === "" ? null : matchText(data, id);
    },
    onError: ({ type }) => {
      tooLarge ||= type === "max-buffer-size-exceeded";
    },
  });
  let bytes = 0;
  for await (const chunk of answer.chunks()) {
    bytes += chunk.byteLength;
    parser.feed(decoder.decode(chunk, { stream: true }));
    if (found !== null) return found;
    if (tooLarge || bytes > bytesMax) return { kind: "none", why: `its stream is over ${bytesMax} bytes before the answer` };
  }
  return { kind: "none", why: "its stream ended before the answer" };
}

/** The answer to our id in a text. An error without id answers us too: a server that could not place the request knows no id. */
function matchText(text: string, id: string): Found | null {
  let message: unknown;
  try {
    message = JSON.parse(text);
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
  if (message === null || typeof message !== "object" || Array.isArray(message)) return null;
  const { id: answered, result, error } = message as { id?: unknown; result?: unknown; error?: { code?: unknown } };
  if (error !== null && typeof error === "object" && (answered === id || answered === null || answered === undefined)) {
    return { kind: "error", errorCode: typeof error.code === "number" ? error.code : 0 };
  }
  return answered === id && result !== undefined ? { kind: "result", result } : null;
}
