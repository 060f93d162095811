import { RefusedError } from "@mcp-failover/bus";
import type { Kit, Running } from "@mcp-failover/service-kit";
import type { FaultProxyConfig } from "./config.ts";
import { startProxy, type TcpProxy } from "./proxy.ts";

/** Starts one proxy a listener and answers `fault.set`, `fault.clear` and `fault.list`. Leases go on without NATS. */
export async function startFaultProxy(kit: Kit<FaultProxyConfig>): Promise<Running> {
  const proxies = new Map<string, TcpProxy>();
  for (const { name, listenPort, targetPort } of kit.config.MCPF_FAULT_LISTENERS) {
    const onChange = (what: string, details: object): void => kit.log.info({ proxy: name, ...details }, what);
    proxies.set(name, startProxy({ name, listenPort, targetPort, onChange }));
  }
  const find = (name: string): TcpProxy => {
    const proxy = proxies.get(name);
    if (proxy === undefined)
      throw new RefusedError(
        "unknown_proxy",
        `no fault proxy ${JSON.stringify(name)}; there are: ${[...proxies.keys()].join(", ") || "none"}`,
      );
    return proxy;
  };
  return {
    handlers: {
      "fault.set": async ({ proxy, kind, latencyMs, status, ttlMs }) => {
        const found = find(proxy);
        found.setFault({ kind, latencyMs, status, ttlMs });
        return found.view();
      },
      "fault.clear": async ({ proxy }) => {
        const found = find(proxy);
        found.clearFault();
        return found.view();
      },
      "fault.list": async () => ({ proxies: [...proxies.values()].map((proxy) => proxy.view()) }),
    },
    stop: async () => {
      await Promise.all([...proxies.values()].map((proxy) => proxy.close()));
    },
  };
}
