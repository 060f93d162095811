import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";

export interface ListServer {
  readonly name: string;
  readonly url: string;
  /** Methods that came, with the cursor of a list. */
  readonly seen: string[];
  kill(): Promise<void>;
  start(): Promise<void>;
}

/** A server whose lists come in pages, with the tools that it is given. */
export async function startListServer(name: string, tools: Readonly<Record<string, object>>, pages = 1): Promise<ListServer> {
  let http: Server | null = null;
  let port = 0;
  let life = 0;
  const seen: string[] = [];
  const start = async (): Promise<void> => {
    life += 1;
    const session = `${name}-${life}`;
    http = createServer((request, response) => {
      const chunks: Buffer[] = [];
      request.on("data", (chunk: Buffer) => chunks.push(chunk));
      request.on("end", () => {
        const id = request.headers["mcp-session-id"];
        if (request.method === "GET") {
          response.writeHead(id === session ? 200 : 404, { "content-type": "text/event-stream" });
          response.flushHeaders();
          if (id !== session) response.end();
          return;
        }
        const message = JSON.parse(Buffer.concat(chunks).toString() || "{}") as {
          id?: unknown;
          method: string;
          params?: { cursor?: string; name?: string; taskId?: string; _meta?: object };
        };
        // Of the era without sessions, where a task is the whole result.
        const isModern = request.headers["mcp-protocol-version"] === "2026-07-28";
        seen.push(`${message.method}${message.params?.cursor === undefined ? "" : ` ${message.params.cursor}`}`);
        const answer = (result: object, isStream = false): void => {
          if (isStream) {
            response.writeHead(200, { "content-type": "text/event-stream" });
            // Its connection breaks as soon as the answer is out.
            response.write(`data: ${JSON.stringify({ jsonrpc: "2.0", id: message.id, result })}\n\n`, () => response.destroy());
            return;
          }
          response.writeHead(200, { "content-type": "application/json", "mcp-session-id": session });
          response.end(JSON.stringify({ jsonrpc: "2.0", id: message.id, result }));
        };
        if (message.method === "initialize") {
          const capabilities = { tools: { listChanged: true }, resources: {} };
          return answer({ protocolVersion: "2025-11-25", capabilities, serverInfo: { name, version: "1" } });
        }
        if (message.method === "server/discover")
          return answer({ resultType: "complete", supportedVersions: ["2026-07-28"], capabilities: {} });
        if (id !== session && !isModern) return void response.writeHead(404).end("{}");
        if (message.id === undefined) return void response.writeHead(202).end();
        const all = Object.entries(tools).map(([tool, inputSchema]) => ({ name: tool, inputSchema }));
        if (message.method === "tools/list") return answer({ tools: all });
        if (message.method === "resources/list") {
          const page = Number(message.params?.cursor ?? "0");
          const resources = [{ uri: `test://${name}/${page}`, name: `${page}` }];
          return answer({ resources, ...(page + 1 < pages ? { nextCursor: String(page + 1) } : {}) });
        }
        if (message.method === "tasks/get") return answer({ taskId: message.params?.taskId, status: "working", by: name });
        if (message.params?.name === "streamed_job")
          return answer({ resultType: "task", taskId: `task-of-${name}`, status: "working" }, true);
        if (message.params?.name === "job" && isModern) return answer({ resultType: "task", taskId: `task-of-${name}`, status: "working" });
        if (message.params?.name === "job") return answer({ task: { taskId: `task-of-${name}`, status: "working" } });
        return answer({ content: [{ type: "text", text: `${name} ran ${message.params?.name}` }] });
      });
    });
    await new Promise<void>((resolve) => http?.listen(port, "127.0.0.1", resolve));
    port = (http.address() as AddressInfo).port;
  };
  await start();
  return {
    name,
    get url() {
      return `http://127.0.0.1:${port}/mcp`;
    },
    seen,
    start,
    async kill() {
      const dying = http;
      http = null;
      dying?.closeAllConnections();
      if (dying !== null) await new Promise((resolve) => dying.close(resolve));
    },
  };
}
