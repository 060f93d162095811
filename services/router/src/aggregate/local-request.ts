import { randomBytes } from "node:crypto";
import { Writable } from "node:stream";
import { LocalResponse } from "../bridge/local-exchange.ts";
import { refusal } from "../bridge/message-pipe.ts";
import type { ClientRequest, ClientResponse } from "../client-exchange.ts";
import type { EndSignal } from "../ending.ts";
import { RefusedRequest, rpcCodes, sendJson, sendRefusal } from "../errors.ts";
import type { Principal } from "../identity/principal.ts";
import type { McpContext } from "../mcp/inbound.ts";
import { serveMcp } from "../mcp/serve-mcp.ts";
import type { Observing } from "../observe/start-observing.ts";
import { UpstreamError, type UpstreamResponse } from "../upstream-client.ts";

/** A request to `/mcp/<upstream>` made inside the router: all that holds for one from outside holds for it, but no socket lies between. */
interface LocalRequest {
  readonly upstream: string;
  readonly method: "POST" | "GET" | "DELETE";
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer | null;
  readonly principal: Principal;
  /** Ends it as a client does that hangs up. */
  readonly signal?: EndSignal;
}
export type LocalCall = (request: LocalRequest) => Promise<UpstreamResponse>;

export function localCaller(context: McpContext, beginTrace: Observing["trace"] = null): LocalCall {
  // Streams in here belong to no connection that a stop would have to wait for.
  const inner: McpContext = { ...context, openEnded: new Set() };
  return (asked) => {
    const view = inner.control.upstream(asked.upstream);
    if (view === null || view.kind !== "mcp") return Promise.resolve(refusal(404, -32000, `no upstream ${asked.upstream} is configured`));
    const { method, body, principal } = asked;
    const headers = { ...asked.headers };
    // What the router asks by itself is no step of anybody's trace.
    const trace = headers["traceparent"] === undefined ? undefined : beginTrace?.(headers);
    if (!principal.still(asked.upstream))
      return Promise.resolve(refusal(403, rpcCodes.forbidden, `${asked.upstream} may not be used any more`));
    if ((body?.length ?? 0) > view.bodyBytesMax) {
      return Promise.resolve(refusal(413, -32000, `Request body too large: at most ${view.bodyBytesMax} bytes (router.body_bytes_max)`));
    }
    const answer = new LocalServerResponse();
    if (asked.signal?.aborted) answer.destroy();
    const onAbort = (): void => void answer.destroy();
    asked.signal?.addEventListener("abort", onAbort, { once: true });
    // What is asked again and again for a stream that lasts for days has one signal.
    answer.once("close", () => asked.signal?.removeEventListener("abort", onAbort));
    // What serves `/mcp/<upstream>` reads no more of it.
    const request: ClientRequest = { method, headers };
    const response: ClientResponse = answer;
    const inbound = {
      request,
      response,
      view,
      principal,
      operationId: newOperationId(),
      startedAtMs: inner.nowMs(),
      trace,
    };
    const serve = async (): Promise<unknown> => serveMcp(inner, inbound, () => body ?? Buffer.alloc(0));
    serve().catch((error: unknown) => {
      if (error instanceof RefusedRequest) return sendRefusal(response, error);
      inner.log.error({ err: error, upstream: asked.upstream }, "a request failed inside the router");
      if (answer.headersSent) answer.destroy();
      else sendJson(response, 500, { jsonrpc: "2.0", id: null, error: { code: -32603, message: "internal error of the router" } });
    });
    return answer.answered;
  };
}

export function newOperationId(): string {
  return `op-${randomBytes(9).toString("base64url")}`;
}

/** An answer that is written into memory. */
class LocalServerResponse extends Writable implements ClientResponse {
  readonly answered: Promise<UpstreamResponse>;
  headersSent = false;
  statusCode = 200;
  readonly #headers: Record<string, string> = {};
  #settle!: { resolve(response: UpstreamResponse): void; reject(error: UpstreamError): void };
  #response: LocalResponse | null = null;
  #go: (() => void) | null = null;

  constructor() {
    super({ decodeStrings: true });
    this.answered = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    // Whoever asked may have left.
    this.answered.catch(() => undefined);
    this.on("error", () => undefined);
    this.once("close", () => {
      const error = new UpstreamError("closed", "the answer broke off", true);
      if (this.#response === null) this.#settle.reject(error);
      else if (!this.writableFinished) this.#response.fail(error);
    });
  }

  setHeader(name: string, value: number | string | readonly string[]): this {
    this.#headers[name.toLowerCase()] = String(value);
    return this;
  }
  getHeader(name: string): string | undefined {
    return this.#headers[name.toLowerCase()];
  }
  writeHead(status: number, headers: Parameters<ClientResponse["writeHead"]>[1] = {}): this {
    if (this.headersSent) return this;
    this.headersSent = true;
    this.statusCode = status;
    for (const [name, value] of Object.entries(headers)) if (value !== undefined) this.setHeader(name, value);
    this.#response = new LocalResponse(status, this.#headers, {
      onResume: () => {
        const go = this.#go;
        this.#go = null;
        go?.();
      },
      onCancel: () => this.destroy(),
    });
    this.#settle.resolve(this.#response);
    return this;
  }
  flushHeaders(): void {
    this.writeHead(this.statusCode);
  }

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.writeHead(this.statusCode);
    if (this.#response?.push(chunk) === false) this.#go = done;
    else done();
  }
  override _final(done: () => void): void {
    this.writeHead(this.statusCode);
    this.#response?.end();
    done();
  }
}
