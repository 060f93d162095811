import { join } from "node:path";
import type { Kit } from "@mcp-failover/service-kit";
import type { RouterConfig } from "../config.ts";
import type { RouterControl } from "../control/port.ts";
import type { Guard } from "./guard.ts";
import { keySetFile } from "./key-set-file.ts";
import { createKeySets } from "./key-sets.ts";
import { createTokenGuard } from "./token-guard.ts";

type GuardKit = Pick<Kit<RouterConfig>, "config" | "log" | "secrets" | "dataDir" | "nowMs" | "ready">;

/** The guard of a router process. Says where anybody on the network could call every tool: in the log, and to `mcpf doctor`. */
export function startTokenGuard(kit: GuardKit, control: Pick<RouterControl, "configuration" | "onRouteChange">): Guard {
  const { log, config } = kit;
  const guard = createTokenGuard({
    configuration: () => control.configuration?.() ?? null,
    secrets: kit.secrets,
    keys: createKeySets({
      monotonicMs: () => performance.now(),
      store: keySetFile(join(kit.dataDir, "router", "key-sets.json")),
      onTrouble: (error, url) => log.warn({ err: error, url }, "the keys of an issuer could not be read; the last good ones go on"),
    }),
    nowMs: kit.nowMs,
    onProblem: (agent, error) => log.error({ agent, err: error }, "a token of an agent cannot be used"),
  });
  let said: boolean | null = null;
  let saidOfCertificates = false;
  const look = (): void => {
    if (control.configuration?.() === null) return;
    const inVain = guard.byCertificate() && config.MCPF_ROUTER_TLS_CLIENT_CA_FILE === undefined;
    if (inVain && !saidOfCertificates)
      log.warn("agents have certificates, but no client is asked for one: set MCPF_ROUTER_TLS_CLIENT_CA_FILE");
    saidOfCertificates = inVain;
    const exposed = !isLoopback(config.MCPF_ROUTER_HOST) && !guard.required();
    if (exposed === said) return;
    said = exposed;
    const host = config.MCPF_ROUTER_HOST;
    const reason = exposed ? `warning: anybody who reaches ${host} can call every tool; no agent has a token` : "";
    if (exposed) log.warn({ host }, "anybody who reaches this address can call every tool: give agents tokens (agents.<name>.tokens)");
    kit.ready("identity", true, reason);
  };
  control.onRouteChange(look);
  look();
  return guard;
}

function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || /^127\./.test(host);
}
