import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { type Bus, type MemoryBroker, memoryBroker } from "@mcp-failover/bus";
import { applyConfiguration } from "@mcp-failover/client";
import { type Event, type Observation, type ProbeRequested, parseTopology, streams } from "@mcp-failover/contracts";
import { runCli } from "../src/index.ts";

export interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the command line in this process; without a bus it has to find one by itself. */
export async function runMcpf(bus: Bus | null, argv: readonly string[], env: Record<string, string> = {}): Promise<Ran> {
  let [stdout, stderr] = ["", ""];
  const code = await runCli(argv, {
    env: { MCPF_DATA_DIR: join(tmpdir(), "mcpf-none"), ...env },
    write: (text) => {
      stdout += text;
    },
    writeError: (text) => {
      stderr += text;
    },
    ...(bus === null ? {} : { bus }),
  });
  return { code, stdout, stderr };
}

export const twoEndpoints = `
upstreams:
  api:
    kind: http
    endpoints:
      - { name: one, url: "http://127.0.0.1:9001", tier: 0 }
      - { name: two, url: "http://127.0.0.1:9002", tier: 1 }
`;

/** A broker with a configuration as the only event of its log, and a bus on it. */
export async function configured(
  yaml: string = twoEndpoints,
  broker: MemoryBroker = memoryBroker(),
): Promise<{ broker: MemoryBroker; bus: Bus }> {
  const bus = broker.connect();
  await bus.ensureStreams(streams, { replicas: 1 });
  const { topology, hash } = parseTopology(yaml, { file: "failover.yaml", env: {} });
  await applyConfiguration(bus, {
    topology,
    hash,
    fileHash: hash,
    environment: "development",
    by: { kind: "service", id: "bootstrap" },
    reason: "start",
    service: "bootstrap",
    instance: "b",
    nowMs: Date.now(),
    onlyIfFileChanged: true,
  });
  return { broker, bus };
}

/** A state-store until the test is over, that gives this answer. */
export async function serveStatus(t: TestContext, bus: Bus, answer: () => object): Promise<void> {
  const handlers = { "state.status": async () => answer() };
  const served = await bus.serve({ name: "state-store", instance: "s", version: "0.1.0", description: "answers", handlers });
  t.after(async () => {
    await served.stop();
    await bus.close();
  });
}

/** A prober on the broker, until the test is over, that hands what it is asked to `answer`. */
export async function serveProber(
  t: TestContext,
  broker: MemoryBroker,
  prober: string,
  answer: (bus: Bus, asked: ProbeRequested, respond: (event: Event) => void) => void,
): Promise<void> {
  const bus = broker.connect({ instance: prober });
  const served = await bus.serve({
    name: "prober",
    version: "0.1.0",
    description: "probes",
    instance: prober,
    metadata: { instance: prober },
    handlers: {},
  });
  t.after(() => served.stop());
  bus.subscribe("probe.requested", (event, respond) => answer(bus, event.data, respond));
}

/** What a prober saw of each endpoint that it was asked for. */
export function observed(prober: string, asked: ProbeRequested, seen: Partial<Observation>): Observation[] {
  return asked.targets.map(({ upstream, endpoint }) => ({
    upstream,
    endpoint,
    observer: prober,
    purpose: asked.purpose,
    requestId: asked.requestId,
    startedAtMs: Date.now(),
    responseTimeMs: 12.5,
    outcome: "ok" as const,
    code: null,
    error: null,
    httpStatus: null,
    era: null,
    ...seen,
  }));
}
