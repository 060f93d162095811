import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** A message as it came; `method` is the HTTP method where it is no POST. */
export interface Scripted {
  readonly method: string;
  readonly message: { readonly id?: string | number; readonly params?: Record<string, unknown> };
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
}

/** A server with sessions, of which a test answers what it likes. It takes what a server of either era is asked, unless the test does. */
export interface ScriptedServer {
  readonly name: string;
  readonly url: string;
  /** `<method> <session>` of all that came, in order; `-` without a session. */
  readonly heard: string[];
  /** Connections that are open. */
  readonly connections: number;
  /** True: it has answered, or will. */
  answer: (asked: Scripted) => boolean | undefined | Promise<boolean>;
  kill(): Promise<void>;
}

export async function startScriptedServer(name: string, { modern = false }: { modern?: boolean } = {}): Promise<ScriptedServer> {
  let begun = 0;
  let connections = 0;
  const heard: string[] = [];
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request) body += chunk;
    const message = (body === "" ? {} : JSON.parse(body)) as Scripted["message"] & { method?: string };
    const method = request.method === "POST" ? (message.method ?? "answer") : String(request.method);
    heard.push(`${method} ${String(request.headers["mcp-session-id"] ?? "-")}`);
    if ((await self.answer({ method, message, request, response })) || response.destroyed) return;
    if (method === "GET") return response.writeHead(405).end();
    if (method === "DELETE") return response.writeHead(200).end();
    if (message.id === undefined) return response.writeHead(202).end();
    const whole = (status: number, rest: object, headers: Record<string, string> = {}) =>
      response
        .writeHead(status, { "content-type": "application/json", ...headers })
        .end(JSON.stringify({ jsonrpc: "2.0", id: message.id, ...rest }));
    const server = { capabilities: { tools: {} }, serverInfo: { name, version: "1" } };
    if (method === "initialize") {
      begun += 1;
      return whole(200, { result: { protocolVersion: "2025-11-25", ...server } }, { "mcp-session-id": `${name}-${begun}` });
    }
    if (method === "server/discover" && !modern) return whole(400, { error: { code: -32601, message: "Method not found" } });
    if (method === "server/discover")
      return whole(200, { result: { resultType: "complete", supportedVersions: ["2026-07-28"], ...server } });
    return whole(200, { result: { content: [{ type: "text", text: name }], tools: [], prompts: [] } });
  });
  server.on("connection", (socket) => {
    connections += 1;
    socket.once("close", () => {
      connections -= 1;
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const self: ScriptedServer = {
    name,
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/mcp`,
    heard,
    get connections() {
      return connections;
    },
    answer: () => false,
    async kill() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return self;
}

/** Begins an event stream, and says these messages on it. */
export function stream({ response }: Scripted, ...messages: readonly object[]): void {
  if (!response.headersSent) response.writeHead(200, { "content-type": "text/event-stream" }).flushHeaders();
  for (const message of messages) response.write(`data: ${JSON.stringify({ jsonrpc: "2.0", ...message })}\n\n`);
}
