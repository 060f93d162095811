import { appendFileSync } from "node:fs";
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StdioServerTransport } from "@modelcontextprotocol/sdk/server/stdio.js";
import { CreateMessageResultSchema, SetLevelRequestSchema } from "@modelcontextprotocol/sdk/types.js";
import { z } from "zod";

/**
 * A real stdio server (SDK 1.x). Arguments: `stubborn` ignores the end of its input and SIGTERM, `crash` ends at once. Its tools: `whoami` says its
 * pid and what of its environment it was given, `remember` and `recall` hold state, `write` appends to the file WRITES, `die` writes and ends
 * without an answer, `slow` reports progress, `ask` samples, `shout` logs after its answer, `long` answers with so many characters, `mute` stops answering.
 */
const [, , mode] = process.argv;
if (mode === "crash") process.exit(3);
if (mode === "stubborn") {
  process.on("SIGTERM", () => undefined);
  setInterval(() => undefined, 1000);
}

const server = new McpServer({ name: "stdio", version: "1" }, { capabilities: { logging: {}, tools: {} } });
server.server.setRequestHandler(SetLevelRequestSchema, async () => ({}));
const text = (said: string) => ({ content: [{ type: "text" as const, text: said }] });
let remembered = "";

server.registerTool("whoami", {}, async () =>
  text(JSON.stringify({ pid: process.pid, env: Object.keys(process.env).sort(), word: process.env["WORD"] })),
);
server.registerTool("remember", { inputSchema: { word: z.string() } }, async ({ word }) => {
  remembered = word;
  return text("ok");
});
server.registerTool("recall", {}, async () => text(remembered));
server.registerTool("write", { inputSchema: { text: z.string() } }, async (args) => {
  appendFileSync(process.env["WRITES"] ?? "", `${args.text}\n`);
  return text("written");
});
server.registerTool("die", { inputSchema: { text: z.string() } }, async (args) => {
  appendFileSync(process.env["WRITES"] ?? "", `${args.text}\n`);
  process.exit(1);
});
server.registerTool("slow", { inputSchema: { steps: z.number() } }, async ({ steps }, { _meta, sendNotification }) => {
  for (let progress = 1; progress <= steps; progress++) {
    if (_meta?.progressToken !== undefined) {
      await sendNotification({ method: "notifications/progress", params: { progressToken: _meta.progressToken, progress, total: steps } });
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return text("done");
});
server.registerTool("ask", {}, async () => {
  const params = { messages: [{ role: "user", content: { type: "text", text: "2+2?" } }], maxTokens: 5 };
  const answer = await server.server.request({ method: "sampling/createMessage", params } as never, CreateMessageResultSchema as never);
  return text(JSON.stringify((answer as { content: unknown }).content));
});
server.registerTool("shout", {}, async () => {
  setTimeout(() => void server.server.sendLoggingMessage({ level: "error", data: "loud" }), 50);
  return text("soon");
});
server.registerTool("long", { inputSchema: { chars: z.number() } }, async ({ chars }) => text("x".repeat(chars)));
server.registerTool("mute", {}, async () => {
  process.stdin.pause();
  setInterval(() => undefined, 1000);
  return new Promise(() => undefined);
});

process.stdout.write("starting\n");
process.stderr.write("a line on standard error\n");
await server.connect(new StdioServerTransport() as never);
