import cluster from "node:cluster";
import { randomBytes } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerOptions, type ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import { type AccessRules, checkAccess, checkMetricsHost, checkOneHost, checkPath } from "./access.ts";
import type { Aggregate } from "./aggregate/serve.ts";
import type { ClientResponse } from "./client-exchange.ts";
import type { UpstreamView } from "./control/port.ts";
import { RefusedRequest, rpcCodes, rpcErrorBody, sendJson, sendRefusal } from "./errors.ts";
import { standBefore } from "./front/front.ts";
import type { StrictRequest } from "./front/strict-request.ts";
import { type HttpContext, serveHttp } from "./http-proxy.ts";
import { checkFace, checkUpstream, type Guard } from "./identity/guard.ts";
import type { Principal } from "./identity/principal.ts";
import { watchIdle } from "./idle-connections.ts";
import { type McpContext, operationHeader } from "./mcp/inbound.ts";
import { serveMcp } from "./mcp/serve-mcp.ts";
import { leaveOldHolds } from "./mcp/sweep.ts";
import type { Observing } from "./observe/start-observing.ts";
import { checkProber } from "./stdio/probe-access.ts";
import type { ServerTls } from "./tls/server-tls.ts";

/**
 * The router's HTTP face. Guarantees:
 * S1  Every request is answered or its connection is closed; an error of the router's own is a 500 without details, and is logged.
 * S2  No body is read beyond the limit of its upstream.
 * S4  A connection without a request is closed after `idleMs`; a client's own keep-alive is shorter, so that the client closes first and
 *     does not write into a closed connection. One whose client takes nothing of an answer is closed after `stalledMs`: what is kept for those who
 *     do not read would have no limit.
 * S3  A stop takes no new connections, lets what is in flight end for `graceMs`, also the first request of a connection that was taken just
 *     before, then closes the streams, then everything.
 */
export interface RouterServer {
  readonly url: string;
  readonly port: number;
  /** Clients' connections, by who reads them. */
  readonly connections: { readonly front: number; readonly node: number };
  close(graceMs: number): Promise<void>;
}
export interface RouterServerOptions {
  readonly host: string;
  readonly port: number;
  readonly mcp: McpContext;
  readonly http: HttpContext;
  readonly access: () => AccessRules;
  /** `/mcp`, all upstreams as one. */
  readonly aggregate?: Aggregate;
  readonly guard: Guard;
  /** By what probers are known that have a process looked at. Empty: they are on this machine. */
  readonly probeTokens: () => readonly string[];
  /** Begins the trace of a request; null: no traces. */
  readonly trace: Observing["trace"];
  /** Null: plain HTTP. */
  readonly tls: ServerTls | null;
  /** Small plain calls are read by the router itself, and all else by node:http; false: by node:http alone. */
  readonly front: boolean;
  /** `/healthz`, `/readyz`, `/metrics`; null for other paths. */
  readonly health: (path: string) => Promise<{ status: number; type: string; body: string } | null>;
}

/** Leaves room for a session id beside the other headers. */
const headerBytesMax = 48 * 1024;
const tickMs = 1000;
const sweepEveryTicks = 30;
const idleMs = 75_000;
/** As long as a request may take to come. */
const stalledMs = 120_000;

export async function startServer(options: RouterServerOptions): Promise<RouterServer> {
  const { mcp } = options;
  let draining = false;
  let inFlight = 0;
  const begin = (request: Incoming, response: ClientResponse, socket: Socket): void => {
    inFlight++;
    if (draining) response.setHeader("connection", "close");
    serve(options, request, response, socket).catch((error: unknown) => {
      if (error instanceof RefusedRequest) return refuse(request, response, error);
      mcp.log.error({ err: error, path: request.url }, "a request failed inside the router");
      if (response.headersSent) response.destroy();
      else sendJson(response, 500, { jsonrpc: "2.0", id: null, error: { code: -32603, message: "internal error of the router" } });
    });
  };
  const ended = (): void => {
    inFlight--;
  };
  // A client that hangs up is noticed where it matters; without a listener it would end the process.
  const onTrouble = (error: Error): void => mcp.log.debug({ err: error }, "the client's connection failed");

  const server = listener(
    options.tls,
    {
      maxHeaderSize: headerBytesMax,
      // Idle connections are swept (S4): a timer for each answer would cost more than most of what is done for a call.
      keepAliveTimeout: 0,
      headersTimeout: 30_000,
      requestTimeout: 120_000,
      noDelay: true,
    },
    (request, response) => {
      const over = idle.begin(request.socket);
      response.on("close", () => {
        ended();
        over();
      });
      response.on("error", onTrouble);
      begin(request, response, request.socket);
    },
  );
  const idle = watchIdle(server, idleMs, stalledMs);
  // A port that asks for certificates is node:http's alone.
  const isFront = options.front && options.tls?.options.requestCert !== true;
  const front = isFront ? standBefore(server, { serve: begin, over: ended, idleMs, stalledMs, onTrouble }) : null;
  await listen(server, options.host, options.port);
  const { port } = server.address() as AddressInfo;

  let ticks = 0;
  const ticker = setInterval(() => {
    for (const session of mcp.sessions.all()) session.stream?.tick(mcp.control.upstream(session.sealed.upstream));
    idle.sweep();
    front?.sweep();
    if (++ticks % sweepEveryTicks !== 0) return;
    mcp.sessions.sweep();
    leaveOldHolds(mcp);
  }, tickMs);

  return {
    port,
    get connections() {
      return { front: front?.count ?? 0, node: idle.count };
    },
    url: `${options.tls === null ? "http" : "https"}://${options.host.includes(":") ? `[${options.host}]` : options.host}:${port}`,
    async close(graceMs) {
      draining = true;
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      const untilMs = performance.now() + graceMs;
      const isWaitedFor = (): boolean => inFlight > mcp.openEnded.size || idle.expecting || front?.expecting === true;
      while (isWaitedFor() && performance.now() < untilMs) {
        server.closeIdleConnections();
        front?.closeIdle();
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      clearInterval(ticker);
      for (const session of mcp.sessions.all()) session.stream?.close();
      for (const end of [...mcp.openEnded]) end();
      server.closeIdleConnections();
      front?.closeIdle();
      const forced = setTimeout(() => {
        server.closeAllConnections();
        front?.closeAll();
      }, 100);
      await closed;
      clearTimeout(forced);
    },
  };
}

/** A server of HTTP, or of HTTPS whose certificate can be renewed under it. */
function listener(
  tls: ServerTls | null,
  options: ServerOptions,
  serve: (request: IncomingMessage, response: ServerResponse) => void,
): Server {
  if (tls === null) return createServer(options, serve);
  const server = createTlsServer({ ...options, ...tls.options, handshakeTimeout: 10_000 }, serve);
  tls.onChange((now) => server.setSecureContext(now));
  return server;
}

/**
 * Listens so that several router processes share the port, and the kernel spreads the connections. Where the system cannot (macOS,
 * Windows), one process has the port to itself.
 */
async function listen(server: Server, host: string, port: number): Promise<void> {
  const once = (reusePort: boolean): Promise<void> =>
    new Promise((resolve, reject) => {
      server.once("error", reject);
      server.listen({ host, port, reusePort }, () => {
        server.off("error", reject);
        resolve();
      });
    });
  try {
    // A worker's port is its parent's (workers.ts).
    await once(cluster.isPrimary);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOTSUP") throw error;
    await once(false);
  }
}

/** As node:http reads it, or as the front does, which takes it only when it is whole. */
type Incoming = IncomingMessage | StrictRequest;
const isWhole = (request: Incoming): request is StrictRequest => "body" in request;

async function serve(options: RouterServerOptions, request: Incoming, response: ClientResponse, socket: Socket): Promise<void> {
  const url = request.url ?? "/";
  const query = url.indexOf("?");
  const path = query === -1 ? url : url.slice(0, query);
  const [, face, name] = path.split("/", 3);
  if (path === "/mcp" && options.aggregate !== undefined) {
    if (!isWhole(request)) checkOneHost(request.rawHeaders);
    checkAccess(request.headers.host, request.headers.origin, options.access());
    const { aggregate } = options;
    const principal = await options.guard.identify(request.headers, "mcp", "", socket);
    return aggregate.serve(request, response, principal, async () => readBody(request, aggregate.bodyBytesMax()));
  }
  if ((face !== "mcp" && face !== "http") || !name) {
    const metadata = options.guard.metadata(path);
    if (metadata !== null) {
      sendJson(response, 200, metadata, { "cache-control": "max-age=300", "access-control-allow-origin": "*" });
      return;
    }
    const isProbe = path.startsWith("/probe/");
    // A probe has a process asked: no page is to do that either.
    if (path === "/metrics" || isProbe) checkMetricsHost(request.headers.host, options.access());
    if (isProbe) checkProber(request.headers.authorization, socket.remoteAddress, options.probeTokens());
    const health = await options.health(path);
    if (health !== null) {
      response.writeHead(health.status, { "content-type": health.type });
      response.end(health.body);
      return;
    }
    throw new RefusedRequest(404, -32000, "not found: use /mcp/<upstream>, /http/<upstream>/..., /healthz, /readyz or /metrics");
  }
  if (!isWhole(request)) checkOneHost(request.rawHeaders);
  checkAccess(request.headers.host, request.headers.origin, options.access());
  const { mcp } = options;
  const identified = options.guard.identify(request.headers, face, name, socket);
  const principal = identified instanceof Promise ? await identified : identified;
  checkUpstream(principal, name);
  const view = viewOf(options, face, name, principal);
  checkFace(principal, face, view);
  const operationId = newOperationId();
  const inbound = { request, response, view, principal, operationId, startedAtMs: mcp.nowMs(), trace: options.trace?.(request.headers) };
  if (face === "mcp") {
    if (path.length > "/mcp/".length + name.length + 1) throw new RefusedRequest(404, -32000, `not found: use /mcp/${view.name}`);
    await serveMcp(mcp, inbound, () => readBody(request, view.bodyBytesMax));
    return;
  }
  const suffix = url.slice("/http/".length + name.length);
  checkPath(suffix);
  return serveHttp(options.http, { ...inbound, suffix }, await readBody(request, view.bodyBytesMax));
}

function viewOf(options: RouterServerOptions, face: "mcp" | "http", name: string, principal: Principal): UpstreamView {
  const { control } = options.mcp;
  const view = control.upstream(name);
  if (view !== null && (view.kind === face || face === "http")) return view;
  const known = control.upstreams().filter((one) => principal.mayUse(one));
  const advice =
    view === null
      ? `no upstream ${JSON.stringify(name.slice(0, 64))} is configured; known: ${known.join(", ") || "none yet"}; add it to failover.yaml and apply it`
      : `${name} is an HTTP API: use /http/${name}/...`;
  throw new RefusedRequest(404, rpcCodes.unknown_upstream, advice);
}

/** The whole body. Throws {@link RefusedRequest} with 413 as soon as it is known to be too large. */
function readBody(request: Incoming, bytesMax: number): Buffer | Promise<Buffer> {
  const tooLarge = (): RefusedRequest =>
    new RefusedRequest(413, -32000, `Request body too large: at most ${bytesMax} bytes (router.body_bytes_max)`, { connection: "close" });
  if (Number(request.headers["content-length"] ?? 0) > bytesMax) throw tooLarge();
  if (isWhole(request)) return request.body;
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let size = 0;
    const onData = (chunk: Buffer): void => {
      size += chunk.length;
      if (size > bytesMax) {
        request.off("data", onData);
        request.pause();
        reject(tooLarge());
        return;
      }
      chunks.push(chunk);
    };
    request.on("data", onData);
    // Each comes once, or a second time in vain.
    request.on("end", () => resolve(chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks, size)));
    request.on("error", () => reject(new RefusedRequest(400, -32700, "the body of the request broke off")));
  });
}

/** Characters of an id: nine random bytes in base64url. */
const idChars = 12;
let idPool = "";
let idAt = 0;
/** Random text is made for many ids at once: to fetch bytes for one costs as much as reading a small request. */
function newOperationId(): string {
  if (idAt === idPool.length) {
    idPool = randomBytes((idChars / 4) * 3 * 512).toString("base64url");
    idAt = 0;
  }
  idAt += idChars;
  return `op-${idPool.slice(idAt - idChars, idAt)}`;
}

/**
 * Answers at once. What a client still sends is read and dropped for a moment: a connection that is closed with unread bytes is reset, and
 * the reset may overtake the answer (RFC 9112, 9.6).
 */
function refuse(request: Incoming, response: ClientResponse, refusal: RefusedRequest): void {
  if (!response.headersSent && refusal.status !== 413) response.setHeader(operationHeader, "none");
  if (isWhole(request) || request.complete || response.headersSent || response.destroyed) {
    sendRefusal(response, refusal);
    return;
  }
  const body = Buffer.from(JSON.stringify(rpcErrorBody(null, refusal.rpcCode, refusal.message)));
  response.writeHead(refusal.status, {
    "content-type": "application/json",
    "content-length": body.length,
    ...refusal.headers,
    connection: "close",
  });
  response.write(body);
  let dropped = 0;
  const over = (): void => {
    if (response.writableEnded) return;
    clearTimeout(timer);
    request.off("data", drop);
    response.end();
    setTimeout(() => request.destroy(), 250).unref();
  };
  const drop = (chunk: Buffer): void => {
    dropped += chunk.length;
    if (dropped > lingerBytesMax) over();
  };
  const timer = setTimeout(over, lingerMs);
  request.on("data", drop);
  request.once("end", over);
  request.once("error", over);
  request.resume();
}

const lingerMs = 1000;
const lingerBytesMax = 64 * 1024 * 1024;
