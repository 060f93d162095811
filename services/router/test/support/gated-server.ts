import { createServer } from "node:http";
import type { AddressInfo } from "node:net";

/** A server with sessions that holds back its answers to some methods until the test lets them go. */
export interface GatedServer {
  readonly name: string;
  readonly url: string;
  /** Methods that are held back from now on. */
  readonly holds: Set<string>;
  /** Answers that are held back, and wanted. */
  readonly held: number;
  /** Methods of all messages that came, in order; of calls the tool. */
  readonly heard: string[];
  release(): void;
  kill(): Promise<void>;
}

export async function startGatedServer(name: string): Promise<GatedServer> {
  const holds = new Set<string>();
  const heard: string[] = [];
  const waiting = new Set<() => void>();
  let begun = 0;
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request) body += chunk;
    if (request.method === "GET") return response.writeHead(405).end();
    if (request.method === "DELETE") return response.writeHead(200).end();
    const { id, method, params } = JSON.parse(body) as { id?: unknown; method: string; params?: { name?: string } };
    heard.push(params?.name === undefined ? method : `${method} ${params.name}`);
    if (holds.has(method)) {
      await new Promise<void>((resolve) => {
        const go = (): void => {
          waiting.delete(go);
          resolve();
        };
        waiting.add(go);
        response.once("close", go);
      });
    }
    if (id === undefined) return response.writeHead(202).end();
    const answer = (status: number, rest: object, headers: Record<string, string> = {}) =>
      response.writeHead(status, { "content-type": "application/json", ...headers }).end(JSON.stringify({ jsonrpc: "2.0", id, ...rest }));
    switch (method) {
      case "initialize": {
        begun += 1;
        const result = { protocolVersion: "2025-11-25", capabilities: { tools: {} }, serverInfo: { name, version: "1" } };
        return answer(200, { result }, { "mcp-session-id": `session-${begun}` });
      }
      case "tools/list":
        return answer(200, { result: { tools: [{ name: "first", inputSchema: { type: "object" } }] } });
      case "tools/call":
        return answer(200, { result: { content: [{ type: "text", text: name }] } });
      case "server/discover":
        return answer(400, { error: { code: -32601, message: "Method not found" } });
      default:
        return answer(200, { result: {} });
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    name,
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/mcp`,
    holds,
    heard,
    get held() {
      return waiting.size;
    },
    release() {
      holds.clear();
      for (const go of [...waiting]) go();
    },
    async kill() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
