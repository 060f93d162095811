import type { ServiceName } from "@mcp-failover/contracts";
import { startBreakerState } from "../../services/breaker-state/src/wiring.ts";
import { startFailoverController } from "../../services/failover-controller/src/wiring.ts";
import { startProber } from "../../services/prober/src/wiring.ts";
import { startRollbackController } from "../../services/rollback-controller/src/wiring.ts";
import { createRouterControl, type RunningControl } from "../../services/router/src/control/control.ts";
import type { CachedRoutes } from "../../services/router/src/control/route-cache.ts";
import { simLegacy } from "./calls.ts";
import type { Life, StartShell } from "./node.ts";
import { type Lie, simProbeRunner } from "./probe-runner.ts";
import type { Upstreams } from "./upstreams.ts";

export interface ShellParts {
  readonly upstreams: Upstreams;
  readonly keyOf: (url: string) => string;
  readonly lie: (prober: string) => Lie;
  readonly onControl: (life: Life, control: RunningControl) => void;
  readonly onLegacy: (callId: number) => void;
  /** Whether the last fault is over. */
  readonly quiet: () => boolean;
}

const proberPolicyOfProduction = undefined;
const saveMs = 200;

/** The production shell of each service, with what opens sockets and files replaced. */
export function shellOf(service: ServiceName, parts: ShellParts): StartShell {
  switch (service) {
    case "breaker-state":
      return ({ kit }) => startBreakerState(kit);
    case "failover-controller":
      return ({ kit }) => startFailoverController(kit);
    case "rollback-controller":
      return ({ kit }) => startRollbackController(kit);
    case "prober":
      return ({ kit, process }) =>
        startProber(kit, proberPolicyOfProduction, ({ nowMs }) => simProbeRunner(process, parts.upstreams, parts.lie(process.name), nowMs));
    case "router":
      return routerShell(parts);
    default:
      throw new RangeError(`${service} is not simulated`);
  }
}

function routerShell(parts: ShellParts): StartShell {
  // The file on the machine's disk: it outlives the process.
  let disk: CachedRoutes | null = null;
  return async (life) => {
    const { process, kit } = life;
    const { upstreams, keyOf } = parts;
    let pending = false;
    const control = await createRouterControl(kit, {
      cache: {
        load: async () => disk,
        saveSoon(read) {
          if (pending) return;
          pending = true;
          setTimeout(() => {
            pending = false;
            disk = read();
          }, saveMs);
        },
        flush: async () => undefined,
      },
      callLegacy: simLegacy(process.random, parts.onLegacy, parts.quiet),
      reaches: (url, timeoutMs) => {
        const found = upstreams.reach(process, keyOf(url));
        return new Promise((resolve) => {
          setTimeout(() => resolve(found), found === "silent" ? timeoutMs : 1);
        });
      },
      answers: (url, timeoutMs) => {
        const found = upstreams.look(process, keyOf(url), timeoutMs);
        return new Promise((resolve) => {
          setTimeout(() => resolve(found), found === "silent" ? timeoutMs : 20);
        });
      },
    });
    parts.onControl(life, control);
    return { stop: () => control.stop() };
  };
}
