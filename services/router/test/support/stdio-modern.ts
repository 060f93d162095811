import { McpServer } from "@modelcontextprotocol/server";
import { serveStdio } from "@modelcontextprotocol/server/stdio";
import { z } from "zod";

/** A real stdio server of SDK 2.x, which speaks both eras: `whoami` says its pid, `slow` waits and reports progress. */
const text = (said: string) => ({ content: [{ type: "text" as const, text: said }] });
serveStdio(() => {
  const server = new McpServer({ name: "stdio-modern", version: "1" }, { capabilities: { tools: {} } });
  server.registerTool("whoami", {}, async () => text(String(process.pid)));
  server.registerTool("slow", { inputSchema: z.object({ ms: z.number(), word: z.string() }) }, async ({ ms, word }) => {
    await new Promise((resolve) => setTimeout(resolve, ms));
    return text(word);
  });
  return server;
});
