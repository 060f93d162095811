import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { attemptOf, describe, ok, play, refused, start, until, warehouse } from "./fixture.ts";

test("K2: before any decision the first write endpoint of the lowest tier is active, at epoch 0 and in the log's generation", async (t) => {
  const { control } = await start(t);
  const view = control.upstream("warehouse");
  assert.deepEqual([view?.active, view?.epoch, view?.generation], ["primary", 0, 1]);
  assert.equal(control.upstream("nothing"), null);
  assert.deepEqual(control.ready(), { ok: true, reason: "routes are those of the log" });
});

test("a decision is applied at once, said to those who listen, and reported to the fleet with its event's id", async (t) => {
  const fixture = await start(t);
  await until("the first word of the router, after which it is silent for two seconds", () => fixture.traffic.length > 0);
  const told: string[] = [];
  const stop = fixture.control.onRouteChange((upstream) => told.push(upstream));
  await fixture.move("warehouse", "secondary", 1);
  const view = fixture.control.upstream("warehouse");
  assert.deepEqual([view?.active, view?.epoch], ["secondary", 1]);
  assert.deepEqual(told, ["warehouse"]);
  await until(
    "the router says that it has applied epoch 1",
    () => fixture.traffic.some(({ routes }) => routes["warehouse"]?.epoch === 1),
    200,
  );
  const held = fixture.traffic.at(-1)?.routes["warehouse"];
  assert.equal(held?.active, "secondary");
  assert.match(held?.eventId ?? "", /^test-/);
  stop();
  await fixture.move("warehouse", "primary", 2);
  assert.deepEqual(told, ["warehouse"], "a listener that stopped is not told");
});

test("K1: an older epoch, an equal one and one of an older generation are never applied", async (t) => {
  const fixture = await start(t);
  await fixture.move("warehouse", "secondary", 5);
  await fixture.move("warehouse", "primary", 4);
  await fixture.move("warehouse", "primary", 5);
  assert.equal(fixture.control.upstream("warehouse")?.active, "secondary");
  await fixture.move("warehouse", "primary", 1, { generation: 2 });
  assert.equal(fixture.control.upstream("warehouse")?.active, "primary");
  await fixture.move("warehouse", "secondary", 9, { generation: 1 });
  assert.equal(fixture.control.upstream("warehouse")?.active, "primary");
});

test("K1: a rollback of an older epoch is never applied", async (t) => {
  const fixture = await start(t, { yaml: legacyWarehouse });
  await fixture.rollback("tool", "get_inventory", 0, 3);
  await fixture.rollback("tool", "get_inventory", 100, 2);
  assert.equal(fixture.control.begin(describe(fixture)).implementation, "legacy");
  await fixture.rollback("tool", "get_inventory", 100, 4);
  assert.equal(fixture.control.begin(describe(fixture)).implementation, "mcp");
});

const legacyWarehouse = warehouse.replace(
  "get_inventory: { read_only: true }",
  "get_inventory: { read_only: true, legacy: { url: 'http://127.0.0.1:3/inventory' } }",
);

test("a rollback of the tool, the agent or the system sends a call to legacy, and a tool without legacy stays on MCP", async (t) => {
  const fixture = await start(t, { yaml: legacyWarehouse });
  const of = (given: object) => fixture.control.begin(describe(fixture, given)).implementation;
  await fixture.rollback("agent", "picker", 0, 1);
  assert.equal(of({ agent: "picker" }), "legacy");
  assert.equal(of({ agent: "packer" }), "mcp");
  await fixture.rollback("system", "system", 0, 1);
  assert.equal(of({}), "legacy");
  assert.equal(of({ tool: "set_stock" }), "mcp");
  await until("the epochs are reported", () => fixture.traffic.at(-1)?.rollbacks["system/system"] === 1);
});

test("of a log made anew only a decision above the kept one is obeyed, and till then the other log's is what is reported", async (t) => {
  const old = await start(t, { yaml: legacyWarehouse });
  await old.rollback("tool", "get_inventory", 0, 3);
  await until("it is reported", () => old.traffic.at(-1)?.rollbacks["tool/get_inventory"] === 3);
  const id = old.traffic.at(-1)?.rollbackIds?.["tool/get_inventory"];
  await old.control.stop();
  const fresh = await start(t, { yaml: legacyWarehouse, dataDir: old.dataDir });
  // Ids of this log that no event of the other one has.
  for (let count = 0; count < 20; count += 1) await fresh.move("warehouse", "secondary", count + 1);
  const reported = () => {
    const { rollbacks, rollbackIds } = fresh.traffic.at(-1) ?? {};
    return [rollbacks?.["tool/get_inventory"], rollbackIds?.["tool/get_inventory"]];
  };
  const serves = () => fresh.control.begin(describe(fresh)).implementation;
  for (const epoch of [1, 2, 3]) await fresh.rollback("tool", "get_inventory", 100, epoch);
  await until("it reports", () => fresh.traffic.at(-1)?.routes["warehouse"]?.epoch === 20);
  assert.deepEqual([serves(), reported()], ["legacy", [3, id]]);
  await fresh.rollback("tool", "get_inventory", 100, 4);
  await until("the decision of this log is reported", () => reported()[0] === 4);
  assert.equal(serves(), "mcp");
  assert.notEqual(reported()[1], id);
});

test("a ramp of 25 % sends about a quarter of the calls to MCP", async (t) => {
  const fixture = await start(t, { yaml: legacyWarehouse });
  await fixture.rollback("tool", "get_inventory", 25, 1);
  const sides = Array.from({ length: 4000 }, () => fixture.control.begin(describe(fixture)).implementation);
  const share = sides.filter((side) => side === "mcp").length / sides.length;
  assert.ok(Math.abs(share - 0.25) < 0.03, String(share));
});

test("legacy_mode of the environment sends every tool that has a legacy implementation to it", async (t) => {
  const fixture = await start(t, { yaml: `${legacyWarehouse}\ndevelopment: { legacy_mode: true }\n` });
  assert.equal(fixture.control.begin(describe(fixture)).implementation, "legacy");
  assert.equal(fixture.control.begin(describe(fixture, { tool: "set_stock" })).implementation, "mcp");
});

test("a new configuration is applied without a restart, and endpoints that stay keep what was learned of them", async (t) => {
  const fixture = await start(t);
  const call = fixture.control.begin(describe(fixture));
  (await attemptOf(call)).done(refused);
  await fixture.configure(
    `${warehouse}\n  other:\n    kind: http\n    endpoints: [{ name: one, url: "http://127.0.0.1:9", tier: 0 }]\n`.replace(
      '/mcp", tier: 1',
      '/moved", tier: 1',
    ),
  );
  assert.deepEqual(fixture.control.upstreams(), ["warehouse", "other"]);
  assert.equal(fixture.control.upstream("warehouse")?.endpoints[1]?.url, "http://127.0.0.1:2/moved");
  assert.deepEqual(await play(fixture.control.begin(describe(fixture)), () => ok), ["secondary"], "the refusal is remembered");
  await fixture.configure(warehouse);
  assert.deepEqual(fixture.control.upstreams(), ["warehouse"]);
});

test("the names and origins that clients may use come from the configuration in force", async (t) => {
  const fixture = await start(t, {
    yaml: `${warehouse}router: { public_urls: ["https://Router.example.com:7300/x"], allowed_hosts: [Agents.internal], allowed_origins: ["https://console.example.com"] }\n`,
  });
  assert.deepEqual(fixture.control.access?.(), {
    hosts: ["agents.internal", "router.example.com"],
    origins: ["https://console.example.com"],
  });
  await fixture.configure(warehouse);
  assert.deepEqual(fixture.control.access?.(), { hosts: [], origins: [] });
});

test("K3: a configuration that does not parse leaves the last good one in force", async (t) => {
  const fixture = await start(t);
  const data = { version: 9, hash: "x", fileHash: null, timestamp: "2026-01-01T00:00:00.000Z", by: { kind: "operator", id: "x" } as const };
  await fixture.say("config.applied", [], { ...data, reason: "", environment: "production", topology: { upstreams: { bad: {} } } });
  assert.deepEqual(fixture.control.upstreams(), ["warehouse"]);
  await fixture.move("warehouse", "secondary", 1);
  assert.equal(fixture.control.upstream("warehouse")?.active, "secondary", "and decisions are applied under it");
});

test("C2: without NATS calls go on by the last known routes, and readiness says so", async (t) => {
  const fixture = await start(t);
  await fixture.move("warehouse", "secondary", 1);
  fixture.cut();
  assert.deepEqual(await play(fixture.control.begin(describe(fixture)), () => ok), ["secondary"]);
  assert.deepEqual(await play(fixture.control.begin(describe(fixture, { tool: "write" })), () => ok), ["secondary"]);
  const { ok: serving, reason } = fixture.control.ready();
  assert.ok(serving);
  assert.match(reason, /out of reach .* last known routes/);
  fixture.restore();
  await fixture.move("warehouse", "primary", 2);
  assert.equal(fixture.control.upstream("warehouse")?.active, "primary");
});

test("C2: restarted without NATS it serves on the routes kept on disk: topology, route, health, breakers and rollbacks", async (t) => {
  const fixture = await start(t, { yaml: legacyWarehouse });
  await fixture.move("warehouse", "secondary", 7);
  await fixture.rollback("agent", "picker", 0, 1);
  await fixture.breaker("warehouse", "primary", { status: "forced_open" });
  await fixture.control.stop();
  const control = await fixture.again({ cut: true });
  const view = control.upstream("warehouse");
  assert.deepEqual([view?.active, view?.epoch], ["secondary", 7]);
  assert.equal(control.begin(describe(fixture, { agent: "picker" })).implementation, "legacy");
  assert.deepEqual(await play(control.begin(describe(fixture)), () => refused), ["secondary"], "primary is still forced open");
  assert.match(control.ready().reason, /routes kept on disk/);
  assert.equal(control.ready().ok, true);
});

test("C2: a damaged file is no route, and a start with neither log nor file says that nothing is known", async (t) => {
  const fixture = await start(t);
  await fixture.control.stop();
  const file = join(fixture.dataDir, "router", "router-1.json");
  const whole = await readFile(file, "utf8");
  await writeFile(file, whole.replace('"format":1', '"format":2'));
  const other = await fixture.again({ cut: true });
  assert.deepEqual(other.upstreams(), [], "a file of another format");
  await other.stop();
  await writeFile(file, whole.slice(0, -40));
  const control = await fixture.again({ cut: true });
  assert.deepEqual(control.upstreams(), []);
  assert.equal(control.ready().ok, false);
  const call = control.begin(describe(fixture));
  assert.equal(await call.next(), null);
  assert.equal(call.problem().code, "unknown_upstream");
});

test("C2: a route kept on disk gives way to a newer one of the log, and stays when the log knows only older ones", async (t) => {
  const fixture = await start(t);
  await fixture.move("warehouse", "secondary", 2);
  await fixture.control.stop();
  await fixture.move("warehouse", "primary", 3);
  const newer = await fixture.again();
  assert.deepEqual([newer.upstream("warehouse")?.active, newer.upstream("warehouse")?.epoch], ["primary", 3]);
  await newer.stop();
  const other = await start(t, { dataDir: fixture.dataDir });
  assert.deepEqual(other.control.upstream("warehouse")?.epoch, 3, "a log that was lost cannot take a route back");
});

test("writes on a route older than max_stale, with the log away, are served and said to be stale; reads are not", async (t) => {
  const fixture = await start(t);
  fixture.cut();
  assert.equal(fixture.control.begin(describe(fixture, { tool: "write" })).stale, false);
  fixture.clock.nowMs += 11 * 60_000;
  const write = fixture.control.begin(describe(fixture, { tool: "write" }));
  assert.equal(write.stale, true);
  assert.deepEqual(await play(write, () => ok), ["primary"]);
  assert.equal(fixture.control.begin(describe(fixture)).stale, false);
  fixture.restore();
  assert.equal(fixture.control.begin(describe(fixture, { tool: "write" })).stale, false);
});

test("an active endpoint that is not configured any more gives way to the rule of epoch 0 until the fleet decides", async (t) => {
  const fixture = await start(t);
  await fixture.move("warehouse", "secondary", 1);
  await fixture.configure(warehouse.replace(/ {6}- \{ name: secondary.*\n/, ""));
  assert.equal(fixture.control.upstream("warehouse")?.active, "primary");
  assert.deepEqual(await play(fixture.control.begin(describe(fixture, { tool: "write" })), () => ok), ["primary"]);
});
