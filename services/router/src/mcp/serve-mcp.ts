import { RefusedRequest } from "../errors.ts";
import { serveDelete } from "./delete.ts";
import { serveGet } from "./get.ts";
import type { Inbound, McpContext } from "./inbound.ts";
import { servePost } from "./post.ts";

/** `/mcp/<upstream>`: Streamable HTTP of both protocol eras on one URL (requirement R1). Throws {@link RefusedRequest} at once, or later by its promise. */
export function serveMcp(context: McpContext, inbound: Inbound, readBody: () => Buffer | Promise<Buffer>): Promise<unknown> | undefined {
  switch (inbound.request.method) {
    case "POST": {
      const body = readBody();
      return body instanceof Promise ? body.then((whole) => servePost(context, inbound, whole)) : servePost(context, inbound, body);
    }
    case "GET":
      return serveGet(context, inbound);
    case "DELETE":
      return serveDelete(context, inbound);
    default:
      return Promise.reject(new RefusedRequest(405, -32000, "Method not allowed.", { allow: "GET, POST, DELETE" }));
  }
}
