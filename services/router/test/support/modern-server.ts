import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { toNodeHandler } from "@modelcontextprotocol/node";
import { acceptedContent, createMcpHandler, createRequestStateCodec, inputRequired, McpServer } from "@modelcontextprotocol/server";
import { z } from "zod";

export interface ModernServer {
  readonly name: string;
  readonly url: string;
  readonly writes: string[];
  readonly aborted: string[];
  readonly methods: string[];
  /** Calls of `slow` that wait. */
  readonly running: number;
  toolsChanged(): void;
  resourceUpdated(uri: string): void;
  kill(): Promise<void>;
}

/** A real server of SDK 2.x that speaks both eras. `greet` asks for a name first, and gives a signed state along. */
export async function startModernServer(serverName: string): Promise<ModernServer> {
  const codec = createRequestStateCodec<{ from: string }>({ key: `the key of ${serverName}, which has to be 32 bytes or more` });
  const writes: string[] = [];
  const aborted: string[] = [];
  const methods: string[] = [];
  let running = 0;
  const handler = createMcpHandler(() => {
    const server = new McpServer(
      { name: serverName, version: "1.0.0" },
      {
        capabilities: { tools: { listChanged: true }, resources: { subscribe: true, listChanged: true } },
        requestState: { verify: codec.verify },
      },
    );
    server.registerTool("greet", { description: "asks for a name" }, async (context) => {
      const name = acceptedContent(context.mcpReq.inputResponses, "who")?.["name"];
      if (name !== undefined && context.mcpReq.requestState<{ from: string }>()?.from === serverName) {
        return { content: [{ type: "text", text: `${serverName} greets ${String(name)}` }] };
      }
      const requestedSchema = { type: "object", properties: { name: { type: "string" } }, required: ["name"] } as const;
      return inputRequired({
        inputRequests: { who: inputRequired.elicit({ message: "Who are you?", requestedSchema: requestedSchema as never }) },
        requestState: await codec.mint({ from: serverName }),
      });
    });
    server.registerResource("one", "note://one", {}, async ({ href }) => ({ contents: [{ uri: href, text: serverName }] }));
    server.registerPrompt("hello", { description: "a prompt" }, async () => ({
      messages: [{ role: "user", content: { type: "text", text: serverName } }],
    }));
    server.registerTool("whoami", { description: "who answers", annotations: { readOnlyHint: true } }, async () => ({
      content: [{ type: "text", text: serverName }],
    }));
    server.registerTool("write", { description: "counts", inputSchema: z.object({ key: z.string() }) }, async ({ key }) => {
      writes.push(key);
      return { content: [{ type: "text", text: `${serverName} wrote ${key}` }] };
    });
    server.registerTool("slow", { description: "waits", inputSchema: z.object({ ms: z.number() }) }, async ({ ms }, context) => {
      running += 1;
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, ms);
        context.mcpReq.signal.addEventListener("abort", () => {
          aborted.push(serverName);
          clearTimeout(timer);
          resolve();
        });
      });
      return { content: [{ type: "text", text: `${serverName} waited` }] };
    });
    return server;
  });
  const serve = toNodeHandler(handler);
  const http: Server = createServer((request, response) => {
    methods.push(`${request.method} ${String(request.headers["mcp-method"] ?? "-")}`);
    serve(request as never, response as never).catch(() => response.destroy());
  });
  await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
  return {
    name: serverName,
    url: `http://127.0.0.1:${(http.address() as AddressInfo).port}/mcp`,
    writes,
    aborted,
    methods,
    get running() {
      return running;
    },
    toolsChanged: () => handler.notify.toolsChanged(),
    resourceUpdated: (uri) => handler.notify.resourceUpdated(uri),
    kill: () =>
      new Promise((resolve) => {
        http.close(() => resolve());
        http.closeAllConnections();
      }),
  };
}
