import assert from "node:assert/strict";
import { randomBytes, randomUUID } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type Bus, connectBus, type Stored } from "@mcp-failover/bus";
import { jetStreamApi } from "@mcp-failover/bus/internal";
import { makeEvent, streams } from "@mcp-failover/contracts";
import { becomes, eventually, freePort, type NatsCluster, patientMs, startNatsCluster, tempDir } from "@mcp-failover/testkit";
import { stringify } from "yaml";
import { run } from "../harness/stack.ts";
import { startProcess } from "./prober-world.ts";

const root = join(import.meta.dirname, "..", "..");
const everythingMain = join(root, "node_modules", "@modelcontextprotocol", "server-everything", "dist", "index.js");
const twice = ["breaker-state", "failover-controller", "rollback-controller", "router"] as const;
const slowMs = 120_000;

type Process = ReturnType<typeof startProcess>;
/** What a publisher was told of something that it stored. */
interface Acknowledged {
  readonly seq: number;
  readonly id: string;
}

/** The fleet as processes on three NATS nodes: two of every controller, two routers on one port, three probers, MCP servers. */
export interface ClusterWorld {
  readonly cluster: NatsCluster;
  readonly bus: Bus;
  readonly routerUrl: string;
  /** Acknowledged notices of the publishers that go on all the time. */
  readonly acknowledged: readonly Acknowledged[];
  /** Ids of commands that were answered with a move; each was repeated with its id until it was answered. */
  readonly commanded: readonly string[];
  /** Moves the upstream of the commands once, and waits for the answer. */
  command(): Promise<void>;
  active(upstream: string): Promise<{ readonly endpoint: string; readonly epoch: number; readonly seq: number } | null>;
  /** Whether the fleet takes an endpoint for healthy, with its breaker closed. */
  isFit(upstream: string, endpoint: string): Promise<boolean>;
  killEndpoint(name: "primary" | "secondary"): Promise<void>;
  startEndpoint(name: "primary" | "secondary"): Promise<void>;
  leader(stream: string): Promise<string | null>;
  /** Waits until every node has a copy of the log that is up to date. */
  whole(): Promise<void>;
  /** All of AUDIT. */
  audit(): Promise<Stored[]>;
  /** `mcpf events verify`. */
  verify(): Promise<{ readonly problems: readonly unknown[]; readonly decisions: number }>;
  /** Stops what publishes by itself, and waits for what is on its way. */
  stopPublishers(): Promise<void>;
  /** The end of what the services wrote. */
  logs(): string;
  stop(): Promise<void>;
}

export async function clusterWorld(natsServer: string): Promise<ClusterWorld> {
  const cleanups: (() => Promise<unknown>)[] = [];
  const stop = async (): Promise<void> => {
    for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  };
  try {
    return await make(natsServer, cleanups, stop);
  } catch (error) {
    await stop();
    throw error;
  }
}

async function make(natsServer: string, cleanups: (() => Promise<unknown>)[], stop: () => Promise<void>): Promise<ClusterWorld> {
  const cluster = await startNatsCluster(natsServer);
  cleanups.push(() => cluster.stop());
  const dir = await tempDir();
  cleanups.push(() => dir.remove());
  const routerPort = await freePort();
  const ports = { primary: await freePort(), secondary: await freePort(), other: await freePort() };
  const processes = new Map<string, Process>();
  cleanups.push(() => {
    for (const one of processes.values()) one.kill("SIGKILL");
    return Promise.all([...processes.values()].map((one) => one.stop()));
  });

  const startServer = async (name: keyof typeof ports): Promise<void> => {
    const loopback = ["--import", join(root, "examples", "local", "loopback-only.mjs")];
    const server = startProcess(process.execPath, [...loopback, everythingMain, "streamableHttp"], { PORT: String(ports[name]) });
    processes.set(name, server);
    const answers = async () =>
      (await fetch(`http://127.0.0.1:${ports[name]}/mcp`, { headers: { accept: "text/event-stream" } })).status === 400;
    await eventually(answers, { withinMs: slowMs, everyMs: 100, what: () => `${name} did not start: ${server.output()}` });
  };
  const url = (port: number) => `http://127.0.0.1:${port}/mcp`;
  const upstream = (first: [string, string], second: [string, string]) => ({
    kind: "mcp",
    critical: true,
    endpoints: [first, second].map(([name, at], tier) => ({ name, tier, url: at })),
    tools: { echo: { read_only: true } },
  });
  const config = {
    upstreams: {
      everything: upstream(["primary", url(ports.primary)], ["secondary", url(ports.secondary)]),
      // Moved by commands alone: one server, which never dies.
      other: upstream(["a", url(ports.other)], ["b", `${url(ports.other)}?b`]),
    },
    // One test has more moves than an hour should have.
    failover: { cooldown_ms: 0, moves_per_hour: 10_000, fleet_moves: 10_000 },
  };
  const configFile = join(dir.path, "failover.yaml");
  await writeFile(configFile, stringify(config));
  const common = {
    NATS_URL: cluster.url,
    MCPF_DATA_DIR: dir.path,
    MCPF_ROUTER_PORT: String(routerPort),
    MCPF_SESSION_KEY: randomBytes(24).toString("hex"),
    MCPF_LOG_LEVEL: "info",
  };
  const main = (service: string) => join(root, "services", service, "src", "main.ts");
  const bootstrapped = await run(
    process.execPath,
    [main("bootstrap")],
    {
      PATH: process.env["PATH"],
      ...common,
      MCPF_CONFIG: configFile,
      MCPF_NATS_REPLICAS: "3",
      MCPF_BOOTSTRAP_WAIT_MS: String(patientMs(slowMs)),
    },
    patientMs(2 * slowMs),
  );
  assert.equal(bootstrapped.code, 0, bootstrapped.stderr);

  const startService = async (service: string, instance: string): Promise<void> => {
    const healthPort = await freePort();
    const started = startProcess(process.execPath, [main(service)], {
      ...common,
      MCPF_INSTANCE: instance,
      MCPF_HEALTH_PORT: String(healthPort),
    });
    processes.set(instance, started);
    const ready = async () => (await fetch(`http://127.0.0.1:${healthPort}/readyz`)).ok;
    await eventually(ready, { withinMs: slowMs, everyMs: 200, what: () => `${instance} did not get ready: ${started.output()}` });
  };
  await Promise.all((["primary", "secondary", "other"] as const).map(startServer));
  const instances = [
    ...twice.flatMap((service) => [1, 2].map((number) => [service, `${service}-${number}`] as const)),
    ...[1, 2, 3].map((number) => ["prober", `prober-${number}`] as const),
  ];
  await Promise.all(instances.map(([service, instance]) => startService(service, instance)));

  const bus = connectBus({ servers: cluster.url, name: "test", instance: "test" });
  cleanups.push(() => bus.close());
  const acknowledged: Acknowledged[] = [];
  const commanded: string[] = [];
  let publishing = true;
  const publishers = await Promise.all(
    [1, 2, 3].map(async (number) => {
      const own = connectBus({ servers: cluster.url, name: `publisher-${number}`, instance: `publisher-${number}` });
      cleanups.push(() => own.close());
      return publishFor(own, `publisher-${number}`);
    }),
  );
  /** One notice after another, with a fence and without; what fails is not said again. */
  async function publishFor(own: Bus, channel: string): Promise<{ done: Promise<void> }> {
    let fence = 0;
    const done = (async () => {
      for (let count = 1; publishing; count += 1) {
        const data = {
          ...{ notificationId: `${channel}-${count}`, channel, incidentId: "none", kind: "test", attempt: 1 },
          ...{ timestamp: new Date().toISOString(), error: null, willRetry: false },
        };
        const id = `${channel}-${count}`;
        const event = makeEvent({
          type: "notify.sent",
          keys: [channel],
          data,
          id,
          service: "notifier",
          instance: channel,
          timeMs: Date.now(),
        });
        try {
          const fenced = count % 2 === 0;
          const outcome = fenced ? await own.appendFenced(event, fence) : await own.append(event);
          if ("outcome" in outcome && outcome.outcome === "lost") fence = outcome.last?.seq ?? 0;
          else if ("seq" in outcome) {
            acknowledged.push({ seq: outcome.seq, id });
            fence = outcome.seq;
          }
        } catch {
          // Nothing was acknowledged: it may be in the log or not.
        }
        await sleep(20);
      }
    })();
    return { done };
  }

  const active: ClusterWorld["active"] = async (name) => {
    const last = await bus.lastOf("AUDIT", `failover.decided.${name}`);
    if (last?.content.kind !== "event" || last.content.event.type !== "failover.decided") return null;
    const { state } = last.content.event.data;
    return { endpoint: state.active, epoch: state.epoch, seq: last.seq };
  };
  const info = (stream: string) =>
    jetStreamApi<{ cluster?: { leader?: string; replicas?: { current?: boolean; offline?: boolean; lag?: number }[] } }>(
      bus,
      `STREAM.INFO.${stream}`,
    );

  return {
    cluster,
    bus,
    routerUrl: `http://127.0.0.1:${routerPort}`,
    acknowledged,
    commanded,
    active,
    async command() {
      const commandId = randomUUID();
      const by = { kind: "operator", id: "test" } as const;
      const said: string[] = [];
      const now = await eventually(async () => ({ active: await active("other") }), { withinMs: slowMs, everyMs: 250 });
      const to = now.active?.endpoint === "b" ? "a" : "b";
      await eventually(
        async () => {
          const order = { commandId, by, reason: "test", upstream: "other", to, force: true, dryRun: false };
          const reply = await bus.request("command.failover", order, { timeoutMs: 8000 });
          if (!reply.ok) said.push(`${reply.error.code}: ${reply.error.message}`);
          return reply.ok;
        },
        { withinMs: slowMs, everyMs: 250, what: () => `the command was not done: ${said.slice(-5).join("; ")}` },
      );
      commanded.push(commandId);
    },
    async isFit(name, endpoint) {
      const health = await bus.lastOf("AUDIT", `health.changed.${name}.${endpoint}`);
      const breaker = await bus.lastOf("AUDIT", `breaker.changed.${name}.${endpoint}`);
      const said = [health, breaker].map((stored) => (stored?.content.kind === "event" ? stored.content.event : null));
      return said.every((event) => {
        if (event?.type === "health.changed") return event.data.status === "healthy";
        return event?.type !== "breaker.changed" || event.data.status === "closed";
      });
    },
    async killEndpoint(name) {
      processes.get(name)?.kill("SIGKILL");
      await processes.get(name)?.stop();
    },
    startEndpoint: startServer,
    leader: async (stream) => (await info(stream)).cluster?.leader ?? null,
    async whole() {
      for (const { name } of streams) {
        await becomes(
          () => info(name).catch(() => null),
          (found) => {
            const replicas = found?.cluster?.replicas ?? [];
            return (
              replicas.length === 2 &&
              replicas.every(({ current, offline, lag }) => current === true && offline !== true && (lag ?? 0) < 100)
            );
          },
          { withinMs: slowMs, everyMs: 250, what: `all three copies of ${name} are up to date` },
        );
      }
    },
    async audit() {
      const all: Stored[] = [];
      for await (const stored of bus.read("AUDIT")) all.push(stored);
      return all;
    },
    async verify() {
      const env = { PATH: process.env["PATH"], HOME: process.env["HOME"], NATS_URL: cluster.url };
      const mcpf = join(root, "packages", "cli", "bin", "mcpf.mjs");
      const args = [mcpf, "--data-dir", dir.path, "events", "verify", "-o", "json"];
      return (await run(process.execPath, args, env, patientMs(slowMs))).json();
    },
    async stopPublishers() {
      publishing = false;
      await Promise.all(publishers.map(({ done }) => done));
    },
    logs: () => [...processes].map(([name, one]) => `--- ${name}\n${one.output().slice(-1500)}`).join("\n"),
    stop,
  };
}
