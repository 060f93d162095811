import { join } from "node:path";
import { freePort } from "@mcp-failover/testkit";
import { until } from "../harness/wait.ts";
import { startProcess } from "../integration/prober-world.ts";
import { routerWorld } from "../integration/router-world.ts";

export type Sdk = "v1" | "v2";

/** A real router process with a real nats-server, and for each SDK two fixture endpoints `a` and `b` behind it. */
export interface ConformanceWorld {
  /** Of the endpoint that is active. */
  directUrl(sdk: Sdk): string;
  routedUrl(sdk: Sdk): string;
  /** The first fixture as an upstream whose URL ends with `/mcp`: the inspector's command line takes no other (it would go to `/mcp` itself). */
  readonly inspectorUrl: string;
  /** SIGKILL to the active endpoint, the route moves to the other one as a controller moves it, and the dead one is started again. */
  killAndSwitch(sdk: Sdk): Promise<void>;
  stop(): Promise<void>;
}

interface Endpoint {
  readonly name: "a" | "b";
  readonly port: number;
  process: ReturnType<typeof startProcess>;
}

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
        endpoints: [
          { name: active.name, url: urlOf(active), tier: 0 },
          { name: standby.name, url: urlOf(standby), tier: 1 },
        ],
      },
    ]);
    await world.configure({ upstreams: { ...Object.fromEntries(upstreams), mcp: upstreams[0]?.[1] } });
    await world.startRouter("router-1");
    await until(async () => (await fetch(`${world.url}/mcp/${sdks[0]}`, { method: "POST", body: "{}" })).status === 406, 10_000);
    return {
      directUrl: (sdk) => urlOf(pairOf(sdk).active),
      routedUrl: (sdk) => `${world.url}/mcp/${sdk}`,
      inspectorUrl: `${world.url}/mcp/mcp`,
      async killAndSwitch(sdk) {
        const { active, standby } = pairOf(sdk);
        await isUp(standby);
        active.process.kill("SIGKILL");
        await world.move(sdk, active.name, standby.name);
        active.process = start(sdk, active.name, active.port);
        all.set(sdk, { active: standby, standby: active });
      },
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}
