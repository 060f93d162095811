import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { connectBus } from "@mcp-failover/bus";
import { hashOf, makeEvent, streams, topology } from "@mcp-failover/contracts";
import { freePort, startNats, tempDir } from "@mcp-failover/testkit";
import { node24, ROOT } from "../../../scripts/lib/repo.mjs";
import { pinned } from "../prober/machine.ts";

/** The router as it is deployed: a process with NATS, its log, its metrics. */
export interface RealRouters {
  readonly port: number;
  readonly pids: readonly number[];
  stop(): Promise<void>;
}

/** Starts so many router processes on one port in front of one MCP server. */
export async function startRealRouters(options: {
  readonly upstreamPort: number;
  readonly processes: number;
  readonly profileDir?: string;
  readonly env?: Readonly<Record<string, string>>;
}): Promise<RealRouters> {
  const nats = await startNats();
  const dir = await tempDir("mcpf-bench-");
  const bus = connectBus({ servers: nats.url, name: "bench/router", instance: "bench" });
  const children: ChildProcess[] = [];
  const stop = async (): Promise<void> => {
    for (const child of children) {
      if (child.exitCode !== null || child.signalCode !== null) continue;
      child.kill("SIGTERM");
      const late = setTimeout(() => child.kill("SIGKILL"), 10_000);
      await once(child, "exit");
      clearTimeout(late);
    }
    await bus.close();
    await nats.stop();
    await dir.remove();
  };
  try {
    for (let waits = 0; bus.status.kind !== "connected" && waits < 500; waits += 1) await sleep(10);
    await bus.ensureStreams(streams, { replicas: 1 });
    await bus.appendFenced(configuration(options.upstreamPort), 0);
    const port = await freePort();
    const main = join(ROOT, "services", "router", "src", "main.ts");
    const profile = options.profileDir === undefined ? [] : ["--cpu-prof", `--cpu-prof-dir=${options.profileDir}`];
    for (let index = 0; index < options.processes; index += 1) {
      const healthPort = await freePort();
      const [program, args] = pinned("measured", node24(), [...profile, main]);
      const child = spawn(program, args, {
        env: {
          PATH: process.env["PATH"] ?? "",
          NATS_URL: nats.url,
          MCPF_INSTANCE: `bench-${index}`,
          MCPF_DATA_DIR: join(dir.path),
          MCPF_SESSION_KEY: "a key of the benchmark alone",
          MCPF_ROUTER_PORT: String(port),
          MCPF_HEALTH_PORT: String(healthPort),
          MCPF_LOG_LEVEL: "info",
          ...options.env,
        },
        stdio: ["ignore", "ignore", "inherit"],
      });
      children.push(child);
      await ready(`http://127.0.0.1:${healthPort}/readyz`, child);
    }
    return { port, pids: children.map(({ pid }) => pid as number), stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

async function ready(url: string, child: ChildProcess): Promise<void> {
  for (let tries = 0; tries < 300; tries += 1) {
    if (child.exitCode !== null) throw new Error(`the router ended with ${child.exitCode}`);
    const answer = await fetch(url).catch(() => null);
    const body = await answer?.text();
    if (answer?.ok === true && body?.includes("routes are those of the log")) return;
    await sleep(50);
  }
  throw new Error("the router was not ready within 15 s");
}

function configuration(upstreamPort: number) {
  const parsed = topology.parse({
    upstreams: {
      bench: {
        kind: "mcp",
        endpoints: [
          { name: "primary", url: `http://127.0.0.1:${upstreamPort}/mcp`, tier: 0 },
          { name: "standby", url: `http://127.0.0.1:${upstreamPort}/standby`, tier: 1 },
        ],
      },
    },
  });
  const data = {
    version: 1,
    hash: hashOf(parsed),
    fileHash: null,
    timestamp: new Date().toISOString(),
    by: { kind: "operator" as const, id: "bench" },
    reason: "benchmark",
    environment: "development" as const,
    topology: parsed,
  };
  return makeEvent({ type: "config.applied", keys: [], id: "config-1", service: "bootstrap", instance: "bench", timeMs: Date.now(), data });
}
