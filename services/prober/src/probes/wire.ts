import { Agent, Client, type Dispatcher } from "undici";

/**
 * HTTP for probes. Regular probes use kept connections, as callers do; quick ones a fresh one: they have to show that a new caller gets
 * in, and a stale kept socket (its server was stopped, a NAT forgot it) would fail again just as before.
 *
 * W1  A reset or close on a kept connection is tried once more on a fresh one before it counts: it may only tell of an idle socket.
 * W2  Redirects are answers like any other, never followed.
 * W3  Every answer is released by who asked for it; a body that does not end by then costs its connection, not this process.
 * W4  A request that is given up ends at once, also while its connection is still being made: a network that swallows packets would keep
 *     it for the whole time that a connection may take.
 */
export interface Wire {
  /** Throws what the transport threw. */
  send(request: WireRequest): Promise<WireAnswer>;
  /** As `send`, where nobody looks at the body: it only has to end, or to come to so many bytes. Costs half as much. */
  look(request: WireRequest, bytesMax: number): Promise<WireLook>;
  close(): Promise<void>;
}

export interface WireRequest {
  readonly url: string;
  readonly method: "GET" | "HEAD" | "POST" | "DELETE";
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
  readonly fresh: boolean;
  readonly signal: AbortSignal;
}

export interface WireLook {
  readonly status: number;
  header(name: string): string | null;
}

export interface WireAnswer {
  readonly status: number;
  header(name: string): string | null;
  /** The body as it comes; throws what the transport threw. */
  chunks(): AsyncIterable<Uint8Array>;
  release(): void;
}

const connectMs = 5000;
const keepMs = 30_000;
/** What is left of an answer after its interesting part is waited for this long, so that the connection can be kept. */
const restMs = 50;
const lostSocketCodes = new Set(["ECONNRESET", "EPIPE", "UND_ERR_SOCKET", "UND_ERR_CLOSED", "UND_ERR_DESTROYED"]);
const clientOptions = {
  connect: { timeout: connectMs },
  keepAliveTimeout: keepMs,
  headersTimeout: 0,
  bodyTimeout: 0,
  pipelining: 1,
  allowH2: false,
} as const;

export function openWire(connectionsPerHost = 4): Wire {
  const agent = new Agent({ ...clientOptions, connections: connectionsPerHost });

  async function lookFresh(request: WireRequest, bytesMax: number): Promise<WireLook> {
    const client = new Client(addressOf(request.url).origin, clientOptions);
    try {
      return await lookThrough(client, { ...request, headers: { ...request.headers, connection: "close" } }, bytesMax);
    } finally {
      void client.destroy();
    }
  }

  async function sendFresh(request: WireRequest): Promise<WireAnswer> {
    const client = new Client(addressOf(request.url).origin, clientOptions);
    try {
      const answer = await dispatch(client, { ...request, headers: { ...request.headers, connection: "close" } });
      return {
        ...answer,
        release: () => {
          answer.release();
          void client.destroy();
        },
      };
    } catch (error) {
      void client.destroy();
      throw error;
    }
  }

  /** W1. */
  function isLostSocket(error: unknown, { signal }: WireRequest): boolean {
    return !signal.aborted && lostSocketCodes.has(errorCodeOf(error) ?? "");
  }

  return {
    async send(request) {
      if (request.fresh) return sendFresh(request);
      try {
        return await dispatch(agent, request);
      } catch (error) {
        if (!isLostSocket(error, request)) throw error;
        return sendFresh(request);
      }
    },
    async look(request, bytesMax) {
      if (request.fresh) return lookFresh(request, bytesMax);
      try {
        return await lookThrough(agent, request, bytesMax);
      } catch (error) {
        if (!isLostSocket(error, request)) throw error;
        return lookFresh(request, bytesMax);
      }
    },
    close: () => agent.destroy(),
  };
}

interface Address {
  readonly origin: string;
  readonly path: string;
}
const addressesMax = 50_000;
const addresses = new Map<string, Address>();

/** Origin and path of a URL; the same few are asked for again and again, and taking one apart costs as much as a small request's head. */
function addressOf(url: string): Address {
  const known = addresses.get(url);
  if (known !== undefined) return known;
  const { origin, pathname, search } = new URL(url);
  const address = { origin, path: `${pathname}${search}` };
  if (addresses.size >= addressesMax) addresses.clear();
  addresses.set(url, address);
  return address;
}

/** W4: rejects as soon as the signal fires. What comes of the promise later is nobody's business any more. */
function unlessAborted<T>(signal: AbortSignal, promise: Promise<T>, late: (value: T) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => {
      reject(signal.reason as Error);
      promise.then(late, () => undefined);
    };
    if (signal.aborted) return onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}

async function dispatch(dispatcher: Dispatcher, request: WireRequest): Promise<WireAnswer> {
  const { origin, path } = addressOf(request.url);
  const { method, headers: ownHeaders, body: text = null, signal } = request;
  const sent = dispatcher.request({ origin, path, method, headers: ownHeaders, body: text, signal });
  const { statusCode, headers, body } = await unlessAborted(signal, sent, (late) => late.body.on("error", () => undefined).destroy());
  // Released bodies are destroyed on purpose; whoever reads one gets its error from the iterator.
  body.on("error", () => undefined);
  return {
    status: statusCode,
    header: (name) => firstOf(headers[name]),
    chunks: () => body.iterator({ destroyOnReturn: false }),
    release: () => {
      if (body.destroyed || body.readableEnded) return;
      body.resume();
      const timer = setTimeout(() => body.destroy(), restMs);
      timer.unref();
      body.once("close", () => clearTimeout(timer));
    },
  };
}

/** What has come of a look so far; undici calls it. */
class Look implements Dispatcher.DispatchHandler {
  readonly #bytesMax: number;
  readonly #end: (error: Error | null) => void;
  #controller: Dispatcher.DispatchController | null = null;
  #ended = false;
  #bytes = 0;
  status = 0;
  headers: Record<string, string | string[] | undefined> = {};

  constructor(bytesMax: number, end: (error: Error | null) => void) {
    this.#bytesMax = bytesMax;
    this.#end = end;
  }
  #finish(error: Error | null): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#end(error);
  }
  /** W4. */
  giveUp(reason: Error): void {
    this.#finish(reason);
    this.#controller?.abort(reason);
  }
  onRequestStart(controller: Dispatcher.DispatchController): void {
    if (this.#ended) controller.abort(new Error("given up"));
    else this.#controller = controller;
  }
  onResponseStart(_controller: Dispatcher.DispatchController, status: number, headers: Look["headers"]): void {
    // An interim answer is none.
    if (status < 200) return;
    this.status = status;
    this.headers = headers;
  }
  onResponseData(controller: Dispatcher.DispatchController, chunk: Uint8Array): void {
    this.#bytes += chunk.byteLength;
    if (this.#bytes <= this.#bytesMax) return;
    this.#finish(null);
    controller.abort(new Error("enough"));
  }
  onResponseEnd(): void {
    this.#finish(null);
  }
  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    this.#finish(error);
  }
}

function lookThrough(dispatcher: Dispatcher, request: WireRequest, bytesMax: number): Promise<WireLook> {
  const { signal, method, headers, body = null } = request;
  const { origin, path } = addressOf(request.url);
  return new Promise((resolve, reject) => {
    const giveUp = (): void => look.giveUp(signal.reason as Error);
    const look = new Look(bytesMax, (error) => {
      signal.removeEventListener("abort", giveUp);
      if (error !== null) return reject(error);
      const { headers: answered, status } = look;
      resolve({ status, header: (name) => firstOf(answered[name]) });
    });
    if (signal.aborted) return giveUp();
    signal.addEventListener("abort", giveUp);
    dispatcher.dispatch({ origin, path, method, headers, body }, look);
  });
}

function firstOf(value: string | string[] | undefined): string | null {
  return Array.isArray(value) ? (value[0] ?? null) : (value ?? null);
}

/** The code of a transport error, wherever undici or Node put it. */
export function errorCodeOf(error: unknown): string | undefined {
  for (let inner = error, depth = 0; inner instanceof Error && depth < 4; inner = inner.cause, depth += 1) {
    const { code } = inner as NodeJS.ErrnoException;
    if (typeof code === "string") return code;
  }
  return undefined;
}
