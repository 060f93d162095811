// An MCP server without sessions for the failover benchmark, small enough to cost next to nothing. It notes every call of a tool that it runs in
// a file, so that one that ran twice is seen. Kept apart from the SDK: 300 calls a second through it would cost more than all the rest.
import { appendFileSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { modernVersion } from "./speech.ts";

const port = Number(process.env["PORT"]);
const opsFile = process.env["OPS_FILE"] ?? "";
const workMs = 3;
const slowMs = 5000;
/** `PUT /fault/all/503` (or `slow`, `reset`): how it fails. `/fault/calls/503`: only calls of tools do, and looks whether it is there are answered as before. */
const control = /^\/fault\/(all|calls)\/(\w+)$/;
let fault = "none";
let onlyCalls = false;

const inputSchema = { type: "object", properties: { id: { type: "number" } }, required: ["id"] };
const tools = [
  { name: "read", inputSchema, annotations: { readOnlyHint: true } },
  { name: "unsafe", inputSchema, annotations: { readOnlyHint: false, idempotentHint: false } },
];
const serverInfo = { name: "orders", version: "1.0.0" };
const capabilities = { tools: {} };
const supportedVersions = ["2025-11-25", modernVersion];

interface Message {
  readonly id?: number | string;
  readonly method: string;
  readonly params?: { readonly name?: string; readonly arguments?: { readonly id?: number } };
}

function resultOf({ method }: Message): object | null {
  switch (method) {
    case "server/discover":
      return { resultType: "complete", supportedVersions, capabilities, serverInfo };
    case "initialize":
      return { protocolVersion: "2025-11-25", capabilities, serverInfo };
    case "ping":
      return {};
    case "tools/list":
      return { resultType: "complete", tools };
    case "tools/call":
      return { resultType: "complete", content: [{ type: "text", text: `done by ${port}` }] };
    default:
      return null;
  }
}

async function reply(message: Message, response: ServerResponse): Promise<void> {
  const { id, method, params } = message;
  const isCall = method === "tools/call";
  const suffers = isCall || !onlyCalls ? fault : "none";
  if (suffers === "503") {
    response.writeHead(503, { "content-type": "text/plain" }).end("no database");
    return;
  }
  if (isCall) {
    await sleep(workMs);
    // Noted when it runs, before the answer: what runs and is not answered counts.
    appendFileSync(opsFile, `${params?.name} ${params?.arguments?.id}\n`);
  }
  if (suffers === "reset") {
    response.socket?.resetAndDestroy();
    return;
  }
  if (suffers === "slow") await sleep(slowMs);
  const result = resultOf(message);
  answer(response, { jsonrpc: "2.0", id, ...(result === null ? { error: { code: -32601, message: "method not found" } } : { result }) });
}

function answer(response: ServerResponse, message: object): void {
  const body = JSON.stringify(message);
  response.writeHead(200, { "content-type": "application/json", "content-length": Buffer.byteLength(body) }).end(body);
}

function serve(request: IncomingMessage, response: ServerResponse, text: string): void {
  const [, scope, wanted] = control.exec(request.url ?? "") ?? [];
  if (wanted !== undefined) {
    fault = wanted;
    onlyCalls = scope === "calls";
    response.end();
  } else if (request.method === "POST") {
    const message = JSON.parse(text) as Message;
    if (message.id === undefined) response.writeHead(202).end();
    else void reply(message, response);
  } else void refuse(response);
}

/** Nothing but POST is known here; as slowly as everything else. */
async function refuse(response: ServerResponse): Promise<void> {
  if (fault === "slow" && !onlyCalls) await sleep(slowMs);
  response.writeHead(405).end();
}

const server = createServer((request, response) => {
  let text = "";
  request.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
  request.once("end", () => serve(request, response, text));
});
server.keepAliveTimeout = 60_000;
server.listen(port, "127.0.0.1");
process.once("SIGTERM", () => process.exit(0));
if (process.env["MCPF_PARENT_PIPE"] === "1") process.stdin.on("end", () => process.exit(0)).resume();
