import { eventually } from "@mcp-failover/testkit";
import { Client as ClientV2, StreamableHTTPClientTransport as TransportV2 } from "@modelcontextprotocol/client";
import { Client as ClientV1 } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport as TransportV1 } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

/** A client of SDK 1.x with all that a server may ask of it. */
export async function connectV1(
  url: URL | string,
  options: { readonly requestInit?: RequestInit } = {},
): Promise<{ client: ClientV1; transport: TransportV1 }> {
  const client = new ClientV1({ name: "agent-v1", version: "1" }, { capabilities: { sampling: {}, elicitation: {} } });
  const transport = new TransportV1(new URL(url), options);
  // SDK 1.x types its transport without exactOptionalPropertyTypes in mind.
  await client.connect(transport as never);
  return { client, transport };
}

/** A client of SDK 2.x: `legacy` speaks the session protocol, `auto` the newest that the server knows. */
export async function connectV2(url: URL | string, mode: "legacy" | "auto"): Promise<ClientV2> {
  const client = new ClientV2({ name: "agent-v2", version: "1" }, { versionNegotiation: { mode } });
  await client.connect(new TransportV2(new URL(url)));
  return client;
}

export function textOf(result: unknown): string {
  return String((result as { content: { text: string }[] }).content[0]?.text);
}

/** An answer: the JSON body, or the first message of an event stream. */
export interface Posted {
  status: number;
  headers: Headers;
  text: string;
  body: {
    id?: unknown;
    result?: { content?: { text: string }[]; [key: string]: unknown };
    error?: { code: number | string; message: string; data?: Record<string, unknown>; [key: string]: unknown };
  };
}

/** A POST as an MCP client makes it, for what no client would send. */
export async function post(url: URL | string, body: string | object, headers: Record<string, string> = {}): Promise<Posted> {
  const response = await fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json", accept: "application/json, text/event-stream", ...headers },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });
  const text = await response.text();
  const json = text.startsWith("{") ? text : (/^data: (\{.*)$/m.exec(text)?.[1] ?? "null");
  return { status: response.status, headers: response.headers, body: JSON.parse(json), text };
}

export const initializeBody = {
  jsonrpc: "2.0",
  id: 1,
  method: "initialize",
  params: { protocolVersion: "2025-11-25", capabilities: {}, clientInfo: { name: "raw", version: "1" } },
};

/** Starts a session by hand and returns its id. */
export async function openSession(url: URL | string): Promise<string> {
  const answer = await post(url, initializeBody);
  const id = answer.headers.get("mcp-session-id") ?? "";
  await post(url, { jsonrpc: "2.0", method: "notifications/initialized" }, { "mcp-session-id": id });
  return id;
}

export function toolCall(id: number | string, name: string, args: object = {}): object {
  return { jsonrpc: "2.0", id, method: "tools/call", params: { name, arguments: args } };
}

export async function until(condition: () => boolean, withinMs = 8000): Promise<void> {
  await eventually(condition, { withinMs, everyMs: 10 });
}
