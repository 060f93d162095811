import { join } from "node:path";
import { freePort } from "@mcp-failover/testkit";
import { until } from "../harness/wait.ts";
import { startProcess } from "../integration/prober-world.ts";
import { routerWorld } from "../integration/router-world.ts";
import { type Controllers, type Decision, startControllers } from "./controllers.ts";

export type Sdk = "v1" | "v2";

/** A real router process with a real nats-server, and for each SDK two fixture endpoints `a` and `b` behind it. */
export interface ConformanceWorld {
  /** Of the endpoint that is active. */
  directUrl(sdk: Sdk): string;
  routedUrl(sdk: Sdk): string;
  /** The first fixture as an upstream whose URL ends with `/mcp`: the inspector's command line takes no other (it would go to `/mcp` itself). */
  readonly inspectorUrl: string;
  /**
   * SIGKILL to the active endpoint; the probers notice, the failover-controller decides by itself and the router applies it; then the dead one is
   * started again. The first call starts these services. Returns the decision.
   */
  killAndSwitch(sdk: Sdk): Promise<Decision>;
  stop(): Promise<void>;
}

interface Endpoint {
  readonly name: "a" | "b";
  readonly port: number;
  process: ReturnType<typeof startProcess>;
}

/** The endpoints die every few seconds, for minutes: what makes a fleet wait after that is switched off. Everything else is the default. */
const restless = {
  probes: { interval_ms: 500, timeout_ms: 2000 },
  failover: { cooldown_ms: 0, moves_per_hour: 100_000, fleet_moves: 100_000, verify_ms: 0 },
};
const probe = { successes_up: 1, hold_down_ms: 0 };

export async function startConformanceWorld(sdks: readonly Sdk[] = ["v1", "v2"]): Promise<ConformanceWorld> {
  const world = await routerWorld();
  const all = new Map<Sdk, { active: Endpoint; standby: Endpoint }>();
  const main = join(import.meta.dirname, "fixtures", "main.ts");
  const start = (sdk: Sdk, name: string, port: number) => startProcess(process.execPath, [main, sdk, name, String(port)], {});
  const isUp = async (endpoint: Endpoint): Promise<void> => {
    const url = `http://127.0.0.1:${endpoint.port}/healthz`;
    await until(
      async () => (await fetch(url)).ok,
      30_000,
      () => `the fixture did not start: ${endpoint.process.output()}`,
    );
  };
  const begin = async (sdk: Sdk, name: "a" | "b"): Promise<Endpoint> => {
    const port = await freePort();
    const endpoint = { name, port, process: start(sdk, name, port) };
    await isUp(endpoint);
    return endpoint;
  };
  const pairOf = (sdk: Sdk): { active: Endpoint; standby: Endpoint } => {
    const pair = all.get(sdk);
    if (pair === undefined) throw new RangeError(`no fixture of ${sdk} was started`);
    return pair;
  };
  const stop = async (): Promise<void> => {
    for (const { active, standby } of all.values()) for (const { process } of [active, standby]) process.kill("SIGKILL");
    await world.stop();
  };

  try {
    for (const sdk of sdks) {
      const active = await begin(sdk, "a");
      all.set(sdk, { active, standby: active });
      all.set(sdk, { active, standby: await begin(sdk, "b") });
    }
    const urlOf = ({ port }: Endpoint): string => `http://127.0.0.1:${port}/mcp`;
    const upstreams = [...all].map(([sdk, { active, standby }]) => [
      sdk,
      {
        kind: "mcp",
        probe,
        endpoints: [
          { name: active.name, url: urlOf(active), tier: 0 },
          { name: standby.name, url: urlOf(standby), tier: 1 },
        ],
      },
    ]);
    await world.configure({ ...restless, upstreams: { ...Object.fromEntries(upstreams), mcp: upstreams[0]?.[1] } });
    await world.startRouter("router-1");
    await until(async () => (await fetch(`${world.url}/mcp/${sdks[0]}`, { method: "POST", body: "{}" })).status === 406, 10_000);
    let controllers: Promise<Controllers> | null = null;
    return {
      directUrl: (sdk) => urlOf(pairOf(sdk).active),
      routedUrl: (sdk) => `${world.url}/mcp/${sdk}`,
      inspectorUrl: `${world.url}/mcp/mcp`,
      async killAndSwitch(sdk) {
        const { active, standby } = pairOf(sdk);
        controllers ??= startControllers(world);
        const { isHealthy, decisionAfter, epochOf } = await controllers;
        for (const endpoint of [active, standby]) await isHealthy(sdk, endpoint.name);
        const epoch = await epochOf(sdk);
        active.process.kill("SIGKILL");
        const decision = await decisionAfter(sdk, epoch);
        if (decision.to !== standby.name) throw new Error(`${sdk} moved to ${decision.to}, and ${standby.name} was the one that lived`);
        // Gone for sure before another one takes its port.
        await active.process.stop();
        active.process = start(sdk, active.name, active.port);
        all.set(sdk, { active: standby, standby: active });
        return decision;
      },
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}
