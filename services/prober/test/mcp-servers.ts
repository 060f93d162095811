import { randomUUID } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { toNodeHandler } from "@modelcontextprotocol/node";
import { McpServer as LegacyMcpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import { createMcpHandler, McpServer } from "@modelcontextprotocol/server";
import { z } from "zod";

/** A real MCP server, of the SDK of its era, with the tools of a small warehouse. */
export interface RealMcpServer {
  readonly url: string;
  /** Methods of the requests that came, newest last. */
  readonly methods: string[];
  /** Sessions that it keeps; 0 in the modern era, which has none. */
  readonly sessions: number;
  stock: Stock;
  close(): Promise<void>;
}
interface Stock {
  tools: string[];
  /** What `get_stock` answers. */
  count: number;
  isBroken: boolean;
  description: string;
  /** Waits before a tool answers. */
  slowMs: number;
}

type Answer = { content: { type: "text"; text: string }[]; structuredContent?: { count: number }; isError?: boolean };
const newStock = (): Stock => ({
  tools: ["get_stock", "reserve"],
  count: 7,
  isBroken: false,
  description: "How many there are.",
  slowMs: 0,
});

async function answerOf(stock: Stock, item: string): Promise<Answer> {
  await new Promise((resolve) => setTimeout(resolve, stock.slowMs));
  if (stock.isBroken) return { content: [{ type: "text", text: "the database is gone" }], isError: true };
  return { content: [{ type: "text", text: `${stock.count} of ${item}` }], structuredContent: { count: stock.count } };
}

/** SDK 1.x: `initialize`, sessions, `ping`. */
export async function realLegacyServer(): Promise<RealMcpServer> {
  const transports = new Map<string, StreamableHTTPServerTransport>();
  const build = (stock: Stock): LegacyMcpServer => {
    const server = new LegacyMcpServer({ name: "warehouse", version: "1.0.0" });
    for (const name of stock.tools) {
      server.registerTool(
        name,
        { description: stock.description, inputSchema: { item: z.string() }, annotations: { readOnlyHint: name === "get_stock" } },
        ({ item }) => answerOf(stock, item),
      );
    }
    return server;
  };
  return start(
    async (request, response, body, stock) => {
      const id = request.headers["mcp-session-id"];
      let transport = typeof id === "string" ? transports.get(id) : undefined;
      if (transport === undefined && (body as { method?: string } | undefined)?.method === "initialize") {
        const made: StreamableHTTPServerTransport = new StreamableHTTPServerTransport({
          sessionIdGenerator: () => randomUUID(),
          onsessioninitialized: (session) => {
            transports.set(session, made);
          },
        });
        made.onclose = () => {
          if (made.sessionId !== undefined) transports.delete(made.sessionId);
        };
        transport = made;
        await build(stock).connect(made as Parameters<LegacyMcpServer["connect"]>[0]);
      }
      if (transport === undefined) {
        response.writeHead(id === undefined ? 400 : 404, { "content-type": "application/json" });
        response.end(JSON.stringify({ jsonrpc: "2.0", id: null, error: { code: -32_000, message: "no session" } }));
        return;
      }
      await transport.handleRequest(request, response, body);
    },
    () => transports.size,
  );
}

/** SDK 2.x: `server/discover`, no sessions. */
export async function realModernServer(): Promise<RealMcpServer> {
  let current = newStock();
  const handler = toNodeHandler(
    createMcpHandler(() => {
      const server = new McpServer({ name: "warehouse", version: "2.0.0" });
      const stock = current;
      for (const name of stock.tools) {
        server.registerTool(name, { description: stock.description, inputSchema: z.object({ item: z.string() }) }, ({ item }) =>
          answerOf(stock, item),
        );
      }
      return server;
    }),
  );
  return start(
    async (request, response, body, stock) => {
      current = stock;
      await handler(Object.assign(request, { body }) as Parameters<typeof handler>[0], response, body);
    },
    () => 0,
  );
}

type Handle = (request: IncomingMessage, response: ServerResponse, body: unknown, stock: Stock) => Promise<void>;

async function start(handle: Handle, sessions: () => number): Promise<RealMcpServer> {
  const methods: string[] = [];
  const stock = newStock();
  const http: Server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => {
      const text = Buffer.concat(chunks).toString("utf8");
      const body: unknown = text === "" ? undefined : JSON.parse(text);
      methods.push((body as { method?: string } | undefined)?.method ?? `${request.method}`);
      handle(request, response, body, stock).catch((error: unknown) => response.destroy(error as Error));
    });
  });
  await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(http.address() as AddressInfo).port}/mcp`,
    methods,
    get sessions() {
      return sessions();
    },
    stock,
    close: () =>
      new Promise((resolve) => {
        http.close(() => resolve());
        http.closeAllConnections();
      }),
  };
}
