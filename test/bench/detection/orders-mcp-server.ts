// The orders as an MCP server (Streamable HTTP with sessions). It notes every write that it runs in a file, so that one that ran twice is seen.
import { randomUUID } from "node:crypto";
import { appendFileSync } from "node:fs";
import { createServer } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { Server } from "@modelcontextprotocol/sdk/server/index.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import type { Transport } from "@modelcontextprotocol/sdk/shared/transport.js";
import { CallToolRequestSchema, ListToolsRequestSchema } from "@modelcontextprotocol/sdk/types.js";

const port = Number(process.env["PORT"]);
const opsFile = process.env["OPS_FILE"] ?? "";
const workMs = 3;
const inputSchema = { type: "object" as const, properties: { id: { type: "number" } }, required: ["id"] };
const tools = [
  { name: "read", inputSchema, annotations: { readOnlyHint: true } },
  { name: "idempotent", inputSchema, annotations: { readOnlyHint: false, idempotentHint: true } },
  { name: "unsafe", inputSchema, annotations: { readOnlyHint: false, idempotentHint: false } },
];
/** Sessions that nobody closed: the oldest goes when there are more. */
const sessionsMax = 1000;
const sessions = new Map<string, StreamableHTTPServerTransport>();

function orders(): Server {
  const server = new Server({ name: "orders", version: "1.0.0" }, { capabilities: { tools: {} } });
  server.setRequestHandler(ListToolsRequestSchema, () => ({ tools }));
  server.setRequestHandler(CallToolRequestSchema, async ({ params: { name, arguments: args } }) => {
    await sleep(workMs);
    const op = `${name === "unsafe" ? "POST" : "PUT"} /${JSON.stringify(args)}`;
    if (name !== "read") appendFileSync(opsFile, `${op}\n`);
    return { content: [{ type: "text", text: `done by ${port}` }] };
  });
  return server;
}

const server = createServer((request, response) => {
  const id = request.headers["mcp-session-id"];
  const known = typeof id === "string" ? sessions.get(id) : undefined;
  if (id !== undefined && known === undefined) {
    response.writeHead(404, { "content-type": "application/json" });
    response.end('{"jsonrpc":"2.0","error":{"code":-32001,"message":"session not found"},"id":null}');
    return;
  }
  if (known !== undefined) {
    void known.handleRequest(request, response);
    return;
  }
  const transport = new StreamableHTTPServerTransport({
    sessionIdGenerator: () => randomUUID(),
    onsessioninitialized: (opened) => {
      sessions.set(opened, transport);
      const [oldest] = sessions.keys();
      if (sessions.size > sessionsMax && oldest !== undefined) void sessions.get(oldest)?.close();
    },
  });
  const mcp = orders();
  mcp.onclose = () => {
    if (transport.sessionId !== undefined) sessions.delete(transport.sessionId);
  };
  // The SDK's own transport does not fit its own interface under exactOptionalPropertyTypes.
  void mcp.connect(transport as Transport).then(() => transport.handleRequest(request, response));
});
server.keepAliveTimeout = 60_000;
server.listen(port, "127.0.0.1");
process.once("SIGTERM", () => process.exit(0));
if (process.env["MCPF_PARENT_PIPE"] === "1") process.stdin.on("end", () => process.exit(0)).resume();
