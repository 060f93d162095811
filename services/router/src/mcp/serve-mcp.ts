import { RefusedRequest } from "../errors.ts";
import { serveDelete } from "./delete.ts";
import { serveGet } from "./get.ts";
import type { Inbound, McpContext } from "./inbound.ts";
import { servePost } from "./post.ts";

/** `/mcp/<upstream>`: Streamable HTTP of both protocol eras on one URL (requirement R1). Throws {@link RefusedRequest}. */
export async function serveMcp(context: McpContext, inbound: Inbound, readBody: () => Promise<Buffer>): Promise<void> {
  switch (inbound.request.method) {
    case "POST":
      return servePost(context, inbound, await readBody());
    case "GET":
      return serveGet(context, inbound);
    case "DELETE":
      return serveDelete(context, inbound);
    default:
      throw new RefusedRequest(405, -32000, "Method not allowed.", { allow: "GET, POST, DELETE" });
  }
}
