import type { EndpointConfig, SecretRef } from "@mcp-failover/contracts";
import type { EndpointVia } from "./port.ts";

type Resolved = { readonly ok: true; readonly via: EndpointVia | undefined } | { readonly ok: false; readonly reason: string };

/** How an endpoint is reached, with the secrets of its environment resolved: they stay in memory, and go to its process alone. */
export function viaOf(
  config: Pick<EndpointConfig, "stdio" | "transport">,
  secrets: { resolve(value: string | SecretRef): string },
): Resolved {
  if (config.transport === "sse") return { ok: true, via: { kind: "sse" } };
  const { stdio } = config;
  if (stdio === undefined) return { ok: true, via: undefined };
  const env: Record<string, string> = {};
  try {
    for (const [name, value] of Object.entries(stdio.env)) env[name] = secrets.resolve(value);
  } catch (error) {
    return { ok: false, reason: error instanceof Error ? error.message : "a secret cannot be resolved" };
  }
  const { command, args, cwd, sessions_max: sessionsMax } = stdio;
  return { ok: true, via: { kind: "stdio", command, args, env, cwd, sessionsMax } };
}
