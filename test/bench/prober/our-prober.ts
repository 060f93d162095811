import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { connectBus } from "@mcp-failover/bus";
import { hashOf, makeEvent, streams, topology } from "@mcp-failover/contracts";
import { freePort, startNats, tempDir } from "@mcp-failover/testkit";
import { node24, ROOT } from "../../../scripts/lib/repo.mjs";
import { pinned, usageOf } from "./machine.ts";

/** What one prober did in one span of time. */
export interface ProberRun {
  readonly endpoints: number;
  readonly connections: "kept" | "new";
  readonly probes: number;
  readonly failed: number;
  readonly skipped: number;
  readonly cpuUsPerProbe: number;
  readonly coreShare: number;
  readonly lagMsP50: number;
  readonly lagMsP99: number;
  readonly rssMib: number;
  readonly perSecond: number;
}

const upstreamMax = 1000;

/** Runs one prober process with so many endpoints, and measures it once all of them are known to be healthy. */
export async function measureProber(options: {
  readonly urls: readonly string[];
  readonly connections: "kept" | "new";
  readonly intervalMs: number;
  readonly seconds: number;
  readonly profileDir?: string;
}): Promise<ProberRun> {
  const { urls } = options;
  // Ten thousand endpoints are more than the megabyte that a message may have. Here alone: it is the prober that is measured.
  for (const definition of streams) Object.assign(definition, { maxMsgBytes: 16 * 1024 * 1024 });
  const nats = await startNats({ config: "max_payload: 16MB" });
  const dir = await tempDir("mcpf-bench-");
  const bus = connectBus({ servers: nats.url, name: "bench/prober", instance: "bench" });
  let child: ChildProcess | null = null;
  try {
    for (let waits = 0; bus.status.kind !== "connected" && waits < 500; waits += 1) await sleep(10);
    await bus.ensureStreams(streams, { replicas: 1 });
    await bus.appendFenced(configuration(urls, options.intervalMs), 0);
    const port = await freePort();
    const main = join(ROOT, "services", "prober", "src", "main.ts");
    const profile = options.profileDir === undefined ? [] : ["--cpu-prof", `--cpu-prof-dir=${options.profileDir}`];
    const [program, args] = pinned("measured", node24(), [...profile, main]);
    const env = {
      NATS_URL: nats.url,
      MCPF_INSTANCE: "bench",
      MCPF_DATA_DIR: dir.path,
      MCPF_HEALTH_PORT: String(port),
      MCPF_LOG_LEVEL: "warn",
    };
    child = spawn(program, args, { env: { PATH: process.env["PATH"] ?? "", ...env }, stdio: ["ignore", "ignore", "inherit"] });
    const metrics = (): Promise<Metrics> => readMetrics(port);
    await settled(metrics, urls.length, child);
    const pid = child.pid as number;
    const before = await metrics();
    const usedBefore = usageOf(pid);
    const startedMs = performance.now();
    await sleep(options.seconds * 1000);
    const usedAfter = usageOf(pid);
    const tookS = (performance.now() - startedMs) / 1000;
    const after = await metrics();
    const probes = after.total("mcpf_prober_probes_total") - before.total("mcpf_prober_probes_total");
    const well = after.total("mcpf_prober_probes_total", 'outcome="ok"') - before.total("mcpf_prober_probes_total", 'outcome="ok"');
    const cpuS = usedAfter.cpuS - usedBefore.cpuS;
    const lags = lagsBetween(before, after);
    return {
      endpoints: urls.length,
      connections: options.connections,
      probes,
      failed: probes - well,
      skipped: after.total("mcpf_prober_skipped_total") - before.total("mcpf_prober_skipped_total"),
      cpuUsPerProbe: (cpuS * 1e6) / probes,
      coreShare: cpuS / tookS,
      lagMsP50: lags(0.5),
      lagMsP99: lags(0.99),
      rssMib: usedAfter.rssMib,
      perSecond: probes / tookS,
    };
  } finally {
    if (child !== null && child.exitCode === null) {
      child.kill("SIGTERM");
      const late = setTimeout(() => child?.kill("SIGKILL"), 20_000);
      await once(child, "exit");
      clearTimeout(late);
    }
    await bus.close();
    await nats.stop();
    await dir.remove();
  }
}

function configuration(urls: readonly string[], intervalMs: number) {
  const upstreams: Record<string, unknown> = {};
  for (let from = 0; from < urls.length; from += upstreamMax) {
    const endpoints = urls.slice(from, from + upstreamMax).map((url, index) => ({ name: `e${index}`, url, tier: 0 }));
    upstreams[`bench-${from / upstreamMax}`] = { kind: "http", endpoints, probe: { interval_ms: intervalMs } };
  }
  const parsed = topology.parse({ upstreams });
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

/** Waits until every endpoint was said to be healthy, and the queues of the start are empty. */
async function settled(metrics: () => Promise<Metrics>, endpoints: number, child: ChildProcess): Promise<void> {
  const endMs = performance.now() + 240_000;
  for (;;) {
    await sleep(1000);
    if (child.exitCode !== null) throw new Error(`the prober ended with ${child.exitCode}`);
    const now = await metrics().catch(() => null);
    if (now !== null && now.total("mcpf_prober_decisions_total", 'rule="rise"') >= endpoints) break;
    if (performance.now() > endMs) throw new Error(`not all of ${endpoints} endpoints were healthy within 240 s`);
  }
  await sleep(6000);
}

interface Metrics {
  total(name: string, label?: string): number;
  buckets(name: string): ReadonlyMap<number, number>;
}

async function readMetrics(port: number): Promise<Metrics> {
  const lines = (await (await fetch(`http://127.0.0.1:${port}/metrics`)).text()).split("\n");
  const numberOf = (line: string): number => Number(line.slice(line.lastIndexOf(" ") + 1));
  return {
    total: (name, label) =>
      lines
        .filter((line) => line.startsWith(name) && (label === undefined || line.includes(label)))
        .reduce((sum, line) => sum + numberOf(line), 0),
    buckets: (name) =>
      new Map(
        lines.flatMap((line) => {
          const edge = line.startsWith(`${name}_bucket`) ? /le="([^"]+)"/.exec(line)?.[1] : undefined;
          return edge === undefined ? [] : [[edge === "+Inf" ? Number.POSITIVE_INFINITY : Number(edge), numberOf(line)] as const];
        }),
      ),
  };
}

/** Quantiles in milliseconds of what was added to the histogram of lags, as the upper edge of the bucket: never less than it was. */
function lagsBetween(before: Metrics, after: Metrics): (share: number) => number {
  const name = "mcpf_prober_schedule_lag_seconds";
  const old = before.buckets(name);
  const added = [...after.buckets(name)].map(([edge, count]) => [edge, count - (old.get(edge) ?? 0)] as const).sort((a, b) => a[0] - b[0]);
  const all = added.at(-1)?.[1] ?? 0;
  return (share) => (added.find(([, count]) => count >= share * all)?.[0] ?? Number.NaN) * 1000;
}
