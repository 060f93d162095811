import { randomUUID } from "node:crypto";
import { isObject, serverMessageOf } from "../mcp/envelope.ts";
import { formatEvent } from "../mcp/sse.ts";
import { UpstreamError, type UpstreamRequest, type UpstreamResponse } from "../upstream-client.ts";
import { LocalExchange, LocalResponse, refuseEnded } from "./local-exchange.ts";
import {
  clientMessageOf,
  idKey,
  jsonHeaders,
  type MessagePipe,
  oldestBegunMs,
  type PipeListener,
  progressTokenOf,
  refusal,
  sseHeaders,
  tooMany,
} from "./message-pipe.ts";

/**
 * Many clients of the modern era, which has no sessions, on one line. Guarantees:
 * M1  Each request travels under an id of this line's own, its progress token too; both come back as the client chose them (requirement R11).
 * M2  A client that leaves ends its request: the server is told `notifications/cancelled` (R13). One that left before is not sent.
 * M3  What names no request goes to the only one that waits, and is dropped where several do: no client hears what may be another's.
 * M4  The line waits for no client: one that reads slowly loses its call once as much waits for it as may, and not before.
 */
export class SharedPipe implements PipeListener {
  readonly #prefix = randomUUID().slice(0, 8);
  readonly #pendingMax: number;
  readonly #onEnd: () => void;
  readonly #pending = new Map<string, Pending>();
  #pipe: MessagePipe | null = null;
  #number = 0;
  #closed = false;

  constructor(pendingMax: number, onEnd: () => void) {
    this.#pendingMax = pendingMax;
    this.#onEnd = onEnd;
  }
  get inFlight(): number {
    return this.#pending.size;
  }
  /** When the oldest request that waits for its answer was given to the server (`performance.now()`); null: none waits. */
  get oldestBegunMs(): number | null {
    return oldestBegunMs(this.#pending);
  }
  attach(pipe: MessagePipe): void {
    this.#pipe = pipe;
  }

  async handle(request: UpstreamRequest): Promise<UpstreamResponse> {
    const pipe = this.#pipe;
    if (pipe === null || this.#closed) throw new UpstreamError("closed", "the server has just ended", false);
    if (request.method !== "POST") return refusal(405, -32000, "Method not allowed.", { allow: "POST" });
    const message = clientMessageOf(request.body);
    if (message === null) return refusal(400, -32700, "Parse error: Invalid JSON-RPC message");
    if (message.kind !== "request") {
      await pipe.send(JSON.stringify(message.value));
      return LocalResponse.whole(202, {}, "");
    }
    if (this.#pending.size >= this.#pendingMax) return tooMany("requests wait for an answer of this server");
    refuseEnded(request.signal);
    const inner = `${this.#prefix}-${++this.#number}`;
    const exchange = new LocalExchange(request.signal, (aborted) => {
      this.#pending.delete(inner);
      if (aborted && !this.#closed) this.#cancel(pipe, inner);
    });
    const params = isObject(message.value["params"]) ? message.value["params"] : {};
    const meta = isObject(params["_meta"]) ? params["_meta"] : {};
    const token = meta["progressToken"];
    this.#pending.set(inner, { exchange, id: message.id, token, begunMs: performance.now() });
    const value = {
      ...message.value,
      id: inner,
      ...(token === undefined ? {} : { params: { ...params, _meta: { ...meta, progressToken: inner } } }),
    };
    try {
      await pipe.send(JSON.stringify(value));
    } catch (error) {
      exchange.fail(error instanceof UpstreamError ? error : new UpstreamError("other", "the message could not be sent", true, error));
    }
    return exchange.response;
  }

  message(value: Record<string, unknown>): void {
    const message = serverMessageOf(value);
    if (message.kind === "answer") {
      const pending = message.id === null ? undefined : this.#pending.get(String(message.id));
      if (pending === undefined) return;
      const text = JSON.stringify({ ...value, ...restored(value, "result", String(message.id), pending), id: pending.id });
      if (pending.exchange.begun) {
        pending.exchange.push(formatEvent({ event: "message", data: text }));
        pending.exchange.end();
      } else pending.exchange.whole(200, jsonHeaders, text);
      return;
    }
    if (message.kind !== "notification") return;
    const [inner, pending] = this.#belongsTo(value);
    if (pending === undefined || inner === undefined) return;
    let told = { ...value, ...restored(value, "params", inner, pending) };
    if (progressTokenOf(value) === inner)
      told = { ...told, params: { ...(told["params" as never] as object), progressToken: pending.token } };
    if (!pending.exchange.begun) pending.exchange.begin(200, sseHeaders, () => undefined);
    // M4.
    if (!pending.exchange.isFull) pending.exchange.push(formatEvent({ event: "message", data: JSON.stringify(told) }));
    else {
      pending.exchange.fail(new UpstreamError("other", "the answer was not read fast enough", true));
      if (this.#pipe !== null) this.#cancel(this.#pipe, inner);
    }
  }
  lineEnded(error: UpstreamError): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const { exchange } of [...this.#pending.values()]) exchange.fail(error);
    this.#onEnd();
  }

  #cancel(pipe: MessagePipe, inner: string): void {
    const message = { jsonrpc: "2.0", method: "notifications/cancelled", params: { requestId: inner, reason: "the client has left" } };
    // A server that is gone needs no cancellation.
    pipe.send(JSON.stringify(message)).catch(() => undefined);
  }

  #belongsTo(value: Record<string, unknown>): readonly [string | undefined, Pending | undefined] {
    const named = progressTokenOf(value) ?? subscriptionOf(value["params"]);
    if (named !== null) return [String(named), this.#pending.get(String(named))];
    return this.#pending.size === 1 ? ([...this.#pending][0] as [string, Pending]) : [undefined, undefined];
  }
}

interface Pending {
  readonly exchange: LocalExchange;
  readonly id: string | number;
  readonly token: unknown;
  readonly begunMs: number;
}

const subscriptionKey = "io.modelcontextprotocol/subscriptionId";

function subscriptionOf(part: unknown): string | number | null {
  const meta = isObject(part) ? part["_meta"] : undefined;
  const id = isObject(meta) ? meta[subscriptionKey] : undefined;
  return typeof id === "string" || typeof id === "number" ? id : null;
}

/** The part of a message with the client's own id where it names the subscription. */
function restored(value: Record<string, unknown>, part: "params" | "result", inner: string, pending: Pending): Record<string, unknown> {
  const inside = value[part];
  const id = subscriptionOf(inside);
  if (id === null || idKey(id) !== idKey(inner) || !isObject(inside)) return {};
  return { [part]: { ...inside, _meta: { ...(inside["_meta"] as object), [subscriptionKey]: pending.id } } };
}
