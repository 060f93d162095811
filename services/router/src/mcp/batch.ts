import { EventEmitter } from "node:events";
import type { ClientResponse } from "../client-exchange.ts";
import { RefusedRequest } from "../errors.ts";
import { isObject } from "./envelope.ts";
import { type Inbound, type McpContext, operationHeader } from "./inbound.ts";
import { formatEvent, SseWriter } from "./sse.ts";

/**
 * Several messages in one body, which protocol 2025-03-26 alone has (requirement R18). Guarantees:
 * B1  The upstream gets single messages: each is routed, retried, refused and accounted by itself, and one that fails leaves the others alone.
 *     Each is an operation of its own: two writes under one id would be one to a server that tells repetitions by it.
 * B2  Every request in it gets its one answer, as it comes, on one event stream; without requests there is 202.
 */
const messagesMax = 100;
const batchVersion = "2025-03-26";

/** The messages of a batch, or null when the body is none. Throws {@link RefusedRequest} where batches are not allowed. */
export function readBatch(body: Buffer, version: () => string | undefined): readonly unknown[] | null {
  let at = 0;
  while (at < body.length && (body[at] === 0x20 || (body[at] as number) < 0x0e)) at++;
  if (body[at] !== 0x5b) return null;
  if (version() !== batchVersion) {
    throw new RefusedRequest(400, -32600, `Invalid Request: send one message a request; batches are of protocol ${batchVersion} alone`);
  }
  let messages: unknown;
  try {
    messages = JSON.parse(body.toString("utf8"));
  } catch {
    throw new RefusedRequest(400, -32700, "Parse error: Invalid JSON");
  }
  if (!Array.isArray(messages) || messages.length === 0 || messages.length > messagesMax) {
    throw new RefusedRequest(400, -32600, `Invalid Request: a batch has 1 to ${messagesMax} messages`);
  }
  if (messages.some((message) => isObject(message) && message["method"] === "initialize")) {
    throw new RefusedRequest(400, -32600, "Invalid Request: initialize stands alone");
  }
  return messages;
}

/** The request that brought a batch, or one of its messages; of `/mcp` too, which has no endpoints. */
export type BatchInbound = Pick<Inbound, "request" | "response" | "operationId" | "trace">;

/** Serves each message by `serveOne`, as if it had come alone. */
export async function serveBatch<Whole extends BatchInbound>(
  context: Pick<McpContext, "log" | "nowMs">,
  inbound: Whole,
  messages: readonly unknown[],
  sessionId: string | null,
  serveOne: (part: Whole, body: Buffer) => Promise<void>,
): Promise<void> {
  const { response } = inbound;
  const hasRequests = messages.some((message) => isObject(message) && "method" in message && "id" in message);
  const writer = new SseWriter(response);
  if (hasRequests) {
    writer.begin({ [operationHeader]: inbound.operationId, ...(sessionId === null ? {} : { "mcp-session-id": sessionId }) });
    writer.flushHeaders();
  }
  await Promise.all(
    messages.map(async (message, index) => {
      const part = new PartResponse(response);
      const id = isObject(message) && (typeof message["id"] === "string" || typeof message["id"] === "number") ? message["id"] : null;
      const refuse = (code: number, text: string): void => {
        const answer = { jsonrpc: "2.0", id, error: { code, message: text } };
        if (hasRequests && id !== null) writer.write({ event: "message", data: JSON.stringify(answer) }, context.nowMs());
      };
      try {
        const headers = { ...inbound.request.headers };
        const trace = inbound.trace?.part(headers);
        const request = { method: inbound.request.method, headers };
        const own = { ...inbound, request, response: part, trace, operationId: `${inbound.operationId}-${index}` };
        await serveOne(own, Buffer.from(JSON.stringify(message)));
      } catch (error) {
        if (error instanceof RefusedRequest) refuse(error.rpcCode, error.message);
        else {
          context.log.error({ err: error, operationId: inbound.operationId }, "a message of a batch failed inside the router");
          refuse(-32603, "internal error of the router");
        }
      } finally {
        part.leave();
      }
    }),
  );
  if (hasRequests) writer.end();
  else if (!response.headersSent && !response.destroyed) response.writeHead(202, { "content-length": 0 }).end();
}

/** What the handlers of one message use of a response; events and JSON answers end up on the stream of the batch. */
class PartResponse extends EventEmitter implements ClientResponse {
  readonly #whole: ClientResponse;
  readonly #drain = (): void => void this.emit("drain");
  readonly #close = (): void => void this.emit("close");
  #isStream = false;
  headersSent = false;
  writableEnded = false;

  constructor(whole: ClientResponse) {
    super();
    this.#whole = whole;
    whole.setMaxListeners(4 * messagesMax);
    whole.on("drain", this.#drain);
    whole.on("close", this.#close);
  }
  get destroyed(): boolean {
    return this.#whole.destroyed;
  }
  get writableFinished(): boolean {
    return this.writableEnded;
  }
  /** Its message is done with, as a response is that closes. */
  leave(): void {
    this.#whole.off("drain", this.#drain);
    this.#whole.off("close", this.#close);
    this.emit("close");
  }
  writeHead(_status: number, headers: Readonly<Record<string, unknown>> = {}): this {
    this.headersSent = true;
    this.#isStream = String(headers["content-type"] ?? "").includes("text/event-stream");
    return this;
  }
  setHeader(): this {
    return this;
  }
  flushHeaders(): void {
    this.headersSent = true;
  }
  write(text: string): boolean {
    return this.#isStream ? this.#whole.write(text) : true;
  }
  end(body?: Buffer | string, encoding: BufferEncoding = "utf8"): this {
    if (this.writableEnded) return this;
    this.writableEnded = true;
    const text = body === undefined ? "" : typeof body === "string" ? Buffer.from(body, encoding).toString() : body.toString();
    if (this.#isStream) this.#whole.write(text);
    else if (text !== "") this.#whole.write(formatEvent({ event: "message", data: text }));
    return this;
  }
  destroy(): this {
    this.writableEnded = true;
    return this;
  }
}
