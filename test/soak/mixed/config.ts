import { join } from "node:path";
import { ROOT } from "../../../scripts/lib/repo.mjs";

/** Names and ports of the processes behind the mixed soak; a port is added to the stack's base. */
export const proxiedProcesses = { "tools-a": 10, "tools-b": 11, "orders-a": 12, "orders-b": 13, "old-only": 14 } as const;
export type ProxiedProcess = keyof typeof proxiedProcesses;
/** A process behind a fault proxy listens so far above its public port. */
export const behindProxyOffset = 500;

const everything = join(ROOT, "node_modules", "@modelcontextprotocol", "server-everything", "dist", "index.js");
/** What routers may start (`MCPF_STDIO_ALLOW`). */
export const stdioAllow = JSON.stringify({ everything: [process.execPath, everything] });

const url = (process: ProxiedProcess, path: string): string =>
  `http://127.0.0.1:\${MCPF_PORT_${process.toUpperCase().replace("-", "_")}}${path}`;

/** One upstream of each kind: MCP over HTTP, a plain API, a stdio server, one of protocol 2024-11-05. `version` makes it another configuration. */
export function mixedConfig(opsFile: string, version = 0): string {
  const commands: Readonly<Record<string, string>> = {
    tools: "test/soak/mixed/server.ts",
    orders: "test/bench/detection/orders-server.ts",
  };
  const processes = Object.entries(proxiedProcesses).map(([name, offset]) => {
    const [upstream = "", endpoint = ""] = name.split("-");
    const command =
      upstream === "old"
        ? `[node, --import, ./examples/local/loopback-only.mjs, ${JSON.stringify(everything)}, sse]`
        : `[node, ${commands[upstream]}]`;
    return `
    - name: ${name}
      serves: ${upstream}/${endpoint}
      command: ${command}
      env: { OPS_FILE: ${JSON.stringify(opsFile)} }
      port_offset: ${offset}
      fault_proxy: true
      restart_after_ms: 2000`;
  });
  return `version: 1
upstreams:
  tools:
    kind: mcp
    mode: active_standby
    tools: { read: { read_only: true }, big: { read_only: true }, progress: { read_only: true }, poll: { read_only: true }, tell: { read_only: true } }
    endpoints:
      - { name: a, tier: 0, url: "${url("tools-a", "/mcp")}" }
      - { name: b, tier: 1, url: "${url("tools-b", "/mcp")}" }
    contacts: [soak]
  orders:
    kind: http
    mode: active_standby
    endpoints:
      - { name: a, tier: 0, url: "${url("orders-a", "/")}" }
      - { name: b, tier: 1, url: "${url("orders-b", "/")}" }
  old:
    kind: mcp
    tools: { echo: { read_only: true } }
    endpoints:
      - { name: only, tier: 0, url: "${url("old-only", "/sse")}", transport: sse }
  local:
    kind: mcp
    tools: { echo: { read_only: true } }
    endpoints:
      - { name: only, tier: 0, stdio: { command: everything, args: [stdio] } }
contacts:
  soak: "version ${version} of the soak's configuration"
local:
  processes:${processes.join("")}
`;
}
