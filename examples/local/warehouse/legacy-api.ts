// The warehouse's API from before MCP: plain HTTP, the query in the URL, JSON back. What a rolled-back tool is answered from.
import { createServer } from "node:http";
import type { z } from "zod";
import { endWithParent, port } from "./process.ts";
import { findInventory, findOrders, inventoryQuery, ordersQuery } from "./stock.ts";

const server = createServer((request, response) => {
  const url = new URL(request.url ?? "/", "http://legacy");
  const answer = (status: number, body: unknown): void => {
    response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
  };
  if (request.method !== "GET") return answer(405, { error: "only GET" });
  const query = Object.fromEntries(url.searchParams);
  const serve = <S extends z.ZodType>(schema: S, find: (parsed: z.infer<S>) => unknown): void => {
    const parsed = schema.safeParse(query);
    if (parsed.success) answer(200, find(parsed.data));
    else answer(400, { error: parsed.error.issues.map(({ path, message }) => `${path.join(".")}: ${message}`).join("; ") });
  };
  switch (url.pathname) {
    case "/healthz":
      return answer(200, { status: "alive" });
    case "/inventory":
      return serve(inventoryQuery, (parsed) => findInventory(parsed, "legacy"));
    case "/orders":
      return serve(ordersQuery, (parsed) => findOrders(parsed, "legacy"));
    default:
      return answer(404, { error: "there are /inventory and /orders" });
  }
});
server.listen(port(), process.env["HOST"] ?? "127.0.0.1");
endWithParent();
