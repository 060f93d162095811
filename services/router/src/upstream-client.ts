import type { FailureCode } from "@mcp-failover/contracts";
import { classifyTransportError } from "@mcp-failover/domain";
import { exhaustedBy } from "@mcp-failover/service-kit";
import type { EndpointView, ExchangeFailure } from "./control/port.ts";
import type { EndSignal } from "./ending.ts";
import type { Connection } from "./upstream/connection.ts";
import { Pool, type Waiting } from "./upstream/pool.ts";
import { requestHeads } from "./upstream/request-head.ts";
import { type AnswerHeaders, MalformedAnswer } from "./upstream/response-parser.ts";

/**
 * Sends one HTTP request to one endpoint, once, by a small strict HTTP/1.1 client of its own (docs/adr/0006 says why). Guarantees:
 * U1  A request is written to at most one socket, at most once; nothing in here retries.
 * U2  `UpstreamError.written` is false only where no byte of the request can have reached the network: it is true from before the first
 *     write to a connection that stands. A kept connection that turns out to be closed proves nothing for what was written on it.
 * U3  Redirects are answers like any other, never followed.
 * U4  Body chunks are handed over as they come; a sink that says `false` stops the reading of the socket until `resume()`.
 * U5  A connection whose answer was no answer to its request takes no further request: what comes there next may be meant for another one. A
 *     request that has it already keeps it, because whoever asks with an id that his server garbles must not end the calls of others.
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
  readonly signal?: EndSignal;
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
  /** Reads and forgets the rest, for at most `ms` and 1 MiB, so that the connection can be used again. */
  discard(ms: number): void;
  /** The whole body. Throws {@link UpstreamError} with code `malformed` over `bytesMax`. */
  collect(bytesMax: number): Promise<Buffer>;
  /** The whole body where it has come already, in one piece and within `bytesMax`, as nearly all have that are short; null: it is to be read. */
  whole?(bytesMax: number): Buffer | null;
  /** It is no answer to the request: its connection is not to be used again (U5). */
  distrust?(): void;
}

/** An exchange with an endpoint failed. `written: false` is proof that the endpoint saw nothing of it (U2). */
export class UpstreamError extends Error {
  override readonly name = "UpstreamError";
  readonly code: ExchangeFailure;
  readonly written: boolean;
  /** A later attempt may succeed; whether it is safe depends on `written`. */
  readonly retriable = true;
  constructor(code: ExchangeFailure, message: string, written: boolean, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.written = written;
  }
}

/** The reason of an abort by the router itself, so that it is told from a failure of the endpoint. */
export class AbortedByRouter extends Error {
  override readonly name = "AbortedByRouter";
  readonly kind: "deadline" | "client_gone" | "shutdown" | "given_up" | "stand_in";
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

/** How often connections that nobody needs are looked for. */
const sweepMs = 500;

/** An {@link UpstreamClient} with one pool of connections an origin and lane. */
export function createUpstreamClient(options: UpstreamClientOptions): UpstreamClient {
  const pools = new Map<string, Pool>();
  const retired = new Set<Pool>();
  const heads = requestHeads();
  let closed = false;
  const sweep = setInterval(() => {
    const nowMs = performance.now();
    for (const pool of pools.values()) pool.sweep(nowMs);
    for (const pool of retired) {
      pool.sweep(nowMs);
      if (pool.empty) retired.delete(pool);
    }
  }, sweepMs);
  sweep.unref();

  const poolOf = (origin: ReturnType<typeof heads.originOf>, lane: "call" | "stream") => {
    const key = lane === "call" ? origin.callKey : origin.streamKey;
    let pool = pools.get(key);
    if (pool === undefined) {
      pool = new Pool(origin, options);
      pools.set(key, pool);
    }
    return pool;
  };

  return {
    send(request) {
      const exchange = new Exchange(request);
      let head: string;
      let pool: Pool;
      if (closed) {
        exchange.fail(new UpstreamError("other", "the router stops", false));
        return exchange.response;
      }
      try {
        head = heads.headOf(request);
        pool = poolOf(heads.originOf(request.endpoint), request.lane);
      } catch (cause) {
        exchange.fail(new UpstreamError("other", `the request cannot be sent: ${messageOf(cause)}`, false, cause));
        return exchange.response;
      }
      exchange.begin(pool, head, request.connectMs);
      return exchange.response;
    },
    retain(urls) {
      const origins = new Set([...urls].map((url) => new URL(url).origin));
      for (const [key, pool] of pools) {
        // A key is lane, origin and, where it has some, settings of TLS.
        if (origins.has(key.split(" ", 2)[1] as string)) continue;
        pools.delete(key);
        retired.add(pool);
        pool.retire();
      }
    },
    async close() {
      closed = true;
      clearInterval(sweep);
      const all = [...pools.values(), ...retired];
      pools.clear();
      retired.clear();
      for (const pool of all) pool.destroy();
    },
  };
}

/** One exchange: a connection on one side, a promise and a sink on the other. */
class Exchange implements Waiting, UpstreamResponse {
  readonly response: Promise<UpstreamResponse>;
  readonly method: string;
  status = 0;
  headers: ResponseHeaders = {};
  #settle!: { resolve(response: UpstreamResponse): void; reject(error: UpstreamError): void };
  #pool: Pool | null = null;
  #head = "";
  readonly #body: Buffer | null;
  #connection: Connection | null = null;
  /** The one that it was written on; it may have another request by now. */
  #usedConnection: Connection | null = null;
  #written = false;
  #answered = false;
  #failed: UpstreamError | null = null;
  #ended = false;
  #sink: BodySink | null = null;
  #early: Buffer[] = [];
  /** False while the sink, or that there is none yet, keeps the socket from being read. */
  wanted = true;
  #timer: NodeJS.Timeout | undefined;
  readonly #signal: EndSignal | undefined;
  readonly #where: string;

  constructor(request: UpstreamRequest) {
    this.response = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    this.method = request.method;
    this.#body = request.body;
    this.#where = request.endpoint.name;
    this.#signal = request.signal;
    if (request.signal?.aborted) this.#onAbort();
    else request.signal?.addEventListener("abort", this.#onAbort, { once: true });
  }

  begin(pool: Pool, head: string, connectMs: number): void {
    if (this.#failed !== null) return;
    this.#pool = pool;
    this.#head = head;
    if (pool.send(this) || this.#failed !== null) return;
    this.#timer = setTimeout(() => this.#connectionLate(connectMs), connectMs);
  }

  readonly #onAbort = (): void => {
    const reason = this.#signal?.reason;
    const late = reason instanceof AbortedByRouter && reason.kind === "deadline";
    this.fail(new UpstreamError(late ? "timeout" : "other", late ? "no answer in time" : "the exchange was ended", this.#written, reason));
  };
  #connectionLate(ms: number): void {
    this.#pool?.late(this, ms);
    this.fail(new UpstreamError("timeout", `no connection to ${this.#where} within ${ms} ms`, this.#written));
  }

  /** Ends the exchange from this side; a request that has no connection yet will never get one. */
  fail(error: UpstreamError): void {
    if (this.#failed !== null || this.#ended) return;
    this.#finish(error);
  }

  start(connection: Connection): boolean {
    // Given up while it waited for a connection, or a second writing of one request (U1).
    if (this.#failed !== null || this.#written) return false;
    this.#written = true;
    if (this.#timer !== undefined) clearTimeout(this.#timer);
    this.#connection = connection;
    this.#usedConnection = connection;
    connection.carry(this, this.#head, this.#body);
    return true;
  }

  onHead(status: number, headers: AnswerHeaders): void {
    this.status = status;
    this.headers = headers;
    this.#answered = true;
    this.#settle.resolve(this);
  }

  onData(chunk: Buffer): void {
    if (this.#sink !== null) {
      // More of them may have come with one read: only `resume()` takes a `false` back.
      if (!this.#sink.data(chunk)) this.wanted = false;
    } else {
      // Nobody reads yet: keep what came with the headers, and read no more.
      this.#early.push(chunk);
      this.wanted = false;
    }
  }

  onEnd(): void {
    this.#connection = null;
    if (this.#failed !== null || this.#ended) return;
    this.#ended = true;
    this.#release();
    this.#sink?.end();
  }

  onLost(cause: Error): void {
    this.#connection = null;
    if (this.#failed !== null || this.#ended) return;
    this.#finish(failureOf(cause, this.#where, this.#written));
  }

  #finish(error: UpstreamError): void {
    this.#failed = error;
    this.#release();
    this.#pool?.forget(this);
    this.#connection?.giveUp(this);
    this.#connection = null;
    if (!this.#answered) this.#settle.reject(error);
    else this.#sink?.error(error);
  }
  #release(): void {
    if (this.#timer !== undefined) clearTimeout(this.#timer);
    this.#signal?.removeEventListener("abort", this.#onAbort);
  }

  read(sink: BodySink): void {
    this.#sink = sink;
    let more = true;
    for (const chunk of this.#early) more = sink.data(chunk) && more;
    this.#early = [];
    if (this.#failed !== null) sink.error(this.#failed);
    else if (this.#ended) sink.end();
    else {
      this.wanted = more;
      if (more) this.#connection?.resume(this);
    }
  }
  whole(bytesMax: number): Buffer | null {
    const [bytes, more] = this.#early;
    if (!this.#ended || this.#sink !== null || bytes === undefined || more !== undefined || bytes.length > bytesMax) return null;
    this.#early = [];
    return bytes;
  }
  distrust(): void {
    this.#usedConnection?.retire();
  }
  resume(): void {
    if (this.#failed !== null || this.#ended) return;
    this.wanted = true;
    this.#connection?.resume(this);
  }
  cancel(reason: string): void {
    this.fail(new UpstreamError("other", reason, this.#written, new AbortedByRouter("given_up")));
  }
  discard(ms: number): void {
    if (this.#ended || this.#failed !== null) return;
    const timer = setTimeout(() => this.cancel("the rest of the answer is not wanted"), ms);
    const stop = () => clearTimeout(timer);
    let bytes = 0;
    const data = (chunk: Buffer): boolean => {
      bytes += chunk.length;
      if (bytes <= discardedBytesMax) return true;
      // A new connection costs less than the rest.
      this.cancel("the rest of the answer is not wanted");
      return false;
    };
    this.read({ data, end: stop, error: stop });
  }
  collect(bytesMax: number): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      const chunks: Buffer[] = [];
      let size = 0;
      this.read({
        data: (chunk) => {
          size += chunk.length;
          if (size <= bytesMax) {
            chunks.push(chunk);
            return true;
          }
          // It may be whole already, when nothing is left that could fail.
          const error = new UpstreamError("malformed", `the answer of ${this.#where} is longer than ${bytesMax} bytes`, true);
          reject(error);
          this.fail(error);
          return false;
        },
        end: () => resolve(chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks, size)),
        error: reject,
      });
    });
  }
}

const discardedBytesMax = 1024 * 1024;

function messageOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}

/** Says what kind of failure an error of a socket or of the reader is. */
function failureOf(cause: Error, where: string, written: boolean): UpstreamError {
  const own = (cause as { code?: unknown }).code;
  const inner = (cause as { cause?: { code?: unknown } }).cause?.code;
  const errorCode = typeof own === "string" ? own : typeof inner === "string" ? inner : undefined;
  const lacking = written ? null : exhaustedBy(cause);
  if (lacking !== null) return new UpstreamError("exhausted", `${where}: this router has run out of ${lacking}`, false, cause);
  // Whether it was written is known here for sure; a system may say "refused" of a connection that stood.
  const code = cause instanceof MalformedAnswer ? "malformed" : classifyTransportError(errorCode, written ? "written" : "connecting").code;
  return new UpstreamError(code, `${where}: ${sayFailure[code]}`, written, cause);
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
