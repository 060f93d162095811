import { randomUUID } from "node:crypto";
import { createServer, type Server as HttpServer } from "node:http";
import type { AddressInfo } from "node:net";
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { type EventStore, StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import {
  CreateMessageResultSchema,
  ElicitResultSchema,
  McpError,
  SetLevelRequestSchema,
  SubscribeRequestSchema,
  UnsubscribeRequestSchema,
} from "@modelcontextprotocol/sdk/types.js";
import { z } from "zod";

/**
 * A real MCP server (SDK 1.x, with sessions) that a test can kill, restart, make forgetful or make drop its answers. Its tools:
 * `whoami` says its name, `write` counts what it ran, `slow` reports progress, `ask` samples, `elicit` elicits, `shout` logs on the
 * session's own stream.
 */
export interface TestMcpServer {
  readonly name: string;
  readonly url: string;
  /** What `write` has run, in order, over all lives of the server. */
  readonly writes: string[];
  readonly sessions: Map<string, StreamableHTTPServerTransport>;
  /** Sessions that were initialized, levels and subscriptions that were set, by session. */
  readonly seen: {
    initialized: string[];
    levels: string[];
    subscriptions: string[];
    deleted: string[];
    cancelled: unknown[];
    started: unknown[];
    headers: Record<string, unknown>[];
  };
  /** The next call of `write` runs, and its connection is reset instead of an answer. */
  resetAfterWrite: boolean;
  /** The connections of the next so many POSTs with a session break before anything of them is served. */
  breakPosts: number;
  /** Log levels and URIs of subscriptions that are refused with an error. */
  readonly refuses: Set<string>;
  /** `whoami` and `write` take this long; a `whoami` that is cancelled meanwhile is in `seen.cancelled`. */
  lagMs: number;
  /** The next so many POSTs with a session are answered with this status and body. */
  answerWith: { status: number; body: string; headers?: Record<string, string> } | null;
  /** Status of the answer to a session that is not known: 404 by the protocol, 400 by server-everything. */
  unknownStatus: 404 | 400;
  /** Everybody in the session's own stream hears it. */
  shout(text: string): Promise<void>;
  forget(): void;
  /** The lines break; the server and what it runs go on. */
  breakConnections(): void;
  /** As SIGKILL does: the port refuses, connections are gone. */
  kill(): Promise<void>;
  start(): Promise<void>;
}

export async function startMcpServer(
  name: string,
  options: { eventStore?: boolean; json?: boolean; capabilities?: "fewer"; version?: string; sessions?: boolean; polling?: boolean } = {},
): Promise<TestMcpServer> {
  const writes: string[] = [];
  let http: HttpServer | null = null;
  let port = 0;
  const servers = new Map<string, McpServer>();
  const self: TestMcpServer = {
    name,
    get url() {
      return `http://127.0.0.1:${port}/mcp`;
    },
    writes,
    sessions: new Map(),
    seen: { initialized: [], levels: [], subscriptions: [], deleted: [], cancelled: [], started: [], headers: [] },
    resetAfterWrite: false,
    breakPosts: 0,
    refuses: new Set(),
    lagMs: 0,
    answerWith: null,
    unknownStatus: 404,
    async shout(text) {
      for (const server of servers.values()) await server.server.sendLoggingMessage({ level: "error", data: text });
    },
    forget() {
      self.sessions.clear();
      servers.clear();
    },
    breakConnections() {
      http?.closeAllConnections();
    },
    async kill() {
      const dying = http;
      http = null;
      // A dead process has no timers: requests of its tools to the client end with it.
      const open = [...servers.values()];
      self.forget();
      if (dying === null) return;
      dying.closeAllConnections();
      for (const server of open) await server.close();
      await new Promise((resolve) => dying.close(resolve));
    },
    async start() {
      const server = createServer((request, response) => {
        serve(request, response).catch((error: unknown) => {
          process.stderr.write(`test server ${name}: ${String(error)}\n`);
          if (!response.headersSent) response.writeHead(500).end();
        });
      });
      await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
      port = (server.address() as AddressInfo).port;
      http = server;
    },
  };

  const serve = async (request: import("node:http").IncomingMessage, response: import("node:http").ServerResponse): Promise<void> => {
    self.seen.headers.push({ ...request.headers, ":method": request.method });
    const id = request.headers["mcp-session-id"];
    if (typeof id === "string" && request.method === "POST" && self.breakPosts > 0) {
      self.breakPosts -= 1;
      request.destroy();
      return;
    }
    if (typeof id === "string" && self.answerWith !== null && request.method === "POST") {
      const { status, body, headers } = self.answerWith;
      request.resume();
      response.writeHead(status, { "content-type": "application/json", ...headers }).end(body);
      return;
    }
    if (typeof id === "string") {
      const transport = self.sessions.get(id);
      if (transport === undefined) {
        request.resume();
        const error =
          self.unknownStatus === 404
            ? { code: -32001, message: "Session not found" }
            : { code: -32000, message: "Bad Request: No valid session ID provided" };
        response.writeHead(self.unknownStatus, { "content-type": "application/json" });
        response.end(JSON.stringify({ jsonrpc: "2.0", id: null, error }));
        return;
      }
      if (request.method === "DELETE") self.seen.deleted.push(id);
      return transport.handleRequest(request, response);
    }
    const server = makeServer();
    const transport: StreamableHTTPServerTransport = new StreamableHTTPServerTransport({
      ...(options.sessions === false ? {} : { sessionIdGenerator: () => randomUUID() }),
      ...(options.eventStore || options.polling ? { eventStore: memoryEventStore() } : {}),
      ...(options.polling ? { retryInterval: 50 } : {}),
      enableJsonResponse: options.json ?? false,
      onsessioninitialized: (session: string) => {
        self.sessions.set(session, transport);
        servers.set(session, server);
      },
      onsessionclosed: (session: string) => {
        self.sessions.delete(session);
        servers.delete(session);
      },
    } as ConstructorParameters<typeof StreamableHTTPServerTransport>[0]);
    await server.connect(transport as never);
    return transport.handleRequest(request, response);
  };

  const lag = ({ signal, requestId }: { signal: AbortSignal; requestId: unknown }): Promise<void> =>
    new Promise((resolve) => {
      if (self.lagMs === 0) return resolve();
      const timer = setTimeout(resolve, self.lagMs);
      signal.addEventListener("abort", () => {
        self.seen.cancelled.push(requestId);
        clearTimeout(timer);
        resolve();
      });
    });

  const refuse = (what: string): void => {
    if (self.refuses.has(what)) throw new McpError(-32002, `not here: ${what}`);
  };

  const makeServer = (): McpServer => {
    const server = new McpServer(
      { name, version: options.version ?? "1.0.0" },
      {
        capabilities: {
          tools: {},
          ...(options.capabilities === "fewer" ? {} : { logging: {}, resources: { subscribe: true } }),
        },
      },
    );
    server.server.oninitialized = () => self.seen.initialized.push(name);
    if (options.capabilities !== "fewer") {
      server.server.setRequestHandler(SetLevelRequestSchema, async (request) => {
        refuse(request.params.level);
        self.seen.levels.push(request.params.level);
        return {};
      });
      server.server.setRequestHandler(SubscribeRequestSchema, async (request) => {
        refuse(request.params.uri);
        self.seen.subscriptions.push(request.params.uri);
        return {};
      });
      server.server.setRequestHandler(UnsubscribeRequestSchema, async () => ({}));
    }
    server.registerTool("whoami", { description: "who answers", annotations: { readOnlyHint: true } }, async (extra) => {
      await lag(extra);
      return text(name);
    });
    server.registerTool("write", { description: "counts", inputSchema: { key: z.string() } }, async ({ key }, extra) => {
      writes.push(key);
      if (self.lagMs > 0) await lag(extra);
      if (self.resetAfterWrite) {
        self.resetAfterWrite = false;
        http?.closeAllConnections();
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      return text(`${name} wrote ${key} for ${String(extra.requestId)}`);
    });
    server.registerTool(
      "slow",
      { description: "progress", inputSchema: { steps: z.number(), ms: z.number() }, annotations: { readOnlyHint: true } },
      async ({ steps, ms }, extra) => {
        self.seen.started.push(extra.requestId);
        const token = extra._meta?.progressToken;
        if (options.polling) extra.closeSSEStream?.();
        for (let progress = 1; progress <= steps; progress++) {
          await new Promise((resolve) => setTimeout(resolve, ms));
          if (token !== undefined) {
            await extra.sendNotification({
              method: "notifications/progress",
              params: { progressToken: token, progress, total: steps, message: name },
            });
          }
        }
        return text(`${name} is done`);
      },
    );
    server.registerTool("ask", { description: "samples" }, async (extra) => {
      if (extra.signal.aborted) self.seen.cancelled.push(extra.requestId);
      extra.signal.addEventListener("abort", () => self.seen.cancelled.push(extra.requestId));
      const answer = await extra.sendRequest(
        {
          method: "sampling/createMessage",
          params: { messages: [{ role: "user", content: { type: "text", text: "hello?" } }], maxTokens: 10 },
        },
        CreateMessageResultSchema,
      );
      return text(`${name} heard ${JSON.stringify(answer.content)}`);
    });
    server.registerTool("elicit", { description: "elicits" }, async (extra) => {
      const answer = await extra.sendRequest(
        {
          method: "elicitation/create",
          params: { message: "your name?", requestedSchema: { type: "object", properties: { name: { type: "string" } } } },
        },
        ElicitResultSchema,
      );
      return text(`${name} heard ${answer.action} ${JSON.stringify(answer.content)}`);
    });
    server.registerTool("fail", { description: "fails" }, async () => ({ content: [{ type: "text", text: "broken" }], isError: true }));
    return server;
  };
  await self.start();
  return self;
}

function text(value: string): { content: { type: "text"; text: string }[] } {
  return { content: [{ type: "text", text: value }] };
}

function memoryEventStore(): EventStore {
  const events: { id: string; stream: string; message: unknown }[] = [];
  return {
    async storeEvent(stream, message) {
      const id = `${events.length}`;
      events.push({ id, stream, message });
      return id;
    },
    async replayEventsAfter(last, { send }) {
      const index = events.findIndex(({ id }) => id === last);
      const stream = events[index]?.stream ?? "";
      for (const event of events.slice(index + 1)) {
        if (event.stream === stream && Object.keys(event.message as object).length > 0) await send(event.id, event.message as never);
      }
      return stream;
    },
  };
}
