/** What the server behind the proxies answers, whoever plays it. */
export const initializedBody = {
  jsonrpc: "2.0",
  id: 1,
  result: { protocolVersion: "2025-11-25", capabilities: { tools: {} }, serverInfo: { name: "bench", version: "1" } },
};
export const calledBody = {
  jsonrpc: "2.0",
  id: 1,
  result: { content: [{ type: "text", text: "42 units of SKU-12345 are in warehouse north" }] },
};
