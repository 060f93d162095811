export const upstream = "orders";
export type UpstreamKind = "http" | "mcp";

/** One upstream with a primary and a secondary, everything by default. A process that ends stays down. */
export function ordersConfig(opsFile: string, { faultProxy, kind }: { faultProxy: boolean; kind: UpstreamKind }): string {
  const path = kind === "mcp" ? "mcp" : "";
  const server = (name: string, offset: number): string => `
    - name: ${upstream}-${name}
      serves: ${upstream}/${name}
      command: [node, test/bench/detection/${kind === "mcp" ? "orders-mcp-server" : "orders-server"}.ts]
      env: { OPS_FILE: ${JSON.stringify(opsFile)} }
      port_offset: ${offset}
      fault_proxy: ${faultProxy}
      restart_after_ms: 600000`;
  return `version: 1
upstreams:
  ${upstream}:
    kind: ${kind}
    mode: active_standby${kind === "mcp" ? "\n    tools: { read: { read_only: true }, idempotent: { idempotent: true } }" : ""}
    endpoints:
      - { name: primary, tier: 0, url: "http://127.0.0.1:\${MCPF_PORT_ORDERS_PRIMARY}/${path}" }
      - { name: secondary, tier: 1, url: "http://127.0.0.1:\${MCPF_PORT_ORDERS_SECONDARY}/${path}" }
local:
  processes:${server("primary", ports.primary)}${server("secondary", ports.secondary)}
`;
}

/** Added to the stack's port base. */
export const ports = { primary: 10, secondary: 11 } as const;
