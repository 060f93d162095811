import { createServer } from "node:net";
import { join } from "node:path";
import { type Bus, connectBus } from "@mcp-failover/bus";
import { hashOf, makeEvent, streams, subjectFor, topology } from "@mcp-failover/contracts";
import { freePort, type RunningServer, startNats, tempDir } from "@mcp-failover/testkit";
import { until } from "../harness/wait.ts";
import { startProcess } from "./prober-world.ts";

const root = join(import.meta.dirname, "..", "..");
const everythingMain = join(root, "node_modules", "@modelcontextprotocol", "server-everything", "dist", "index.js");

type Process = ReturnType<typeof startProcess>;

/** Router processes on one port with a real nats-server and real upstreams; routes are moved by the test itself. */
export interface RouterWorld {
  readonly bus: Bus;
  readonly nats: RunningServer;
  readonly url: string;
  readonly routers: Process[];
  configure(config: { upstreams: Record<string, unknown>; [key: string]: unknown }): Promise<void>;
  /** Says `failover.decided`, as a controller would. */
  move(upstream: string, from: string, to: string): Promise<void>;
  startRouter(instance: string, env?: Record<string, string>): Promise<Process>;
  /** Another service of the fleet, for tests that leave the decisions to it. */
  startService(service: string, instance: string, env?: Record<string, string>): Promise<Process>;
  /** A real server-everything; `port` to start one again where it was. */
  startEverything(port?: number): Promise<Process & { readonly url: string; readonly port: number }>;
  stop(): Promise<void>;
}

/**
 * The first of two free ports side by side: a second worker has the next one for its health. Below the ports that the system gives to
 * connections, of which a test makes hundreds.
 */
async function freePair(): Promise<number> {
  for (let attempt = 0; attempt < 100; attempt += 1) {
    const port = 10_000 + 2 * Math.floor(Math.random() * 7800);
    if ((await isFree(port)) && (await isFree(port + 1))) return port;
  }
  throw new Error("no two free ports side by side on 127.0.0.1 after 100 tries");
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}

/** Says what bootstrap and a controller would; whoever uses it is the only one on this bus that does. */
export function decisionsOn(bus: Bus): Pick<RouterWorld, "configure" | "move"> {
  const by = { kind: "operator" as const, id: "test" };
  let version = 0;
  let epoch = 0;
  return {
    async configure(config) {
      const parsed = topology.parse(config);
      const seq = (await bus.lastOf("AUDIT", subjectFor("config.applied")))?.seq ?? 0;
      version += 1;
      const data = {
        version,
        hash: hashOf(parsed),
        fileHash: null,
        timestamp: new Date().toISOString(),
        by,
        reason: "test",
        environment: "development" as const,
        topology: parsed,
      };
      await bus.appendFenced(
        makeEvent({
          type: "config.applied",
          keys: [],
          id: `config-${version}`,
          service: "bootstrap",
          instance: "test",
          timeMs: Date.now(),
          data,
        }),
        seq,
      );
    },
    async move(upstream, from, to) {
      const seq = (await bus.lastOf("AUDIT", subjectFor("failover.decided", upstream)))?.seq ?? 0;
      epoch += 1;
      const nowMs = Date.now();
      const data = {
        service: upstream,
        action: "moved" as const,
        previousEndpoint: from,
        currentEndpoint: to,
        timestamp: new Date(nowMs).toISOString(),
        automatic: false,
        by,
        reason: "test",
        commandId: null,
        overrode: [],
        state: { generation: 1, epoch, active: to, tier: 0, sinceMs: nowMs, held: null, moves: [] },
        certificate: {
          decider: "test",
          rule: "test",
          policyHash: "0",
          nowMs,
          folded: { AUDIT: null, SIGNALS: null },
          input: {},
          rejected: [],
        },
      };
      await bus.appendFenced(
        makeEvent({
          type: "failover.decided",
          keys: [upstream],
          id: `move-${upstream}-${epoch}`,
          service: "failover-controller",
          instance: "test",
          timeMs: nowMs,
          data,
        }),
        seq,
      );
    },
  };
}

export async function routerWorld(): Promise<RouterWorld> {
  const nats = await startNats();
  const dir = await tempDir();
  const bus = connectBus({ servers: nats.url, name: "test/router-world", instance: "test" });
  await until(() => bus.status.kind === "connected", 5000);
  await bus.ensureStreams(streams, { replicas: 1 });
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const processes: Process[] = [];
  const routers: Process[] = [];
  const startService: RouterWorld["startService"] = async (service, instance, env = {}) => {
    const healthPort = await freePair();
    const started = startProcess(process.execPath, [join(root, "services", service, "src", "main.ts")], {
      NATS_URL: nats.url,
      MCPF_INSTANCE: instance,
      MCPF_DATA_DIR: dir.path,
      MCPF_HEALTH_PORT: String(healthPort),
      ...env,
    });
    processes.push(started);
    await until(
      async () => (await fetch(`http://127.0.0.1:${healthPort}/readyz`)).ok,
      30_000,
      () => `${instance} did not get ready: ${started.output()}`,
    );
    return started;
  };

  return {
    startService,
    bus,
    nats,
    url,
    routers,
    ...decisionsOn(bus),
    async startRouter(instance, env = {}) {
      const router = await startService("router", instance, { MCPF_ROUTER_PORT: String(port), ...env });
      routers.push(router);
      return router;
    },
    async startEverything(given) {
      const ownPort = given ?? (await freePort());
      const server = startProcess(
        process.execPath,
        ["--import", join(root, "examples", "local", "loopback-only.mjs"), everythingMain, "streamableHttp"],
        { PORT: String(ownPort) },
      );
      processes.push(server);
      const serverUrl = `http://127.0.0.1:${ownPort}/mcp`;
      await until(
        async () => (await fetch(serverUrl, { headers: { accept: "text/event-stream" } })).status === 400,
        15_000,
        () => `server-everything did not start: ${server.output()}`,
      );
      return { ...server, url: serverUrl, port: ownPort };
    },
    async stop() {
      for (const process of processes.reverse()) process.kill("SIGKILL");
      for (const process of processes) await process.stop();
      await bus.close();
      await nats.stop();
      await dir.remove();
    },
  };
}
