import { randomUUID } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export type Handler = (request: IncomingMessage, response: ServerResponse, body: string) => void;

/** An HTTP server on loopback that can be killed like a process (every socket reset) and come back on its port. */
export interface FakeServer {
  readonly port: number;
  readonly url: string;
  requests: { method: string; path: string; headers: IncomingMessage["headers"]; body: string }[];
  handler: Handler;
  /** Connections that were accepted. */
  connections: number;
  kill(): Promise<void>;
  comeBack(): Promise<void>;
}

export async function fakeServer(handler: Handler): Promise<FakeServer> {
  let server: Server | null = null;
  const fake: FakeServer = {
    port: 0,
    url: "",
    requests: [],
    handler,
    connections: 0,
    async kill() {
      const dying = server;
      if (dying === null) return;
      server = null;
      await new Promise<void>((resolve) => {
        dying.close(() => resolve());
        dying.closeAllConnections();
      });
    },
    comeBack: () => listen(fake.port),
  };
  async function listen(port: number): Promise<void> {
    const next = createServer((request, response) => {
      let body = "";
      request.on("data", (chunk: Buffer) => {
        body += chunk.toString("utf8");
      });
      request.on("end", () => {
        fake.requests.push({ method: request.method ?? "", path: request.url ?? "", headers: request.headers, body });
        fake.handler(request, response, body);
      });
    });
    next.on("connection", () => {
      fake.connections += 1;
    });
    await new Promise<void>((resolve, reject) => {
      next.once("error", reject);
      next.listen(port, "127.0.0.1", resolve);
    });
    server = next;
    Object.assign(fake, { port: (next.address() as AddressInfo).port });
    Object.assign(fake, { url: `http://127.0.0.1:${fake.port}` });
  }
  await listen(0);
  return fake;
}

export const answers = {
  status:
    (status: number, headers: Record<string, string> = {}): Handler =>
    (_request, response) =>
      response.writeHead(status, headers).end("{}"),
  hang: (() => undefined) as Handler,
  /** Headers, then nothing more. */
  stall: ((_request, response) => {
    response.writeHead(200, { "content-type": "application/json" });
    response.write("{");
  }) as Handler,
  text:
    (text: string, contentType = "text/html"): Handler =>
    (_request, response) =>
      response.writeHead(200, { "content-type": contentType }).end(text),
  reset: ((request) => request.socket.resetAndDestroy()) as Handler,
};

type Rpc = { id?: string; method?: string; params?: Record<string, unknown> };

/** A legacy MCP server: sessions, answers as a stream of events. Counts what it makes, ends and runs. */
export interface LegacyServer extends FakeServer {
  readonly sessions: Set<string>;
  initialized: number;
  deleted: number;
  pings: number;
  /** Methods other than the handshake's, ping and what is refused without a session. */
  ran: string[];
  /** How it answers; `held` keeps the stream open after the answer. */
  shape: "stream" | "held" | "json";
  unknownSessionStatus: 404 | 400;
  hanging: boolean;
}

export async function legacyServer(): Promise<LegacyServer> {
  const legacy = (await fakeServer(handle)) as LegacyServer;
  Object.assign(legacy, {
    sessions: new Set<string>(),
    initialized: 0,
    deleted: 0,
    pings: 0,
    ran: [],
    shape: "stream",
    unknownSessionStatus: 404,
    hanging: false,
  });
  function answer(response: ServerResponse, id: unknown, result: unknown, headers: Record<string, string> = {}): void {
    const message = JSON.stringify({ jsonrpc: "2.0", id, result });
    if (legacy.shape === "json") {
      response.writeHead(200, { ...headers, "content-type": "application/json" }).end(message);
      return;
    }
    response.writeHead(200, { ...headers, "content-type": "text/event-stream" });
    response.write(`: hello\n\nid: 1\ndata: \n\nevent: message\ndata: {"jsonrpc":"2.0","method":"notifications/message","params":{}}\n\n`);
    response.write(`event: message\ndata: ${message}\n\n`);
    if (legacy.shape === "stream") response.end();
  }
  function refuse(response: ServerResponse, status: number, code: number): void {
    response.writeHead(status, { "content-type": "application/json" });
    response.end(JSON.stringify({ jsonrpc: "2.0", error: { code, message: "refused" }, id: null }));
  }
  function handle(request: IncomingMessage, response: ServerResponse, body: string): void {
    if (legacy.hanging) return;
    const session = request.headers["mcp-session-id"];
    if (request.method === "DELETE") {
      legacy.deleted += 1;
      response.writeHead(legacy.sessions.delete(String(session)) ? 200 : 404).end();
      return;
    }
    if (request.method !== "POST") {
      response.writeHead(405).end();
      return;
    }
    const { id, method = "" } = JSON.parse(body) as Rpc;
    if (method === "initialize") {
      legacy.initialized += 1;
      const made = randomUUID();
      legacy.sessions.add(made);
      answer(
        response,
        id,
        { protocolVersion: "2025-06-18", capabilities: {}, serverInfo: { name: "legacy", version: "1" } },
        { "mcp-session-id": made },
      );
      return;
    }
    if (session === undefined) refuse(response, 400, -32_000);
    else if (!legacy.sessions.has(String(session))) refuse(response, legacy.unknownSessionStatus, -32_000);
    else if (request.headers["mcp-protocol-version"] !== "2025-06-18") refuse(response, 400, -32_001);
    else serve(response, id, method);
  }
  function serve(response: ServerResponse, id: unknown, method: string): void {
    if (method === "notifications/initialized") {
      response.writeHead(202).end();
      return;
    }
    if (method === "ping") {
      legacy.pings += 1;
      answer(response, id, {});
      return;
    }
    legacy.ran.push(method);
    answer(response, id, {});
  }
  return legacy;
}

/** A modern MCP server: `server/discover` alone, and everything must be said in the request. */
export async function modernServer(options: { error?: number } = {}): Promise<FakeServer> {
  return fakeServer((request, response, body) => {
    const { id, method, params } = JSON.parse(body || "{}") as Rpc;
    const meta = (params?.["_meta"] ?? {}) as Record<string, unknown>;
    const sound =
      request.method === "POST" &&
      method === "server/discover" &&
      request.headers["mcp-method"] === "server/discover" &&
      request.headers["mcp-protocol-version"] === "2026-07-28" &&
      meta["io.modelcontextprotocol/protocolVersion"] === "2026-07-28" &&
      typeof meta["io.modelcontextprotocol/clientCapabilities"] === "object";
    if (!sound) {
      response.writeHead(method === "initialize" ? 404 : 400, { "content-type": "application/json" });
      response.end(JSON.stringify({ jsonrpc: "2.0", id, error: { code: -32_601, message: "no" } }));
      return;
    }
    const answer =
      options.error === undefined
        ? { result: { supportedVersions: ["2026-07-28"], capabilities: {} } }
        : { error: { code: options.error, message: "no" } };
    response
      .writeHead(options.error === undefined ? 200 : 400, { "content-type": "application/json" })
      .end(JSON.stringify({ jsonrpc: "2.0", id, ...answer }));
  });
}
