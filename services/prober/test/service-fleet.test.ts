import assert from "node:assert/strict";
import { test } from "node:test";
import { memorySeams } from "@mcp-failover/bus/internal";
import { makeEvent } from "@mcp-failover/contracts";
import { fleetFor, http, server, statusOf, until } from "./fleet-of-memory.ts";
import { answers, legacyServer, modernServer } from "./servers.ts";

test("two of three probers that reach the endpoint outvote the owner that does not", async (t) => {
  const fleet = await fleetFor(t);
  const fake = await server(t);
  const owners = new Set<string>();
  const blind = new Set<string>();
  // The probers are told apart by a header that carries each one's own secret.
  fake.handler = (request, response, body) => {
    const who = String(request.headers["x-who"]);
    if (request.headers.connection !== "close") owners.add(who);
    return (blind.has(who) ? answers.reset : answers.status(200))(request, response, body);
  };
  await fleet.configure({ api: http({ one: fake.url }, {}, { headers: { "x-who": { secret: "WHO" } } }) });
  const names = ["prober-a", "prober-b", "prober-c"];
  const probers = await Promise.all(names.map((name) => fleet.start(name, { secrets: { WHO: name } })));
  await until("healthy", async () => (await statusOf(fleet, "api", "one")) === "healthy");
  const ownedBy = await until("one owner", async () => {
    const counts = await Promise.all(probers.map((prober) => prober.metric("mcpf_prober_owned_endpoints")));
    return counts.filter((count) => count === 1).length === 1 ? names[counts.indexOf(1)] : null;
  });
  blind.add(ownedBy);
  const owner = probers[names.indexOf(ownedBy)];
  await until("three refused falls", async () => {
    const metric = await owner?.kit.registry.getSingleMetric("mcpf_prober_decisions_total")?.get();
    return (metric?.values.find(({ labels }) => labels["rule"] === "no_majority")?.value ?? 0) >= 3;
  });
  assert.equal(await statusOf(fleet, "api", "one"), "healthy");
  const second = names.find((name) => name !== ownedBy) as string;
  blind.add(second);
  await until("unhealthy", async () => (await statusOf(fleet, "api", "one")) === "unhealthy");
  const votes = (await fleet.health("api", "one")).at(-1)?.data.votes ?? [];
  assert.deepEqual(
    votes.map(({ observer, verdict }) => `${observer} ${verdict}`).sort(),
    names.map((name) => `${name} ${blind.has(name) ? "un" : ""}healthy`).sort(),
  );
});

test("endpoints spread over the live probers; a dead one's are taken over and probed at once, from the last word on", async (t) => {
  const fleet = await fleetFor(t);
  const fake = await server(t);
  const names = Array.from({ length: 12 }, (_, index) => `e${index}`);
  await fleet.configure({ api: http(Object.fromEntries(names.map((name) => [name, `${fake.url}/${name}`])), { interval_ms: 300 }) });
  const probers = [await fleet.start("p1"), await fleet.start("p2"), await fleet.start("p3")];
  await until("all healthy", async () =>
    (await Promise.all(names.map((name) => statusOf(fleet, "api", name)))).every((status) => status === "healthy"),
  );
  const owned = await Promise.all(probers.map((prober) => prober.metric("mcpf_prober_owned_endpoints")));
  assert.equal(
    owned.reduce((sum, count) => sum + count, 0),
    12,
  );
  assert.ok(
    owned.every((count) => count >= 1),
    owned.join(),
  );
  const [dead] = probers;
  // Its connection is cut: for the others it is dead, and it goes on probing what it had.
  memorySeams((dead as (typeof probers)[number]).bus).cut();
  const cutMs = Date.now();
  await until("taken over", async () => {
    const [, second, third] = await Promise.all(probers.map((prober) => prober.metric("mcpf_prober_owned_endpoints")));
    return (second ?? 0) + (third ?? 0) === 12;
  });
  await until(
    "all probed by the others",
    async () => {
      const fresh = (await fleet.observations()).filter(({ observer, startedAtMs }) => observer !== "p1" && startedAtMs > cutMs);
      return new Set(fresh.map(({ endpoint }) => endpoint)).size === 12;
    },
    2000,
  );
  for (const name of names) assert.equal((await fleet.health("api", name)).length, 1, "a take-over alone is no change");
  const before = (await dead?.metric("mcpf_prober_probes_total")) ?? 0;
  await until("it goes on probing without the bus", async () => ((await dead?.metric("mcpf_prober_probes_total")) ?? 0) >= before + 2);
});

test("a prober that leaves hands its endpoints over without waiting for its silence", async (t) => {
  const fleet = await fleetFor(t);
  const fake = await server(t);
  await fleet.configure({ api: http({ a: `${fake.url}/a`, b: `${fake.url}/b`, c: `${fake.url}/c`, d: `${fake.url}/d` }) });
  const slow = { heartbeatMs: 400, deadAfterMs: 60_000, settleMs: 150 };
  const leaving = await fleet.start("p1", { policy: slow });
  const staying = await fleet.start("p2", { policy: slow });
  await until(
    "shared",
    async () => (await leaving.metric("mcpf_prober_owned_endpoints")) + (await staying.metric("mcpf_prober_owned_endpoints")) === 4,
  );
  await leaving.stop();
  await until("taken over", async () => (await staying.metric("mcpf_prober_owned_endpoints")) === 4, 300);
});

test("every live prober answers probe.requested for any endpoint, at once and under the id of the request", async (t) => {
  const fleet = await fleetFor(t);
  const fake = await server(t);
  await fleet.configure({ api: http({ one: fake.url }, { interval_ms: 60_000 }) });
  for (const name of ["p1", "p2", "p3"]) await fleet.start(name);
  await until("healthy", async () => (await statusOf(fleet, "api", "one")) === "healthy");
  const event = makeEvent({
    type: "probe.requested",
    keys: [],
    id: "ask-1",
    service: "failover-controller",
    instance: "fc-1",
    timeMs: Date.now(),
    data: {
      requestId: "ask-1",
      targets: [
        { upstream: "api", endpoint: "one" },
        { upstream: "api", endpoint: "not-there" },
      ],
      purpose: "confirm",
      timeoutMs: 400,
      requestedBy: "fc-1",
    },
  });
  const replies: string[] = [];
  for await (const reply of fleet.bus.requestMany(event, { timeoutMs: 2000, max: 3 })) {
    assert.equal(reply.type, "probe.observed");
    if (reply.type === "probe.observed")
      replies.push(`${reply.data.observer} ${reply.data.observations.map(({ requestId, outcome }) => `${requestId} ${outcome}`)}`);
  }
  assert.deepEqual(replies.sort(), ["p1 ask-1 ok", "p2 ask-1 ok", "p3 ask-1 ok"]);
  await until(
    "in the log too",
    async () => (await fleet.observations()).filter(({ requestId }) => requestId === "ask-1").length === 3,
    1000,
  );
});

test("two probers that both think an endpoint is theirs say each change once", async (t) => {
  const fleet = await fleetFor(t);
  const fake = await server(t);
  await fleet.configure({ api: http({ one: fake.url }) });
  const probers = [await fleet.start("p1", { deaf: true }), await fleet.start("p2", { deaf: true })];
  await until("healthy", async () => (await statusOf(fleet, "api", "one")) === "healthy");
  await fake.kill();
  await until("unhealthy", async () => (await statusOf(fleet, "api", "one")) === "unhealthy");
  await fake.comeBack();
  await until("healthy", async () => (await statusOf(fleet, "api", "one")) === "healthy");
  await new Promise((resolve) => setTimeout(resolve, 500));
  assert.deepEqual(
    (await fleet.health("api", "one")).map(({ data }) => data.status),
    ["healthy", "unhealthy", "healthy"],
  );
  assert.ok((await Promise.all(probers.map((prober) => prober.metric("mcpf_prober_owned_endpoints")))).every((count) => count === 1));
});

test("MCP servers of both eras: healthy, and at the stop no session is left on any server", async (t) => {
  const fleet = await fleetFor(t);
  const legacy = await legacyServer();
  const modern = await modernServer();
  t.after(() => Promise.all([legacy.kill(), modern.kill()]));
  await fleet.configure({
    mcp: { ...http({ legacy: `${legacy.url}/mcp`, modern: `${modern.url}/mcp` }), kind: "mcp" },
  });
  const probers = [await fleet.start("p1"), await fleet.start("p2")];
  await until(
    "both healthy",
    async () => (await statusOf(fleet, "mcp", "legacy")) === "healthy" && (await statusOf(fleet, "mcp", "modern")) === "healthy",
  );
  legacy.sessions.clear();
  await new Promise((resolve) => setTimeout(resolve, 600));
  assert.equal((await fleet.health("mcp", "legacy")).length, 1, "a lost session is no change of health");
  for (const prober of probers) await prober.stop();
  assert.equal(legacy.sessions.size, 0);
  assert.ok(legacy.initialized >= 2 && legacy.initialized <= 4, `${legacy.initialized} sessions for two probers`);
});
