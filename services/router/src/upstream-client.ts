import type { FailureCode } from "@mcp-failover/contracts";
import { classifyTransportError } from "@mcp-failover/domain";
import { type Dispatcher, Pool } from "undici";
import type { EndpointView } from "./control/port.ts";

/**
 * Sends one HTTP request to one endpoint, once. Guarantees:
 * U1  A request is written to at most one socket, at most once; nothing in here retries.
 * U2  `UpstreamError.written` is false only where no byte of the request can have reached the network: undici calls `onRequestStart`
 *     before it writes the first byte and not before it has a connection, so an error ahead of that call is proof; after it, nothing is.
 * U3  Redirects are answers like any other, never followed.
 * U4  Body chunks are handed over as they come; a sink that says `false` stops the reading of the socket until `resume()`.
 */
export interface UpstreamClient {
  send(request: UpstreamRequest): Promise<UpstreamResponse>;
  /** Closes connections of endpoints that are not configured any more. */
  retain(urls: ReadonlySet<string>): void;
  close(): Promise<void>;
}

export interface UpstreamRequest {
  readonly endpoint: EndpointView;
  readonly method: string;
  /** Put after the path of the endpoint's URL; begins with '/' or '?', or is empty. */
  readonly suffix?: string;
  /** Lower-case names. The endpoint's own headers win. */
  readonly headers: Readonly<Record<string, string | string[]>>;
  readonly body: Buffer | null;
  /** The connection must stand and be free within this time. */
  readonly connectMs: number;
  readonly signal?: AbortSignal;
  /** Long streams have connections of their own, so that they cannot take those of calls. */
  readonly lane: "call" | "stream";
}

export type ResponseHeaders = Readonly<Record<string, string | string[] | undefined>>;

/** What the endpoint asks for in `Retry-After` (RFC 9110, 10.2.3: seconds or a date), at most an hour; null: nothing that can be read. */
export function retryAfterMsOf(headers: ResponseHeaders, nowMs: number): number | null {
  const value = headers["retry-after"];
  if (typeof value !== "string") return null;
  const ms = /^\d+$/.test(value) ? Number(value) * 1000 : Date.parse(value) - nowMs;
  return Number.isFinite(ms) && ms >= 0 ? Math.min(ms, 3_600_000) : null;
}

export interface BodySink {
  /** Returns false to stop the reading until `resume()`. */
  data(chunk: Buffer): boolean;
  end(): void;
  error(error: UpstreamError): void;
}

export interface UpstreamResponse {
  readonly status: number;
  readonly headers: ResponseHeaders;
  /** Hands over what came and what comes; to be called once. */
  read(sink: BodySink): void;
  resume(): void;
  /** Gives the answer up; the connection is closed. */
  cancel(reason: string): void;
  /** Reads and forgets the rest, for at most `ms`, so that the connection can be used again. */
  discard(ms: number): void;
  /** The whole body. Throws {@link UpstreamError} with code `malformed` over `bytesMax`. */
  collect(bytesMax: number): Promise<Buffer>;
}

/** An exchange with an endpoint failed. `written: false` is proof that the endpoint saw nothing of it (U2). */
export class UpstreamError extends Error {
  override readonly name = "UpstreamError";
  readonly code: FailureCode;
  readonly written: boolean;
  /** A later attempt may succeed; whether it is safe depends on `written`. */
  readonly retriable = true;
  constructor(code: FailureCode, message: string, written: boolean, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.written = written;
  }
}

/** The reason of an abort by the router itself, so that it is told from a failure of the endpoint. */
export class AbortedByRouter extends Error {
  override readonly name = "AbortedByRouter";
  readonly kind: "deadline" | "client_gone" | "shutdown" | "given_up";
  constructor(kind: AbortedByRouter["kind"]) {
    super(`the router ended the exchange: ${kind}`);
    this.kind = kind;
  }
}

export interface UpstreamClientOptions {
  /** Connections an endpoint and lane. */
  readonly connectionsMax: number;
  readonly headerBytesMax: number;
  /** An idle connection is closed after this time. */
  readonly idleMs: number;
}

/** An {@link UpstreamClient} on undici pools, one an origin and lane. */
export function createUpstreamClient(options: UpstreamClientOptions): UpstreamClient {
  const pools = new Map<string, Pool>();
  const targets = new Map<string, { origin: string; path: string; search: string }>();

  const targetOf = (url: string) => {
    let target = targets.get(url);
    if (target === undefined) {
      const parsed = new URL(url);
      target = { origin: parsed.origin, path: parsed.pathname, search: parsed.search };
      if (targets.size >= 10_000) targets.clear();
      targets.set(url, target);
    }
    return target;
  };
  const poolOf = (origin: string, lane: "call" | "stream") => {
    const key = `${lane} ${origin}`;
    let pool = pools.get(key);
    if (pool === undefined) {
      pool = new Pool(origin, {
        connections: options.connectionsMax,
        pipelining: 1,
        allowH2: false,
        // The router has its own clocks: per attempt for the connection, per call for the whole.
        headersTimeout: 0,
        bodyTimeout: 0,
        keepAliveTimeout: options.idleMs,
        keepAliveMaxTimeout: options.idleMs * 10,
        maxHeaderSize: options.headerBytesMax,
        // Longer than any attempt's own limit; frees the socket that nobody waits for any more.
        connectTimeout: 10_000,
      });
      pools.set(key, pool);
    }
    return pool;
  };

  return {
    send(request) {
      const target = targetOf(request.endpoint.url);
      const exchange = new Exchange(request);
      try {
        poolOf(target.origin, request.lane).dispatch(
          {
            path: joinPath(target.path, target.search, request.suffix ?? ""),
            method: request.method as Dispatcher.HttpMethod,
            headers: { ...request.headers, ...lowerCased(request.endpoint.headers) },
            body: request.body,
            idempotent: false,
          },
          exchange,
        );
      } catch (cause) {
        exchange.fail(new UpstreamError("other", `the request cannot be sent: ${messageOf(cause)}`, false, cause));
      }
      return exchange.response;
    },
    retain(urls) {
      const origins = new Set([...urls].map((url) => targetOf(url).origin));
      for (const [key, pool] of pools) {
        if (origins.has(key.slice(key.indexOf(" ") + 1))) continue;
        pools.delete(key);
        pool.close().catch(() => pool.destroy());
      }
    },
    async close() {
      const all = [...pools.values()];
      pools.clear();
      await Promise.all(all.map((pool) => pool.destroy()));
    },
  };
}

/** One exchange: undici's handler on one side, a promise and a sink on the other. */
class Exchange implements Dispatcher.DispatchHandler, UpstreamResponse {
  readonly response: Promise<UpstreamResponse>;
  status = 0;
  headers: ResponseHeaders = {};
  #settle!: { resolve(response: UpstreamResponse): void; reject(error: UpstreamError): void };
  #controller: Dispatcher.DispatchController | null = null;
  #written = false;
  #answered = false;
  #failed: UpstreamError | null = null;
  #ended = false;
  #sink: BodySink | null = null;
  #early: Buffer[] = [];
  #timer: NodeJS.Timeout | undefined;
  readonly #signal: AbortSignal | undefined;
  readonly #where: string;

  constructor(request: UpstreamRequest) {
    this.response = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    this.#where = request.endpoint.name;
    this.#timer = setTimeout(() => this.#connectionLate(request.connectMs), request.connectMs);
    this.#signal = request.signal;
    if (request.signal?.aborted) this.#onAbort();
    else request.signal?.addEventListener("abort", this.#onAbort, { once: true });
  }

  readonly #onAbort = (): void => {
    const reason = this.#signal?.reason;
    const late = reason instanceof AbortedByRouter && reason.kind === "deadline";
    this.fail(new UpstreamError(late ? "timeout" : "other", late ? "no answer in time" : "the exchange was ended", this.#written, reason));
  };
  #connectionLate(ms: number): void {
    this.fail(new UpstreamError("timeout", `no connection to ${this.#where} within ${ms} ms`, this.#written));
  }

  /** Ends the exchange from this side; a request that has no socket yet will never get one. */
  fail(error: UpstreamError): void {
    if (this.#failed !== null || this.#ended) return;
    this.#finish(error);
    this.#controller?.abort(error);
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller;
    // Given up while it waited for a connection, or a second writing of one request (U1): undici drops it here, before the first byte.
    if (this.#failed !== null || this.#written) {
      controller.abort(this.#failed ?? new UpstreamError("other", "a request is never written twice", true));
      return;
    }
    this.#written = true;
    clearTimeout(this.#timer);
  }

  onResponseStart(_: Dispatcher.DispatchController, status: number, headers: ResponseHeaders): void {
    if (status < 200 || this.#failed !== null) return;
    this.status = status;
    this.headers = headers;
    this.#answered = true;
    this.#settle.resolve(this);
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    if (this.#failed !== null) return;
    if (this.#sink === null) {
      // Nobody reads yet: keep what came with the headers, and read no more.
      this.#early.push(chunk);
      controller.pause();
      return;
    }
    if (!this.#sink.data(chunk)) controller.pause();
  }

  onResponseEnd(): void {
    if (this.#failed !== null || this.#ended) return;
    this.#ended = true;
    this.#release();
    this.#sink?.end();
  }

  onResponseError(_: Dispatcher.DispatchController, cause: Error): void {
    if (this.#failed !== null || this.#ended) return;
    const error = cause instanceof UpstreamError ? cause : failureOf(cause, this.#where, this.#written);
    this.#finish(error);
  }

  #finish(error: UpstreamError): void {
    this.#failed = error;
    this.#release();
    if (!this.#answered) this.#settle.reject(error);
    else this.#sink?.error(error);
  }
  #release(): void {
    clearTimeout(this.#timer);
    this.#signal?.removeEventListener("abort", this.#onAbort);
  }

  read(sink: BodySink): void {
    this.#sink = sink;
    let more = true;
    for (const chunk of this.#early) more = sink.data(chunk) && more;
    this.#early = [];
    if (this.#failed !== null) sink.error(this.#failed);
    else if (this.#ended) sink.end();
    else if (more) this.#controller?.resume();
  }
  resume(): void {
    if (this.#failed === null && !this.#ended) this.#controller?.resume();
  }
  cancel(reason: string): void {
    this.fail(new UpstreamError("other", reason, this.#written, new AbortedByRouter("given_up")));
  }
  discard(ms: number): void {
    if (this.#ended || this.#failed !== null) return;
    const timer = setTimeout(() => this.cancel("the rest of the answer is not wanted"), ms);
    const stop = () => clearTimeout(timer);
    this.read({ data: () => true, end: stop, error: stop });
  }
  collect(bytesMax: number): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      const chunks: Buffer[] = [];
      let size = 0;
      this.read({
        data: (chunk) => {
          size += chunk.length;
          if (size > bytesMax) {
            this.fail(new UpstreamError("malformed", `the answer of ${this.#where} is longer than ${bytesMax} bytes`, true));
            return false;
          }
          chunks.push(chunk);
          return true;
        },
        end: () => resolve(chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks, size)),
        error: reject,
      });
    });
  }
}

function joinPath(path: string, search: string, suffix: string): string {
  if (suffix === "") return path + search;
  if (suffix.startsWith("?")) return search === "" ? path + suffix : `${path}${search}&${suffix.slice(1)}`;
  return (path.endsWith("/") ? path.slice(0, -1) : path) + suffix;
}

function lowerCased(headers: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]));
}

function messageOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}

/** Says what kind of failure an error of undici or of a socket is. */
function failureOf(cause: Error, where: string, written: boolean): UpstreamError {
  const own = (cause as { code?: unknown }).code;
  const inner = (cause as { cause?: { code?: unknown } }).cause?.code;
  const errorCode = typeof own === "string" ? own : typeof inner === "string" ? inner : undefined;
  const judged = classifyTransportError(errorCode, written ? "written" : "connecting");
  const { executed } = judged;
  // undici gives its parser's errors a code only sometimes.
  const code = cause.name === "HTTPParserError" ? "malformed" : judged.code;
  return new UpstreamError(code, `${where}: ${sayFailure[code]}`, executed !== "no", cause);
}

const sayFailure: Readonly<Record<FailureCode, string>> = {
  refused: "the connection was refused",
  reset: "the connection was reset",
  timeout: "no connection or answer in time",
  dns: "the name could not be resolved",
  tls: "the TLS handshake failed",
  http_5xx: "the server failed",
  malformed: "the answer is not valid HTTP",
  closed: "the connection was closed before the answer was complete",
  unreachable: "the host is out of reach",
  other: "the exchange failed",
};
