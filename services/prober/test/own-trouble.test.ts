import assert from "node:assert/strict";
import dns from "node:dns";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fleetFor, http, server, statusOf, until } from "./fleet-of-memory.ts";
import { answers, type FakeServer } from "./servers.ts";

const references = { probes: { reference_urls: ["https://reference.example"] } };
/** The server resets the requests of whoever is in `blind`; probers are told apart by a header that carries each one's own secret. */
function blinds(fake: FakeServer): Set<string> {
  const blind = new Set<string>();
  fake.handler = (request, response, body) =>
    (blind.has(String(request.headers["x-who"])) ? answers.reset : answers.status(200))(request, response, body);
  return blind;
}
const allButReferences = (url: string): boolean => !url.includes("reference.example");
const who = { headers: { "x-who": { secret: "WHO" } } };

test("a prober that reaches none of its references says so of itself, tells no failure, and others probe what was its own until it is well", async (t) => {
  const fleet = await fleetFor(t);
  const fake = await server(t);
  const blind = blinds(fake);
  const names = Array.from({ length: 8 }, (_, index) => `e${index}`);
  await fleet.configure({ api: http(Object.fromEntries(names.map((name) => [name, `${fake.url}/${name}`])), {}, who) }, references);
  let reaches = true;
  const cutOff = await fleet.start("p1", { secrets: { WHO: "p1" }, reaches: () => reaches });
  const other = await fleet.start("p2", { secrets: { WHO: "p2" } });
  await until("all healthy", async () =>
    (await Promise.all(names.map((name) => statusOf(fleet, "api", name)))).every((status) => status === "healthy"),
  );
  await until(
    "shared",
    async () => (await cutOff.metric("mcpf_prober_owned_endpoints")) > 0 && (await other.metric("mcpf_prober_owned_endpoints")) < 8,
  );
  reaches = false;
  blind.add("p1");
  await until("isolated", async () => (await cutOff.metric("mcpf_prober_isolated")) === 1);
  await until("taken over", async () => (await other.metric("mcpf_prober_owned_endpoints")) === 8);
  assert.equal(await cutOff.metric("mcpf_prober_owned_endpoints"), 0);
  const condition = cutOff.kit.readiness().conditions["network"];
  assert.deepEqual([condition?.ok, condition?.required], [false, false]);
  assert.match(condition?.reason ?? "", /none of https:\/\/reference\.example can be reached from here/);
  await sleep(600);
  const hard = (await fleet.observations()).filter(({ outcome }) => outcome === "hard");
  assert.deepEqual(hard, [], "no failure was told");
  for (const name of names)
    assert.deepEqual(
      (await fleet.health("api", name)).map(({ data }) => data.status),
      ["healthy"],
    );
  reaches = true;
  blind.clear();
  await until("shared again", async () => (await cutOff.metric("mcpf_prober_owned_endpoints")) > 0);
  assert.equal(await cutOff.metric("mcpf_prober_isolated"), 0);
});

test("a lone prober without network calls nothing unhealthy: what it cannot see becomes unknown", async (t) => {
  const fleet = await fleetFor(t);
  const fake = await server(t);
  let reaches = true;
  await fleet.configure({ api: http({ one: fake.url }) }, references);
  await fleet.start("p1", { reaches: () => reaches });
  await until("healthy", async () => (await statusOf(fleet, "api", "one")) === "healthy");
  reaches = false;
  await fake.kill();
  await until("unknown", async () => (await statusOf(fleet, "api", "one")) === "unknown");
  reaches = true;
  await until("now it is the target's", async () => (await statusOf(fleet, "api", "one")) === "unhealthy");
});

test("a reference that is down itself hides no failure of a target, as long as other targets answer", async (t) => {
  const fleet = await fleetFor(t);
  const [fake, well] = [await server(t), await server(t)];
  await fleet.configure({ api: http({ one: fake.url, two: well.url }) }, references);
  const prober = await fleet.start("p1", { reaches: allButReferences });
  await until(
    "healthy",
    async () => (await statusOf(fleet, "api", "one")) === "healthy" && (await statusOf(fleet, "api", "two")) === "healthy",
  );
  await fake.kill();
  await until("unhealthy", async () => (await statusOf(fleet, "api", "one")) === "unhealthy");
  assert.equal(await prober.metric("mcpf_prober_isolated"), 0);
});

test("with a reference that is down itself, a prober that owns nothing is not isolated, and its word is asked for", async (t) => {
  const fleet = await fleetFor(t);
  const fake = await server(t);
  const blind = blinds(fake);
  await fleet.configure({ api: http({ one: fake.url }, {}, who) }, references);
  const names = ["p1", "p2", "p3"];
  const probers = await Promise.all(names.map((name) => fleet.start(name, { secrets: { WHO: name }, reaches: allButReferences })));
  const isolated = () => Promise.all(probers.map((prober) => prober.metric("mcpf_prober_isolated")));
  await until("healthy", async () => (await statusOf(fleet, "api", "one")) === "healthy");
  await until("one owner", async () => {
    const counts = await Promise.all(probers.map((prober) => prober.metric("mcpf_prober_owned_endpoints")));
    return counts.filter((count) => count === 1).length === 1;
  });
  // The references have been tried by then, and are tried again while they fail.
  await sleep(600);
  assert.deepEqual(await isolated(), [0, 0, 0]);
  const owner = (await fleet.health("api", "one")).at(-1)?.data.prober ?? "";
  blind.add(owner);
  await until("the others were asked", async () =>
    (await fleet.observations()).some(({ purpose, observer, outcome }) => purpose === "confirm" && observer !== owner && outcome === "ok"),
  );
  await sleep(500);
  assert.deepEqual([await statusOf(fleet, "api", "one"), await isolated()], ["healthy", [0, 0, 0]]);
  for (const name of names) blind.add(name);
  await until("now it is the endpoint's", async () => (await statusOf(fleet, "api", "one")) === "unhealthy");
  assert.match((await fleet.health("api", "one")).at(-1)?.data.reason ?? "", /of 3 observers/);
});

test("whose own references fail needs the words of those, too, that call themselves isolated", async (t) => {
  const fleet = await fleetFor(t);
  const fake = await server(t);
  const blind = blinds(fake);
  await fleet.configure({ api: http({ one: fake.url }, {}, who) }, references);
  const cutOff = await Promise.all(["p1", "p3"].map((name) => fleet.start(name, { secrets: { WHO: name }, reaches: () => false })));
  for (const name of ["p1", "p3"]) blind.add(name);
  const lone = await fleet.start("p2", { secrets: { WHO: "p2" }, reaches: allButReferences });
  await until("two are isolated", async () => {
    const isolated = await Promise.all(cutOff.map((prober) => prober.metric("mcpf_prober_isolated")));
    return isolated.every((is) => is === 1) && (await lone.metric("mcpf_prober_owned_endpoints")) === 1;
  });
  await until("healthy", async () => (await statusOf(fleet, "api", "one")) === "healthy");
  blind.add("p2");
  await until("it has asked", async () =>
    (await fleet.observations()).some(({ purpose, outcome }) => purpose === "confirm" && outcome === "hard"),
  );
  await sleep(800);
  assert.deepEqual([await statusOf(fleet, "api", "one"), await lone.metric("mcpf_prober_isolated")], ["healthy", 0]);
});

test("what fails from one zone only is degraded with the zones of the votes, unhealthy once the other zone sees it too, and well by the zone's word", async (t) => {
  const fleet = await fleetFor(t);
  const fake = await server(t);
  const blind = blinds(fake);
  await fleet.configure({ api: http({ one: fake.url }, {}, who) });
  const zones = { "east-1": "east", "east-2": "east", "east-3": "east", "west-1": "west" };
  const probers = await Promise.all(
    Object.entries(zones).map(([name, zone]) => fleet.start(name, { secrets: { WHO: name }, config: { MCPF_ZONE: zone } })),
  );
  await until("healthy", async () => (await statusOf(fleet, "api", "one")) === "healthy");
  const ownedBy = await until("one owner", async () => {
    const counts = await Promise.all(probers.map((prober) => prober.metric("mcpf_prober_owned_endpoints")));
    return counts.filter((count) => count === 1).length === 1 ? Object.keys(zones)[counts.indexOf(1)] : null;
  });
  // The owner's zone is the one that goes blind, whichever it is.
  const zone = zones[ownedBy as keyof typeof zones];
  const inside = Object.keys(zones).filter((name) => zones[name as keyof typeof zones] === zone);
  for (const name of inside) blind.add(name);
  await until("degraded", async () => (await statusOf(fleet, "api", "one")) === "degraded");
  const told = (await fleet.health("api", "one")).at(-1)?.data;
  assert.match(told?.reason ?? "", new RegExp(`only from the zone ${zone} \\(${inside.length} there\\)`));
  assert.deepEqual(
    told?.votes.map(({ observer, zone: at, verdict }) => `${observer} ${at} ${verdict}`).sort(),
    Object.entries(zones).map(([name, at]) => `${name} ${at} ${at === zone ? "un" : ""}healthy`),
  );
  for (const name of Object.keys(zones)) blind.add(name);
  await until("unhealthy", async () => (await statusOf(fleet, "api", "one")) === "unhealthy");
  blind.clear();
  await until("healthy", async () => (await statusOf(fleet, "api", "one")) === "healthy");
});

test("in maintenance probes go on and health is told, with the window noted", async (t) => {
  const fleet = await fleetFor(t);
  const fake = await server(t);
  const window = { name: "upgrade", upstreams: ["api"], from: "2020-01-01T00:00:00Z", until: "2099-01-01T00:00:00Z", reason: "new disks" };
  await fleet.configure({ api: http({ one: fake.url }) }, { maintenance: [window] });
  await fleet.start("p1");
  await until("healthy", async () => (await statusOf(fleet, "api", "one")) === "healthy");
  await fake.kill();
  await until("unhealthy", async () => (await statusOf(fleet, "api", "one")) === "unhealthy");
  const told = (await fleet.health("api", "one")).at(-1)?.data;
  assert.deepEqual(told?.maintenance, { name: "upgrade", reason: "new disks", untilMs: Date.parse("2099-01-01T00:00:00Z") });
  assert.match(told?.reason ?? "", /in maintenance upgrade \(new disks\)$/);
  const before = (await fleet.observations()).length;
  await until("probes go on", async () => (await fleet.observations()).length > before + 2);
});

test("monitoring switched off for the environment: no regular probes are made, health becomes unknown", async (t) => {
  const fleet = await fleetFor(t);
  const fake = await server(t);
  const on = { development: { monitoring_enabled: true } };
  await fleet.configure({ api: http({ one: fake.url }) }, on);
  const prober = await fleet.start("p1");
  await until("healthy", async () => (await statusOf(fleet, "api", "one")) === "healthy");
  await fleet.configure({ api: http({ one: fake.url }) }, { development: { monitoring_enabled: false } });
  await until("unknown", async () => (await statusOf(fleet, "api", "one")) === "unknown");
  const before = await prober.metric("mcpf_prober_probes_total");
  await sleep(500);
  assert.equal(await prober.metric("mcpf_prober_probes_total"), before);
  await fleet.configure({ api: http({ one: fake.url }) }, on);
  await until("healthy again", async () => (await statusOf(fleet, "api", "one")) === "healthy");
});

test("a prober whose probes begin too late says that it cannot keep to its schedule, however well its event loop turns", async (t) => {
  const fleet = await fleetFor(t);
  const fake = await server(t);
  await fleet.configure({ api: http({ one: fake.url }) });
  // Every probe counts as late.
  const late = await fleet.start("p1", { policy: { lateMsMax: -1, lagMsMax: 60_000, conditionSamples: 1 } });
  await until("overloaded", async () => (await late.metric("mcpf_prober_overloaded")) === 1);
  const condition = late.kit.readiness().conditions["load"];
  assert.deepEqual([condition?.ok, condition?.required], [false, false]);
});

test("a prober whose machine has run out of ports or files says that it is overloaded, and nothing of its endpoints", async (t) => {
  const fleet = await fleetFor(t);
  t.mock.method(dns, "lookup", (_name: string, _options: object, told: (error: Error) => void) =>
    told(Object.assign(new Error("EADDRNOTAVAIL"), { code: "EADDRNOTAVAIL" })),
  );
  await fleet.configure({ api: http({ one: "http://endpoint.test:1" }) });
  const out = await fleet.start("p1", { policy: { lagMsMax: 60_000, lateMsMax: 60_000, conditionSamples: 1 } });
  await until("overloaded", async () => (await out.metric("mcpf_prober_overloaded")) === 1);
  assert.equal(out.kit.readiness().conditions["load"]?.ok, false);
  assert.ok((await out.metric("mcpf_prober_skipped_total")) > 0);
  assert.deepEqual([await fleet.observations(), await fleet.health("api", "one")], [[], []]);
});

test("a prober whose clock is set back an hour notices what dies afterwards: the grace after its start does not come back for that hour", async (t) => {
  const fleet = await fleetFor(t);
  const fake = await server(t);
  const dead = await server(t, 500);
  await fleet.configure({ api: http({ one: fake.url, two: dead.url }) });
  let clockAheadMs = 0;
  await fleet.start("p1", { clockAheadMs: () => clockAheadMs });
  await until("healthy", async () => (await statusOf(fleet, "api", "one")) === "healthy", 30_000);
  await until(
    "over is the grace, which waits for what is not proven",
    async () => (await statusOf(fleet, "api", "two")) === "unhealthy",
    30_000,
  );
  clockAheadMs = -3_600_000;
  fake.handler = answers.reset;
  await until("unhealthy", async () => (await statusOf(fleet, "api", "one")) === "unhealthy", 30_000);
});
