import { createHash, timingSafeEqual } from "node:crypto";
import { RefusedRequest } from "../errors.ts";

/**
 * Who may have a process asked by `/probe/<upstream>/<endpoint>`: who shows one of the tokens; where there are none, who calls from this
 * machine. Throws {@link RefusedRequest}. `address`: of the other end of the connection.
 */
export function checkProber(authorization: string | undefined, address: string | undefined, tokens: readonly string[]): void {
  if (tokens.length === 0) {
    if (address !== undefined && /^(?:::ffff:)?127\.|^::1$/.test(address)) return;
    throw new RefusedRequest(403, -32000, "probes come from this machine alone: give router and probers the same secret MCPF_PROBE_TOKEN");
  }
  const shown = /^bearer +(\S+)$/i.exec(authorization ?? "")?.[1];
  // All are looked at, and hashes are of one length: how long it takes says nothing of a token.
  const known = shown === undefined ? 0 : tokens.filter((token) => timingSafeEqual(hashOf(token), hashOf(shown))).length;
  if (known > 0) return;
  throw new RefusedRequest(
    401,
    -32000,
    shown === undefined
      ? "send the token of this router's probers: Authorization: Bearer ... (MCPF_PROBE_TOKEN)"
      : "this is not the token of this router's probers: give router and probers the same secret MCPF_PROBE_TOKEN",
    { "www-authenticate": 'Bearer realm="mcp-failover probes"' },
  );
}

function hashOf(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}
