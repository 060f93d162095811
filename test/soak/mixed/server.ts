// The MCP server of the mixed soak: sessions up to 2025-11-25 with streams and resumption, and 2026-07-28 beside them. It notes each write that it
// runs in a file, so that one that ran twice is seen. `PUT /control/forget` makes it forget its sessions, as a restart behind a balancer would.
import { randomUUID } from "node:crypto";
import { appendFileSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { NodeStreamableHTTPServerTransport, toNodeHandler, toWebRequest } from "@modelcontextprotocol/node";
import { createMcpHandler, type EventStore, fromJsonSchema, isLegacyRequest, McpServer } from "@modelcontextprotocol/server";

const port = Number(process.env["PORT"]);
const opsFile = process.env["OPS_FILE"] ?? "";
const sessionsMax = 500;
const eventsMax = 200;
const stepMs = 60;
const steps = 4;
/** Longer than a client needs to see its stream closed. */
const pollingMs = 150;

interface Args {
  readonly mark: string;
  readonly fill?: string;
}
const inputSchema = fromJsonSchema<Args>({
  type: "object",
  properties: { mark: { type: "string" }, fill: { type: "string" } },
  required: ["mark"],
} as never);
const done = (text: string) => ({ content: [{ type: "text" as const, text }] });

function build(): McpServer {
  const server = new McpServer({ name: "mixed", version: "1.0.0" }, { capabilities: { tools: { listChanged: true }, logging: {} } });
  const readOnly = { inputSchema, annotations: { readOnlyHint: true } };
  server.registerTool("read", readOnly, async ({ mark }) => done(`read ${mark}`));
  server.registerTool("write", { inputSchema, annotations: { readOnlyHint: false, idempotentHint: false } }, async ({ mark }) => {
    // Noted when it runs, before the answer: what runs and is not answered counts.
    appendFileSync(opsFile, `${mark}\n`);
    await sleep(3);
    return done(`write ${mark}`);
  });
  server.registerTool("big", readOnly, async ({ mark, fill = "" }) => done(`big ${mark} ${fill}`));
  server.registerTool("progress", readOnly, async ({ mark }, { mcpReq }) => {
    for (let step = 1; step <= steps; step += 1) {
      await sleep(stepMs);
      const progressToken = mcpReq._meta?.progressToken;
      if (progressToken !== undefined)
        await mcpReq.notify({ method: "notifications/progress", params: { progressToken, progress: step, total: steps } });
    }
    return done(`progress ${mark}`);
  });
  server.registerTool("ask", { inputSchema }, async ({ mark }, { mcpReq }) => {
    const requestedSchema = { type: "object", properties: { word: { type: "string" } } };
    const { action } = await mcpReq.elicitInput({ message: mark, requestedSchema } as never);
    return done(`ask ${mark} ${action}`);
  });
  server.registerTool("poll", readOnly, async ({ mark }, { http }) => {
    http?.closeSSE?.();
    await sleep(pollingMs);
    return done(`poll ${mark}`);
  });
  // Said on the session's own stream.
  server.registerTool("tell", readOnly, async ({ mark }) => {
    server.sendToolListChanged();
    return done(`tell ${mark}`);
  });
  return server;
}

const handler = createMcpHandler(build, { legacy: "reject" });
const modern = toNodeHandler(handler);
const sessions = new Map<string, NodeStreamableHTTPServerTransport>();

async function legacy(request: IncomingMessage, response: ServerResponse, body: unknown): Promise<void> {
  const id = request.headers["mcp-session-id"];
  if (typeof id === "string") {
    const known = sessions.get(id);
    if (known !== undefined) return known.handleRequest(request, response, body);
    request.resume();
    response.writeHead(404, { "content-type": "application/json" });
    response.end('{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Session not found"}}');
    return;
  }
  const transport = new NodeStreamableHTTPServerTransport({
    sessionIdGenerator: () => randomUUID(),
    eventStore: eventStore(),
    retryInterval: 100,
    onsessioninitialized: (session) => {
      sessions.set(session, transport);
      const [oldest] = sessions.keys();
      if (sessions.size > sessionsMax && oldest !== undefined) forget(oldest);
    },
    onsessionclosed: (session) => {
      sessions.delete(session);
    },
  });
  await build().connect(transport);
  await transport.handleRequest(request, response, body);
}

function forget(session: string): void {
  const transport = sessions.get(session);
  sessions.delete(session);
  transport?.close().catch((error: unknown) => process.stderr.write(`a session could not be closed: ${String(error)}\n`));
}

async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
  if (request.url === "/control/forget") {
    for (const session of [...sessions.keys()]) forget(session);
    response.end(String(sessions.size));
    return;
  }
  if (request.method !== "POST") return legacy(request, response, undefined);
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  const body: unknown = JSON.parse(Buffer.concat(chunks).toString("utf8"));
  if (await isLegacyRequest(await toWebRequest(request as never, body))) return legacy(request, response, body);
  await modern(request as never, response as never, body);
}

function eventStore(): EventStore {
  const events = new Map<string, { stream: string; message: unknown }>();
  let last = 0;
  return {
    async storeEvent(stream, message) {
      last += 1;
      events.set(String(last), { stream, message });
      events.delete(String(last - eventsMax));
      return String(last);
    },
    async getStreamIdForEventId(id) {
      return events.get(id)?.stream;
    },
    async replayEventsAfter(id, { send }) {
      const stream = events.get(id)?.stream ?? "";
      for (const [later, event] of events) {
        const isMessage = Object.keys(event.message as object).length > 0;
        if (Number(later) > Number(id) && event.stream === stream && isMessage) await send(later, event.message as never);
      }
      return stream;
    },
  };
}

const server = createServer((request, response) => {
  serve(request, response).catch((error: unknown) => {
    // A client that left in the middle of its request is no trouble of the server.
    process.stderr.write(`${String(error)}\n`);
    if (!response.headersSent) response.writeHead(500);
    response.end();
  });
});
server.keepAliveTimeout = 60_000;
server.listen(port, "127.0.0.1");
process.once("SIGTERM", () => process.exit(0));
if (process.env["MCPF_PARENT_PIPE"] === "1") process.stdin.on("end", () => process.exit(0)).resume();
