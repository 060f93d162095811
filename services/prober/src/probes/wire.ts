import { Agent, Client, type Dispatcher } from "undici";

/**
 * HTTP for probes. Regular probes use kept connections, as callers do; quick ones a fresh one: they have to show that a new caller gets
 * in, and a stale kept socket (its server was stopped, a NAT forgot it) would fail again just as before.
 *
 * W1  A reset or close on a kept connection is tried once more on a fresh one before it counts: it may only tell of an idle socket.
 * W2  Redirects are answers like any other, never followed.
 * W3  Every answer is released by who asked for it; a body that does not end by then costs its connection, not this process.
 */
export interface Wire {
  /** Throws what the transport threw. */
  send(request: WireRequest): Promise<WireAnswer>;
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

export function openWire(): Wire {
  const agent = new Agent({ ...clientOptions, connections: 16 });

  async function sendFresh(request: WireRequest): Promise<WireAnswer> {
    const client = new Client(new URL(request.url).origin, clientOptions);
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

  return {
    async send(request) {
      if (request.fresh) return sendFresh(request);
      try {
        return await dispatch(agent, request);
      } catch (error) {
        if (request.signal.aborted || !lostSocketCodes.has(errorCodeOf(error) ?? "")) throw error;
        return sendFresh(request);
      }
    },
    close: () => agent.destroy(),
  };
}

async function dispatch(dispatcher: Dispatcher, request: WireRequest): Promise<WireAnswer> {
  const { origin, pathname, search } = new URL(request.url);
  const { statusCode, headers, body } = await dispatcher.request({
    origin,
    path: `${pathname}${search}`,
    method: request.method,
    headers: request.headers,
    body: request.body ?? null,
    signal: request.signal,
  });
  // Released bodies are destroyed on purpose; whoever reads one gets its error from the iterator.
  body.on("error", () => undefined);
  return {
    status: statusCode,
    header: (name) => {
      const value = headers[name];
      return Array.isArray(value) ? (value[0] ?? null) : (value ?? null);
    },
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

/** The code of a transport error, wherever undici or Node put it. */
export function errorCodeOf(error: unknown): string | undefined {
  for (let inner = error, depth = 0; inner instanceof Error && depth < 4; inner = inner.cause, depth += 1) {
    const { code } = inner as NodeJS.ErrnoException;
    if (typeof code === "string") return code;
  }
  return undefined;
}
