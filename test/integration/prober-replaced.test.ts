import assert from "node:assert/strict";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type Event, makeEvent } from "@mcp-failover/contracts";
import { until } from "../harness/wait.ts";
import { type ProberWorld, proberWorld, startProcess } from "./prober-world.ts";

const root = join(import.meta.dirname, "..", "..");
/** So many endpoints that each of three probers owns some, and speaks. */
const bystanders = Array.from({ length: 12 }, (_, index) => `other-${index}`);

type Decided = Event<"failover.decided">["data"];

/** Three probers and a controller that have spoken of `api`, whose primary answers. */
async function startWorld(t: { after(done: () => Promise<unknown>): void }) {
  const world = await proberWorld();
  t.after(() => world.stop());
  const by = { kind: "service", id: "test" } as const;
  const started = { generation: 1, timestamp: new Date().toISOString(), by, reason: "test" };
  await world.bus.appendFenced(
    makeEvent({ type: "log.started", keys: [], data: started, id: "start", service: "bootstrap", instance: "test", timeMs: Date.now() }),
    0,
  );
  const [primary, secondary] = [await serve(), await serve()];
  t.after(async () => [primary, secondary].forEach(end));
  const urlOf = (server: Server) => `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const probe = { interval_ms: 1000, timeout_ms: 1000 };
  const endpoints = [
    { name: "primary", url: urlOf(primary), tier: 0 },
    { name: "secondary", url: urlOf(secondary), tier: 1 },
  ];
  const others = bystanders.map((name) => [name, { kind: "http", probe, endpoints: [{ name: "only", url: urlOf(secondary), tier: 0 }] }]);
  await world.configure({ api: { kind: "http", probe, endpoints }, ...Object.fromEntries(others) });
  const controller = startProcess(process.execPath, [join(root, "services", "failover-controller", "src", "main.ts")], {
    NATS_URL: world.nats.url,
    MCPF_INSTANCE: "controller-1",
    MCPF_HEALTH_PORT: "0",
  });
  t.after(() => controller.stop());
  const decided: Decided[] = [];
  world.bus.follow("AUDIT", { from: { seq: 1 }, filter: "failover.decided.api" }, ({ content }) => {
    if (content.kind === "event" && content.event.type === "failover.decided") decided.push(content.event.data);
  });
  return { world, decided, dies: () => end(primary), output: () => controller.output() };
}

async function serve(): Promise<Server> {
  const server = createServer((_request, response) => void response.end("{}"));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return server;
}
function end(server: Server): void {
  server.close();
  server.closeAllConnections();
}

/** Three probers that have spoken, each of an endpoint of its own. */
async function startThree(world: ProberWorld, prefix: string) {
  const names = [1, 2, 3].map((number) => `${prefix}-${number}`);
  const probers = await Promise.all(names.map((name) => world.startProber(name)));
  const output = () => probers.map((prober) => prober.output()).join("\n");
  await until(() => names.every((name) => world.observations.some(({ observer }) => observer === name)), 20_000, output);
  await until(() => world.health.get("api/primary")?.status === "healthy" && world.health.size === bystanders.length + 2, 20_000, output);
  return { names, probers };
}

test("three probers that are replaced by three of other names in good order are no observers any more: the next failover comes in the usual time", {
  timeout: 120_000,
}, async (t) => {
  const { world, decided, dies, output } = await startWorld(t);
  const before = await startThree(world, "old");
  const after = await startThree(world, "new");
  assert.deepEqual(await Promise.all(before.probers.map((prober) => prober.stop())), [0, 0, 0]);
  // The last of theirs are probed by others from now on.
  await sleep(1500);
  const diedMs = Date.now();
  dies();
  await until(() => decided.length > 0, 15_000, output);
  const tookMs = Date.now() - diedMs;
  t.diagnostic(`decided ${tookMs} ms after the endpoint had died`);
  const { certificate, currentEndpoint } = decided[0] as Decided;
  const { evidence } = certificate.input as { evidence: Record<string, { observers: string[] }> };
  assert.equal(currentEndpoint, "secondary");
  assert.equal(certificate.rule, "majority_unhealthy");
  assert.deepEqual(
    evidence["primary"]?.observers,
    after.names.map((name) => `prober:${name}`),
  );
});

test("three probers that are replaced after they were killed count as silent: three of six move nothing", {
  timeout: 120_000,
}, async (t) => {
  const { world, decided, dies } = await startWorld(t);
  const before = await startThree(world, "old");
  await startThree(world, "new");
  for (const prober of before.probers) prober.kill("SIGKILL");
  await sleep(2500);
  dies();
  await until(() => world.health.get("api/primary")?.status === "unhealthy", 15_000);
  await sleep(4000);
  assert.deepEqual(decided, []);
});
