/** Opens sessions and returns a whole `tools/call` request for each. */
export async function sessionRequests(port: number, path: string, sessions: number): Promise<string[]> {
  const requests: string[] = [];
  for (let index = 0; index < sessions; index += 1) requests.push(callRequest(port, path, await openSession(port, path)));
  return requests;
}

export const initializedNotification = JSON.stringify({ jsonrpc: "2.0", method: "notifications/initialized" });

const headers = { "content-type": "application/json", accept: "application/json, text/event-stream" };

/** Introduces a client; returns the session's id. */
async function openSession(port: number, path: string): Promise<string> {
  const url = `http://127.0.0.1:${port}${path}`;
  const params = { protocolVersion: "2025-11-25", capabilities: {}, clientInfo: { name: "bench", version: "1" } };
  const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method: "initialize", params });
  const answer = await fetch(url, { method: "POST", headers, body });
  const session = answer.headers.get("mcp-session-id");
  if (!answer.ok || session === null) throw new Error(`initialize at ${url} gave ${answer.status}: ${await answer.text()}`);
  await answer.arrayBuffer();
  const said = await fetch(url, {
    method: "POST",
    headers: { ...headers, "mcp-session-id": session },
    body: initializedNotification,
  });
  await said.arrayBuffer();
  return session;
}

function callRequest(port: number, path: string, session: string): string {
  const params = { name: "stock", arguments: { sku: "SKU-12345", warehouse: "north" } };
  const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/call", params });
  const lines = [
    `POST ${path} HTTP/1.1`,
    `host: 127.0.0.1:${port}`,
    "content-type: application/json",
    "accept: application/json, text/event-stream",
    "user-agent: bench/1",
    "mcp-protocol-version: 2025-11-25",
    `mcp-session-id: ${session}`,
    `content-length: ${Buffer.byteLength(body)}`,
  ];
  return `${lines.join("\r\n")}\r\n\r\n${body}`;
}
