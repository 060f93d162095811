import assert from "node:assert/strict";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { until } from "../harness/wait.ts";
import { proberWorld } from "./prober-world.ts";

test("nats-server is killed and comes back: probers live on, tell what they saw, and decide once, on what is so by then", {
  timeout: 60_000,
}, async (t) => {
  const world = await proberWorld();
  t.after(() => world.stop());
  const requests: string[] = [];
  async function serve(port: number): Promise<Server> {
    const server = createServer((request, response) => {
      requests.push(request.url ?? "");
      response.end("{}");
    });
    await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
    t.after(() => server.close());
    return server;
  }
  const [staying, dying] = [await serve(0), await serve(0)];
  const portOf = (server: Server) => (server.address() as AddressInfo).port;
  const dyingPort = portOf(dying);
  const endpoints = [
    { name: "staying", url: `http://127.0.0.1:${portOf(staying)}/staying`, tier: 0 },
    { name: "dying", url: `http://127.0.0.1:${dyingPort}/dying`, tier: 1 },
  ];
  await world.configure({ api: { kind: "http", probe: { interval_ms: 500, timeout_ms: 1000 }, endpoints } });
  const probers = [await world.startProber("prober-1"), await world.startProber("prober-2")];
  const output = () => probers.map((prober) => prober.output()).join("\n");
  const statusOf = (name: string) => world.health.get(`api/${name}`)?.status;
  await until(() => statusOf("staying") === "healthy" && statusOf("dying") === "healthy", 15_000, output);
  for (const prober of probers) await until(async () => (await prober.readyz()) === "ready", 8000);

  await world.nats.kill();
  await sleep(500);
  const outageMs = Date.now();
  dying.close();
  dying.closeAllConnections();
  const before = requests.length;
  await sleep(2500);
  assert.ok(requests.length >= before + 3, "it is probed on without the bus");
  for (const prober of probers) assert.equal(await prober.readyz(), "degraded");
  await world.nats.restart();
  const backMs = Date.now();
  await until(() => statusOf("dying") === "unhealthy", 10_000, output);
  const told = world.said.filter(({ endpoint }) => endpoint === "dying");
  assert.deepEqual(
    told.map(({ status }) => status),
    ["healthy", "unhealthy"],
  );
  assert.ok(Date.parse(told[1]?.timestamp ?? "") >= backMs - 100, "decided after the outage, not during it");
  assert.equal(told[1]?.votes.length, 2, "both were asked");
  await until(
    () =>
      world.observations.some(
        ({ endpoint, outcome, startedAtMs }) =>
          endpoint === "dying" && outcome === "hard" && startedAtMs > outageMs && startedAtMs < backMs,
      ),
    5000,
  );
  await serve(dyingPort);
  await until(() => statusOf("dying") === "healthy", 3000, output);
  assert.equal(world.said.filter(({ endpoint }) => endpoint === "staying").length, 1);
  for (const prober of probers) assert.equal(await prober.stop(), 0);
});
