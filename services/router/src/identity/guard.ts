import type { IncomingHttpHeaders } from "node:http";
import type { Socket } from "node:net";
import { RefusedRequest, rpcCodes } from "../errors.ts";
import { anonymousOf } from "./anonymous.ts";
import { anybody, type Principal } from "./principal.ts";

/** Says who makes a request, and what a client has to know to become somebody. */
export interface Guard {
  /**
   * Throws {@link RefusedRequest} with 401. A promise only where a token is seen for the first time. `socket`: of the connection, whose
   * certificate may say who it is, or its address, where nobody has to.
   */
  identify(headers: IncomingHttpHeaders, face: "mcp" | "http", upstream: string, socket?: Socket | null): Principal | Promise<Principal>;
  /** The protected-resource metadata of a path (RFC 9728), or null. */
  metadata(path: string): object | null;
}

/** Where no agent has a credential: everybody may do everything, as on a developer's machine. */
const anonymous = anonymousOf(anybody);
export const openGuard: Guard = { identify: (_headers, _face, _upstream, socket) => anonymous(socket), metadata: () => null };

/** Throws {@link RefusedRequest} with 403, the same for an upstream that there is and one that there is not. */
export function checkUpstream(principal: Principal, upstream: string): void {
  if (principal.mayUse(upstream)) return;
  const name = JSON.stringify(upstream.slice(0, 64));
  throw new RefusedRequest(
    403,
    rpcCodes.forbidden,
    `${principal.agent} may not use ${name}; an operator can allow it in agents.${principal.agent}.allow`,
  );
}

/** What an agent may call is decided by the names of tools, and a raw request to an MCP server has none that can be read for sure. */
export function checkFace(
  principal: Principal,
  face: "mcp" | "http",
  view: { readonly name: string; readonly kind: "mcp" | "http" },
): void {
  if (face === view.kind || principal.mayCallAll(view.name)) return;
  throw new RefusedRequest(403, rpcCodes.forbidden, `${principal.agent} may use some tools of ${view.name} only: use /mcp/${view.name}`);
}
