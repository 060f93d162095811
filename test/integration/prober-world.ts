import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { type Bus, connectBus } from "@mcp-failover/bus";
import { type HealthChanged, hashOf, makeEvent, type Observation, streams, subjectFor, topology } from "@mcp-failover/contracts";
import { freePort, type RunningServer, startNats, tempDir } from "@mcp-failover/testkit";
import { until } from "../harness/wait.ts";

const root = join(import.meta.dirname, "..", "..");

/** Prober processes on a real nats-server, and nothing else of the stack. */
export interface ProberWorld {
  readonly bus: Bus;
  readonly nats: Pick<RunningServer, "kill" | "restart" | "url">;
  /** Everything that was observed since the start, by whom and when it reached the log. */
  readonly observations: readonly (Observation & { readonly storedMs: number })[];
  /** Last said health by `upstream/endpoint`, and all that was said, oldest first. */
  readonly health: ReadonlyMap<string, HealthChanged>;
  readonly said: readonly HealthChanged[];
  configure(upstreams: Record<string, unknown>): Promise<void>;
  startProber(instance: string, env?: Record<string, string>): Promise<ProcessHandle>;
  stop(): Promise<void>;
}
export interface ProcessHandle {
  readonly pid: number;
  readonly output: () => string;
  readyz(): Promise<string>;
  kill(signal: NodeJS.Signals): void;
  /** SIGTERM and the exit code. */
  stop(): Promise<number | null>;
}

export async function proberWorld(): Promise<ProberWorld> {
  const nats = await startNats();
  const dir = await tempDir();
  const bus = connectBus({ servers: nats.url, name: "test/prober-world", instance: "test" });
  await until(() => bus.status.kind === "connected", 5000);
  await bus.ensureStreams(streams, { replicas: 1 });
  const observations: (Observation & { storedMs: number })[] = [];
  const health = new Map<string, HealthChanged>();
  const said: HealthChanged[] = [];
  const processes = new Set<ProcessHandle>();
  let version = 0;
  bus.follow("SIGNALS", { from: { seq: 1 }, filter: "probe.observed.>" }, ({ content, timeMs }) => {
    if (content.kind !== "event" || content.event.type !== "probe.observed") return;
    for (const observation of content.event.data.observations) observations.push({ ...observation, storedMs: timeMs });
  });
  bus.follow("AUDIT", { from: { seq: 1 }, filter: "health.changed.>" }, ({ content }) => {
    if (content.kind !== "event" || content.event.type !== "health.changed") return;
    const { data } = content.event;
    health.set(`${data.service}/${data.endpoint}`, data);
    said.push(data);
  });

  return {
    bus,
    nats,
    observations,
    health,
    said,
    async configure(upstreams) {
      const parsed = topology.parse({ upstreams });
      const seq = (await bus.lastOf("AUDIT", subjectFor("config.applied")))?.seq ?? 0;
      version += 1;
      const data = {
        version,
        hash: hashOf(parsed),
        fileHash: null,
        timestamp: new Date().toISOString(),
        by: { kind: "operator" as const, id: "test" },
        reason: "test",
        environment: "development" as const,
        topology: parsed,
      };
      const event = makeEvent({
        type: "config.applied",
        keys: [],
        id: `config-${version}`,
        service: "bootstrap",
        instance: "test",
        timeMs: Date.now(),
        data,
      });
      await bus.appendFenced(event, seq);
    },
    async startProber(instance, env = {}) {
      const port = await freePort();
      const handle = startProcess(process.execPath, [join(root, "services", "prober", "src", "main.ts")], {
        NATS_URL: nats.url,
        MCPF_INSTANCE: instance,
        MCPF_DATA_DIR: dir.path,
        MCPF_HEALTH_PORT: String(port),
        ...env,
      });
      const prober = {
        ...handle,
        readyz: async () => ((await (await fetch(`http://127.0.0.1:${port}/readyz`)).json()) as { status: string }).status,
      };
      processes.add(prober);
      return prober;
    },
    async stop() {
      for (const handle of processes) {
        handle.kill("SIGCONT");
        await handle.stop();
      }
      await bus.close();
      await nats.stop();
      await dir.remove();
    },
  };
}

const stopMsMax = 10_000;

const alive = new Set<ChildProcess>();
process.once("exit", () => {
  for (const child of alive) child.kill("SIGKILL");
});

/** A process of the test's own; what it writes is kept for messages. */
export function startProcess(program: string, args: readonly string[], env: Record<string, string>): Omit<ProcessHandle, "readyz"> {
  const child: ChildProcess = spawn(program, args, { env: { PATH: process.env["PATH"] ?? "", ...env }, stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  const take = (chunk: Buffer): void => {
    output = (output + chunk.toString("utf8")).slice(-65_536);
  };
  child.stdout?.on("data", take);
  child.stderr?.on("data", take);
  alive.add(child);
  const exited = once(child, "exit").finally(() => alive.delete(child));
  return {
    pid: child.pid ?? 0,
    output: () => output,
    kill: (signal) => void child.kill(signal),
    async stop() {
      // A process that a failed test left stopped would keep SIGTERM waiting for ever.
      child.kill("SIGCONT");
      child.kill("SIGTERM");
      const late = setTimeout(() => child.kill("SIGKILL"), stopMsMax);
      const [code] = (await exited) as [number | null];
      clearTimeout(late);
      return code;
    },
  };
}
