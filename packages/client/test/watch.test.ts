import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { connectBus, memoryBroker } from "@mcp-failover/bus";
import { jetStreamApi, memorySeams } from "@mcp-failover/bus/internal";
import { BreakerOpenError, ClientClosedError, connect, NoEndpointError, NotReadyError, type RouteChange } from "@mcp-failover/client";
import { streams } from "@mcp-failover/contracts";
import { strays } from "@mcp-failover/domain";
import { eventually, startNats, tempDir } from "@mcp-failover/testkit";
import { FleetView } from "../src/fleet-view.ts";
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

test("a handler that rejects later is reported too, and does not end the process", async () => {
  const errors: unknown[] = [];
  const { client } = await fleet.client({ onError: (error) => errors.push(error) });
  client.watchRoutes(async () => {
    await Promise.resolve();
    throw new Error("mine");
  });
  await eventually(() => errors.length === 2, { what: "both are reported" });
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

test("a cache file that is read later than the log replaces nothing", async () => {
  const dir = await tempDir("mcpf-client-");
  const cacheFile = join(dir.path, "routes.json");
  const first = await fleet.client({ cacheFile });
  await first.client.close();
  await fleet.moveTo("docs", "secondary", 1);
  const { client } = await fleet.client({ cacheFile });
  await until("epoch 1", () => client.route("docs").epoch === 1);
  // The file's turn has come by then.
  await sleep(200);
  assert.equal(client.route("docs").epoch, 1);
  await client.close();
  await dir.remove();
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

  const foreign = { type: "config.applied", data: { version: 9, environment: "production" } };
  await writeFile(cacheFile, JSON.stringify({ format: 1, events: [{ seq: 9, subject: "config.applied", timeMs: 1, event: foreign }] }));
  const misled = fleet.newClient({ cacheFile });
  memorySeams(misled.bus).cut();
  await assert.rejects(misled.client.ready(100), NotReadyError, "what is no event of ours is nothing to go by");
  await misled.client.close();

  await writeFile(cacheFile, "{ torn");
  const errors: unknown[] = [];
  const damaged = fleet.newClient({ cacheFile, onError: (error) => errors.push(error) });
  memorySeams(damaged.bus).cut();
  await assert.rejects(damaged.client.ready(100), NotReadyError);
  assert.equal(errors.length, 1);
  await damaged.client.close();
  await dir.remove();
});

test("an endpoint that comes back into the configuration is still forced open, because nobody says it again", async () => {
  const dir = await tempDir("mcpf-client-");
  const cacheFile = join(dir.path, "routes.json");
  const { client } = await fleet.client({ cacheFile });
  await fleet.breaker("docs", "primary", { status: "forced_open", generation: 3 });
  await fleet.health("docs", "primary", "unhealthy");
  const urls = (): unknown => client.configuration("docs").endpoints.map(({ name }) => name);
  const without = yaml.replace(/ +- \{ name: primary.*\n/, "");
  for (const [text, names] of [
    [without, ["secondary"]],
    [yaml, ["primary", "secondary"]],
  ] as const) {
    await fleet.configure(text);
    await until("configured", () => JSON.stringify(urls()) === JSON.stringify(names));
  }
  assert.equal(client.status().upstreams[0]?.endpoints[0]?.breaker, "forced_open");
  const told: string[] = [];
  client.watchHealth((health) => told.push(`${health.endpoint} ${health.status}`), { upstream: "docs" });
  assert.deepEqual(told, ["primary unhealthy"]);
  const reached = (of: typeof client) => of.execute("docs", ({ endpoint }) => endpoint.name, { readOnly: true });
  for (let call = 0; call < 3; call += 1) assert.equal(await reached(client), "secondary");
  await client.close();

  const later = fleet.newClient({ cacheFile });
  memorySeams(later.bus).cut();
  await later.client.ready(1000);
  assert.equal(await reached(later.client), "secondary");
  await later.client.close();
  await dir.remove();
});

test("what is known of endpoints that are not configured is bounded, and the oldest goes first", async () => {
  const view = new FleetView();
  let seq = 0;
  const bus = memoryBroker().connect();
  const said = Object.assign(new Fleet(), { bus });
  const of = (index: number): [string, string] => ["old", `e${index}`];
  for (let index = 0; index < strays.entriesMax + 5; index += 1) {
    await said.health(...of(index), "healthy");
    await said.breaker(...of(index), { status: "open", generation: 1 });
  }
  await said.configure(yaml);
  await said.health("docs", "primary", "healthy");
  for await (const { content, subject, timeMs } of bus.read("AUDIT")) {
    seq += 1;
    if (content.kind === "event") view.fold({ seq, subject, timeMs, event: content.event });
  }
  assert.deepEqual(
    view.healths.map(({ service }) => service),
    ["docs"],
  );
  assert.equal(view.health(...of(4)), null);
  assert.equal(view.breaker(...of(4)), null);
  assert.notEqual(view.health(...of(5)), null);
  assert.notEqual(view.breaker(...of(5)), null);
  assert.equal(view.kept.length, 2 * strays.entriesMax + 2);
  await bus.close();
});

test("a log made anew counts from its first configuration on, with the routes of the lost one until it decides higher", async () => {
  const nats = await startNats();
  const bus = connectBus({ servers: nats.url, name: "test", instance: "test" });
  await until("connected", () => bus.status.kind === "connected", 5000);
  await bus.ensureStreams(streams, { replicas: 1 });
  const old = Object.assign(new Fleet(), { bus });
  const client = connect({ servers: nats.url, name: "orders" });
  try {
    await old.configure(yaml);
    await old.configure(yaml.replace("2001", "2002"));
    await old.moveTo("docs", "secondary", 7);
    await old.breaker("solo", "only", { status: "forced_open", generation: 12 });
    await client.ready(10_000);
    const breaker = (): string | undefined => client.status().upstreams[1]?.endpoints[0]?.breaker;
    await until("all is known", () => breaker() === "forced_open" && client.route("docs").epoch === 7, 10_000);

    await jetStreamApi(bus, "STREAM.DELETE.AUDIT");
    await bus.ensureStreams(streams, { replicas: 1 });
    const fresh = Object.assign(new Fleet(), { bus });
    await fresh.health("solo", "only", "healthy");
    await fresh.configure(yaml.replace("2001", "2003"));
    const address = (): string => client.configuration("solo").endpoints[0]?.url ?? "";
    await until("the configuration of the new log", () => address() === "http://127.0.0.1:2003", 20_000);
    assert.equal(await client.execute("solo", ({ endpoint }) => endpoint.url), "http://127.0.0.1:2003");
    assert.equal(breaker(), "closed");
    assert.deepEqual([client.route("docs").endpoint.name, client.route("docs").epoch], ["secondary", 7]);
    assert.deepEqual([client.status().upstreams[0]?.active, client.status().upstreams[0]?.epoch], ["secondary", 7]);
    await fresh.breaker("solo", "only", { status: "open", generation: 1, openUntilMs: Date.now() + 3_600_000 });
    await fresh.moveTo("docs", "primary", 8);
    await until("what the new log says", () => breaker() === "open" && client.status().upstreams[0]?.epoch === 8, 10_000);
    assert.equal(client.route("docs").endpoint.name, "primary");
    await assert.rejects(
      client.execute("solo", () => 1),
      BreakerOpenError,
    );
  } finally {
    await client.close();
    await bus.close();
    await nats.stop();
  }
});

test("a log without a configuration does not end what was kept, and its first configuration does", async () => {
  const dir = await tempDir("mcpf-client-");
  const cacheFile = join(dir.path, "routes.json");
  await fleet.configure(yaml.replace("2001", "2002"));
  const first = await fleet.client({ cacheFile });
  await first.client.close();

  const fresh = new Fleet();
  const started = { generation: 1, timestamp: new Date().toISOString(), reason: "lost", by: { kind: "operator", id: "ada" } as const };
  await fresh.say("log.started", [], started, "bootstrap");
  const { client } = fresh.newClient({ cacheFile });
  await client.ready(2000);
  assert.equal(client.route("solo").endpoint.url, "http://127.0.0.1:2002");
  await fresh.configure(yaml.replace("2001", "2003"));
  await until("the configuration of the log", () => client.route("solo").endpoint.url === "http://127.0.0.1:2003");
  await fresh.stop();
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
