import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { connectBus, memoryBroker } from "@mcp-failover/bus";
import { memorySeams } from "@mcp-failover/bus/internal";
import { ClientClosedError, connect, NoEndpointError, NotReadyError, type RouteChange } from "@mcp-failover/client";
import { streams } from "@mcp-failover/contracts";
import { startNats, tempDir } from "@mcp-failover/testkit";
import { Fleet, until, yaml } from "./fleet.ts";

let fleet: Fleet;
beforeEach(async () => {
  fleet = await Fleet.start();
});
afterEach(() => fleet.stop());

test("watchHealth begins with how it stands, then tells every change: of all upstreams, or of one", async () => {
  await fleet.health("docs", "primary", "healthy");
  const { client } = await fleet.client();
  const all: string[] = [];
  const docs: string[] = [];
  client.watchHealth((health) => all.push(`${health.service}/${health.endpoint} ${health.status}`));
  const watching = client.watchHealth((health) => docs.push(`${health.endpoint} ${health.status}`), { upstream: "docs" });
  assert.deepEqual([all, docs], [["docs/primary healthy"], ["primary healthy"]]);
  await fleet.health("solo", "only", "unhealthy");
  await fleet.health("docs", "primary", "unhealthy");
  await until("told", () => all.length === 3);
  assert.deepEqual(all.slice(1), ["solo/only unhealthy", "docs/primary unhealthy"]);
  assert.deepEqual(docs, ["primary healthy", "primary unhealthy"]);
  watching.stop();
  await fleet.health("docs", "primary", "healthy");
  await until("told", () => all.length === 4);
  assert.equal(docs.length, 2);
});

test("a handler that throws is reported, and neither stops other handlers nor the client", async () => {
  const errors: unknown[] = [];
  const { client } = await fleet.client({ onError: (error) => errors.push(error) });
  const heard: string[] = [];
  client.watchRoutes(() => {
    throw new Error("mine");
  });
  client.watchRoutes((route) => heard.push(route.upstream));
  assert.deepEqual(heard, ["docs", "solo"]);
  assert.equal(errors.length, 2);
});

test("watchRoutes begins with how they stand, then tells every move, also those of a new configuration", async () => {
  const { client } = fleet.newClient();
  const routes: RouteChange[] = [];
  client.watchRoutes((route) => routes.push(route));
  await client.ready();
  assert.deepEqual(
    routes.map(({ upstream, endpoint, previous }) => [upstream, endpoint.name, previous]),
    [
      ["docs", "primary", null],
      ["solo", "only", null],
    ],
  );
  await fleet.moveTo("docs", "secondary", 1);
  await until("moved", () => routes.length === 3);
  const { endpoint, epoch, previous, reason } = routes[2] ?? assert.fail();
  assert.deepEqual([endpoint, epoch, previous, reason], [{ name: "secondary", url: "http://127.0.0.1:1002" }, 1, "primary", "test"]);
  await fleet.configure(yaml.replace("2001", "2002"));
  await until("a new address", () => routes.length === 4);
  assert.deepEqual(routes[3]?.endpoint, { name: "only", url: "http://127.0.0.1:2002" });
});

test("status has the shape of `mcpf status` for what a client knows", async () => {
  await fleet.health("docs", "secondary", "healthy");
  const { client } = await fleet.client();
  const status = client.status();
  assert.equal(status.connected, true);
  assert.deepEqual(
    status.upstreams.map(({ name, active, epoch, endpoints }) => [
      name,
      active,
      epoch,
      endpoints.map(({ name, health, breaker }) => [name, health, breaker]),
    ]),
    [
      [
        "docs",
        "primary",
        0,
        [
          ["primary", "unknown", "closed"],
          ["secondary", "healthy", "closed"],
        ],
      ],
      ["solo", "only", 0, [["only", "unknown", "closed"]]],
    ],
  );
  assert.deepEqual(status.rollback, { system: "mcp", agents: {}, tools: {} });
});

test("an upstream that is not configured is an error that names those that are, never a fallback", async () => {
  const { client } = await fleet.client();
  await assert.rejects(
    client.execute("dosc", () => 1, { fallback: () => 2 }),
    /no upstream "dosc" is configured; known: docs, solo/,
  );
});

test("before the log was ever read calls fail with a typed error, and ready() says why", async () => {
  const bus = memoryBroker().connect();
  memorySeams(bus).cut();
  const client = connect({ bus, name: "early" });
  await assert.rejects(
    client.execute("docs", () => 1),
    NoEndpointError,
  );
  assert.throws(() => client.route("docs"), NoEndpointError);
  await assert.rejects(client.ready(20), NotReadyError);
  await client.close();
  await assert.rejects(
    client.execute("docs", () => 1),
    ClientClosedError,
  );
  await bus.close();
});

test("with a cache file a client starts without NATS on the routes of the last run, and a damaged file is none", async () => {
  const dir = await tempDir("mcpf-client-");
  const cacheFile = join(dir.path, "kept", "routes.json");
  const first = await fleet.client({ cacheFile });
  await fleet.moveTo("docs", "secondary", 3);
  await until("epoch 3", () => first.client.route("docs").epoch === 3);
  await first.client.close();
  assert.ok(existsSync(cacheFile));

  const later = fleet.newClient({ cacheFile });
  memorySeams(later.bus).cut();
  await later.client.ready(1000);
  assert.equal(await later.client.execute("docs", ({ endpoint, epoch }) => `${endpoint.name} ${epoch}`), "secondary 3");
  const routes: RouteChange[] = [];
  later.client.watchRoutes((route) => routes.push(route));
  await fleet.moveTo("docs", "primary", 4);
  memorySeams(later.bus).restore();
  await until("what the log says now", () => later.client.route("docs").epoch === 4);
  assert.deepEqual(
    routes.map(({ upstream, epoch }) => `${upstream} ${epoch}`),
    ["docs 3", "solo 0", "docs 4"],
  );
  await later.client.close();

  await writeFile(cacheFile, "{ torn");
  const errors: unknown[] = [];
  const damaged = fleet.newClient({ cacheFile, onError: (error) => errors.push(error) });
  memorySeams(damaged.bus).cut();
  await assert.rejects(damaged.client.ready(100), NotReadyError);
  assert.equal(errors.length, 1);
  await damaged.client.close();
  await dir.remove();
});

test("on a real nats-server: connect by address, read the log, move with a failover", async () => {
  const nats = await startNats();
  const bus = connectBus({ servers: nats.url, name: "test", instance: "test" });
  await until("connected", () => bus.status.kind === "connected", 5000);
  await bus.ensureStreams(streams, { replicas: 1 });
  const real = Object.assign(new Fleet(), { bus });
  const client = connect({ servers: nats.url, name: "orders" });
  try {
    await real.configure(yaml);
    await client.ready(5000);
    assert.equal(await client.execute("docs", ({ endpoint }) => endpoint.name), "primary");
    await real.moveTo("docs", "secondary", 1);
    await until("epoch 1", () => client.route("docs").epoch === 1);
    assert.equal(await client.execute("docs", ({ endpoint }) => endpoint.name), "secondary");
  } finally {
    await client.close();
    await bus.close();
    await nats.stop();
  }
});
