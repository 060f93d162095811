import type { EndpointTls } from "@mcp-failover/contracts";
import { exhaustedBy, lookUp, tlsKey } from "@mcp-failover/service-kit";
import { Agent, buildConnector, Client, type Dispatcher } from "undici";
import { type AnswerLimits, coding, type HttpRequest, openHttpConnections, userAgent } from "./http-connections.ts";
import { secured } from "./secured.ts";

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
  /** For answers that are read as they come. Throws what the transport threw. */
  send(request: SendRequest): Promise<WireAnswer>;
  /** For answers that end, or that are let go once they have come to so many bytes. Costs a fifth of `send`. */
  look(request: WireRequest, limits: AnswerLimits): Promise<WireLook>;
  close(): Promise<void>;
}

type WireRequest = HttpRequest;

export interface WireLook {
  readonly status: number;
  header(name: string): string | null;
  /** What was kept of the body. */
  readonly body: Buffer;
  /** Whether the body was longer than was asked for. */
  readonly enough: boolean;
}

export interface WireAnswer {
  readonly status: number;
  header(name: string): string | null;
  /** The body as it comes; throws what the transport threw. */
  chunks(): AsyncIterable<Uint8Array>;
  release(): void;
}

export interface SendRequest extends WireRequest {
  readonly signal: AbortSignal;
}

const connectMs = 5000;
const keepMs = 30_000;
/** A kept connection is used for a minute at most: what its name means is looked up that often. */
const lifeMsMax = 60_000;
const securedAgentsMax = 1000;
/** What is left of an answer after its interesting part is waited for this long, so that the connection can be kept. */
const restMs = 50;
const lostSocketCodes = new Set(["ECONNRESET", "EPIPE", "UND_ERR_SOCKET", "UND_ERR_CLOSED", "UND_ERR_DESTROYED"]);
const clientOptions = {
  connect: { timeout: connectMs, lookup: lookUp },
  keepAliveTimeout: keepMs,
  headersTimeout: 0,
  bodyTimeout: 0,
  pipelining: 1,
  allowH2: false,
} as const;

export function openWire(connectionsPerHost = 4, lifeMs = lifeMsMax): Wire {
  const pool = { connections: connectionsPerHost, clientTtl: lifeMs };
  const agent = new Agent({ ...clientOptions, ...pool });
  const connections = openHttpConnections(connectionsPerHost, lifeMs);

  /** By the settings of `tls:`: a connection that was made with other ones is not shared. */
  const securedAgents = new Map<string, Agent>();
  const optionsFor = (tls: EndpointTls | null | undefined) =>
    tls == null ? clientOptions : { ...clientOptions, connect: connectorOf(tls) };
  function agentFor(tls: EndpointTls | null | undefined): Agent {
    if (tls == null) return agent;
    const key = tlsKey(tls);
    let own = securedAgents.get(key);
    if (own === undefined) {
      own = new Agent({ ...optionsFor(tls), ...pool });
      securedAgents.set(key, own);
      const [oldest] = securedAgents;
      if (securedAgents.size > securedAgentsMax && oldest !== undefined) {
        securedAgents.delete(oldest[0]);
        void oldest[1].close();
      }
    }
    return own;
  }

  async function sendFresh(request: SendRequest): Promise<WireAnswer> {
    const client = new Client(addressOf(request.url).origin, optionsFor(request.tls));
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
        return await dispatch(agentFor(request.tls), request);
      } catch (error) {
        if (!isLostSocket(error, request)) throw error;
        return sendFresh(request);
      }
    },
    async look(request, limits) {
      try {
        return await connections.ask(request, limits);
      } catch (error) {
        if (request.fresh || !isLostSocket(error, request)) throw error;
        return connections.ask({ ...request, fresh: true }, limits);
      }
    },
    async close() {
      connections.close();
      await Promise.all([agent, ...securedAgents.values()].map((one) => one.destroy()));
    },
  };
}

/** The files are looked at for each connection, so that a renewed certificate is shown by the next one. */
function connectorOf(tls: EndpointTls): buildConnector.connector {
  return (options, callback) => {
    try {
      const own = secured(tls);
      buildConnector({ timeout: connectMs, lookup: lookUp, ...own })(
        { ...options, ...(own.servername === undefined ? {} : { servername: own.servername }) },
        callback,
      );
    } catch (error) {
      callback(error instanceof Error ? error : new Error(String(error)), null);
    }
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

async function dispatch(dispatcher: Dispatcher, request: SendRequest): Promise<WireAnswer> {
  const { origin, path } = addressOf(request.url);
  const { method, headers: given, body: text = null, signal } = request;
  const named = new Set(Object.keys(given).map((name) => name.toLowerCase()));
  const ownHeaders = {
    ...given,
    ...(named.has("user-agent") ? {} : { "user-agent": userAgent }),
    ...(named.has("accept-encoding") ? {} : { "accept-encoding": coding }),
  };
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

function firstOf(value: string | string[] | undefined): string | null {
  return Array.isArray(value) ? (value[0] ?? null) : (value ?? null);
}

/** https://www.iana.org/assignments/http-parameters, "HTTP Content Coding Registry" */
const codings: ReadonlySet<string> = new Set([
  "gzip",
  "x-gzip",
  "deflate",
  "compress",
  "x-compress",
  "br",
  "zstd",
  "dcb",
  "dcz",
  "exi",
  "pack200-gzip",
  "aes128gcm",
]);

/**
 * Whether a body is in a coding that nobody asked for, and so cannot be read. Some servers name their charset there; callers read what they have no coding for as
 * it is (Fetch, "handle content codings"). What the server calls it is not repeated.
 */
export function isCoded(answer: { header(name: string): string | null }): boolean {
  const said = answer.header("content-encoding");
  return said?.split(",").some((one) => codings.has(one.trim().toLowerCase())) === true;
}

/** The code of a transport error, wherever undici or Node put it. */
export function errorCodeOf(error: unknown): string | undefined {
  for (let inner = error, depth = 0; inner instanceof Error && depth < 4; inner = inner.cause, depth += 1) {
    // Of several addresses, the one that this machine could try.
    const tried = inner instanceof AggregateError ? inner.errors.find((one) => exhaustedBy(one) === null) : undefined;
    const { code } = (tried ?? inner) as NodeJS.ErrnoException;
    if (typeof code === "string") return code;
  }
  return undefined;
}
