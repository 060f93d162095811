// The warehouse as an MCP server: Streamable HTTP with sessions, as servers in the field are.
import { randomUUID } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import type { Transport } from "@modelcontextprotocol/sdk/shared/transport.js";
import { endWithParent, port } from "./process.ts";
import { findInventory, findOrders, inventory, inventoryQuery, orders, ordersQuery } from "./stock.ts";

/** Sessions that nobody closed: the oldest goes when there are more. */
const sessionsMax = 1000;
const sessions = new Map<string, StreamableHTTPServerTransport>();

const server = createServer((request, response) => {
  handle(request, response).catch((error: unknown) => {
    process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`);
    if (!response.headersSent) refuse(response, 500, -32603, "internal error");
  });
});
server.listen(port(), process.env["HOST"] ?? "127.0.0.1");
endWithParent();

async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const path = (request.url ?? "/").split("?")[0];
  if (path === "/healthz") {
    response.writeHead(200, { "content-type": "application/json" }).end('{"status":"alive"}');
    return;
  }
  if (path !== "/mcp") return refuse(response, 404, -32000, "the MCP endpoint is /mcp");
  const id = request.headers["mcp-session-id"];
  if (typeof id === "string") {
    const transport = sessions.get(id);
    if (transport === undefined) return refuse(response, 404, -32001, "session not found");
    return transport.handleRequest(request, response);
  }
  // Without a session only an initialize makes sense; the transport refuses everything else.
  const transport = new StreamableHTTPServerTransport({
    sessionIdGenerator: () => randomUUID(),
    onsessioninitialized: (opened) => {
      sessions.set(opened, transport);
      const [oldest] = sessions.keys();
      if (sessions.size > sessionsMax && oldest !== undefined) void sessions.get(oldest)?.close();
    },
  });
  const mcp = warehouse();
  mcp.server.onclose = () => {
    if (transport.sessionId !== undefined) sessions.delete(transport.sessionId);
  };
  // The SDK's own transport does not fit its own interface under exactOptionalPropertyTypes.
  await mcp.connect(transport as Transport);
  await transport.handleRequest(request, response);
}

function warehouse(): McpServer {
  const mcp = new McpServer({ name: "warehouse", version: "1.0.0" });
  const annotations = { readOnlyHint: true, destructiveHint: false, idempotentHint: true, openWorldHint: false };
  mcp.registerTool(
    "get_inventory",
    { description: "What is in stock, by article", inputSchema: inventoryQuery.shape, outputSchema: inventory.shape, annotations },
    (query) => structured(findInventory(query, "mcp")),
  );
  mcp.registerTool(
    "get_orders",
    { description: "Orders and their state, newest first", inputSchema: ordersQuery.shape, outputSchema: orders.shape, annotations },
    (query) => structured(findOrders(query, "mcp")),
  );
  return mcp;
}

function structured<T extends Record<string, unknown>>(result: T) {
  return { content: [{ type: "text" as const, text: JSON.stringify(result) }], structuredContent: result };
}

function refuse(response: ServerResponse, status: number, code: number, message: string): void {
  response
    .writeHead(status, { "content-type": "application/json" })
    .end(JSON.stringify({ jsonrpc: "2.0", error: { code, message }, id: null }));
}
