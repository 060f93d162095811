import type { Speech } from "../detection/load.ts";

export const modernVersion = "2026-07-28";
const meta = {
  "io.modelcontextprotocol/protocolVersion": modernVersion,
  "io.modelcontextprotocol/clientInfo": { name: "agents", version: "1.0.0" },
  "io.modelcontextprotocol/clientCapabilities": {},
};
const headersOf = (method: string): Record<string, string> => ({
  "content-type": "application/json",
  accept: "application/json, text/event-stream",
  "mcp-protocol-version": modernVersion,
  "mcp-method": method,
});

/** The request by which both sides may look whether a server is there. */
export const discover = {
  headers: headersOf("server/discover"),
  body: JSON.stringify({ jsonrpc: "2.0", id: "check", method: "server/discover", params: { _meta: meta } }),
};

/**
 * Calls of MCP 2026-07-28, the era without sessions: each is one POST that any server takes, so that a proxy that knows nothing of MCP can carry it
 * as well as we can, and may tell a write from a read by `Mcp-Name`. `Mcpf-Timeout-Ms` is the agent's own patience; only our router reads it.
 */
export function toolCalls(path: string, giveUpMs: number): Speech {
  return {
    request: (n, kind) => ({
      method: "POST",
      path,
      headers: { ...headersOf("tools/call"), "mcp-name": kind, "mcpf-timeout-ms": String(giveUpMs) },
      body: JSON.stringify({ jsonrpc: "2.0", id: n + 1, method: "tools/call", params: { name: kind, arguments: { id: n }, _meta: meta } }),
    }),
    isGood: (body) => body.includes("done by"),
    reasonOf: (body) => typedError(body) ?? body,
  };
}

const typed = "typed: ";

/** How a failed call is told that our router gave a typed answer to. */
export const isTyped = (reason: string): boolean => reason.startsWith(typed);

function typedError(body: string): string | null {
  try {
    const { error } = JSON.parse(body) as { error?: { message?: string; data?: { code?: string; operationId?: string } } };
    const known = typeof error?.data?.code === "string" && typeof error.data.operationId === "string";
    return known ? `${typed}${error.data?.code}: ${error.message}` : null;
  } catch {
    return null; // Not JSON: some other proxy's page, or what is left of an answer that broke off.
  }
}
