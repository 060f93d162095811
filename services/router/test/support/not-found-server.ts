import { createServer } from "node:http";
import type { AddressInfo } from "node:net";

/** A server that runs each tool call and answers it with 404, as one does whose own "not found" becomes the status. */
interface NotFoundServer {
  readonly name: string;
  readonly url: string;
  readonly runs: number;
  kill(): Promise<void>;
}

export async function startNotFoundServer(name: string, { sessions }: { readonly sessions: boolean }): Promise<NotFoundServer> {
  let runs = 0;
  let begun = 0;
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request) body += chunk;
    if (request.method === "GET") return response.writeHead(405).end();
    if (request.method === "DELETE") return response.writeHead(200).end();
    const { id, method } = JSON.parse(body) as { id?: unknown; method: string };
    if (id === undefined) return response.writeHead(202).end();
    const answer = (status: number, rest: object, headers: Record<string, string> = {}) =>
      response.writeHead(status, { "content-type": "application/json", ...headers }).end(JSON.stringify({ jsonrpc: "2.0", id, ...rest }));
    if (method === "tools/call") {
      runs += 1;
      return answer(404, { error: { code: -32000, message: "there is no such customer; the order was placed" } });
    }
    if (method !== "initialize") return answer(200, { result: { tools: [] } });
    begun += 1;
    const result = { protocolVersion: "2025-11-25", capabilities: { tools: {} }, serverInfo: { name, version: "1" } };
    return answer(200, { result }, sessions ? { "mcp-session-id": `session-${begun}` } : {});
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    name,
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/mcp`,
    get runs() {
      return runs;
    },
    async kill() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
