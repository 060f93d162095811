import { bearerOf, isOneOf } from "@mcp-failover/service-kit";
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
  const shown = bearerOf(authorization);
  if (shown !== null && isOneOf(tokens, shown)) return;
  throw new RefusedRequest(
    401,
    -32000,
    shown === null
      ? "send the token of this router's probers: Authorization: Bearer ... (MCPF_PROBE_TOKEN)"
      : "this is not the token of this router's probers: give router and probers the same secret MCPF_PROBE_TOKEN",
    { "www-authenticate": 'Bearer realm="mcp-failover probes"' },
  );
}
