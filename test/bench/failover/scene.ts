import { spawn } from "node:child_process";
import { freePort } from "@mcp-failover/testkit";
import { node24, ROOT } from "../../../scripts/lib/repo.mjs";
import { type RunningStack, startStack } from "../../harness/stack.ts";
import { until } from "../../harness/wait.ts";
import { upstream } from "../detection/orders.ts";
import { phasesOf } from "../detection/run.ts";
import { ended, type HaproxyMode, listens, startHaproxy } from "./haproxy.ts";

export type ProxyName = "router" | HaproxyMode;

/** A proxy with two servers behind it, the first of which is active. */
export interface Scene {
  readonly url: string;
  readonly path: string;
  /** Of the active server. */
  readonly pid: number;
  readonly serverUrl: string;
  /** When each step towards the move was first stored, counted from the fault; of HAProxy nothing is known. */
  phases(faultMs: number): Promise<Readonly<Record<string, number | null>>>;
  stop(): Promise<void>;
}

const server = "test/bench/failover/faulty-server.ts";
const offsets = { primary: 10, secondary: 11 } as const;

export const startScene = (proxy: ProxyName, opsFile: string): Promise<Scene> =>
  proxy === "router" ? routerScene(opsFile) : haproxyScene(proxy, opsFile);

/** The real stack, with every default; the operator says which tool only reads. */
function stackConfig(opsFile: string): string {
  const process = (name: "primary" | "secondary"): string => `
    - name: ${upstream}-${name}
      serves: ${upstream}/${name}
      command: [node, ${server}]
      env: { OPS_FILE: ${JSON.stringify(opsFile)} }
      port_offset: ${offsets[name]}
      restart_after_ms: 600000`;
  return `version: 1
upstreams:
  ${upstream}:
    kind: mcp
    mode: active_standby
    tools: { read: { read_only: true } }
    endpoints:
      - { name: primary, tier: 0, url: "http://127.0.0.1:\${MCPF_PORT_ORDERS_PRIMARY}/mcp" }
      - { name: secondary, tier: 1, url: "http://127.0.0.1:\${MCPF_PORT_ORDERS_SECONDARY}/mcp" }
local:
  processes:${process("primary")}${process("secondary")}
`;
}

async function routerScene(opsFile: string): Promise<Scene> {
  const stack = await startStack({ config: stackConfig(opsFile) });
  try {
    await until(() => isHealthy(stack), 20_000, "both endpoints healthy");
    const pid = await stack.pidOf(`${upstream}-primary`);
    const serverUrl = `http://127.0.0.1:${stack.portBase + offsets.primary}`;
    return {
      url: stack.routerUrl,
      path: `/mcp/${upstream}`,
      pid,
      serverUrl,
      phases: (faultMs) => phasesOf(stack, faultMs),
      stop: () => stack.stop(),
    };
  } catch (error) {
    await stack.destroy();
    throw error;
  }
}

async function isHealthy(stack: RunningStack): Promise<boolean> {
  const view = (await stack.status()).upstreams.find(({ name }) => name === upstream);
  return view?.endpoints.every(({ health }) => health === "healthy") === true;
}

async function haproxyScene(mode: HaproxyMode, opsFile: string): Promise<Scene> {
  const [primary, secondary] = [await startServer(opsFile), await startServer(opsFile)];
  const haproxy = await startHaproxy(mode, [primary.port, secondary.port]).catch(async (error: unknown) => {
    await primary.stop();
    await secondary.stop();
    throw error;
  });
  return {
    url: haproxy.url,
    path: "/mcp",
    pid: primary.pid,
    serverUrl: `http://127.0.0.1:${primary.port}`,
    phases: () => Promise.resolve({}),
    async stop() {
      await haproxy.stop();
      await primary.stop();
      await secondary.stop();
    },
  };
}

async function startServer(opsFile: string): Promise<{ readonly port: number; readonly pid: number; stop(): Promise<void> }> {
  const port = await freePort();
  const env = { ...process.env, PORT: String(port), OPS_FILE: opsFile, MCPF_PARENT_PIPE: "1" };
  // Its standard input closes with us, so that a run that is killed leaves no server behind.
  const child = spawn(node24(), [server], { cwd: ROOT, env, stdio: ["pipe", "ignore", "inherit"] });
  await listens(child, port, () => "see above");
  return { port, pid: child.pid as number, stop: () => ended(child) };
}
