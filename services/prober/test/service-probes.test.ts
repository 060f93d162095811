import assert from "node:assert/strict";
import { test } from "node:test";
import { freePort } from "@mcp-failover/testkit";
import { fleetFor, http, server, statusOf, until } from "./fleet-of-memory.ts";

const quick = { interval_ms: 200, timeout_ms: 300 };

test("an assertion that degrades makes the endpoint degraded, with expected and seen in the log", async (t) => {
  const fleet = await fleetFor(t);
  const fake = await server(t);
  let state = "green";
  fake.handler = (_request, response) => response.writeHead(200).end(JSON.stringify({ state }));
  await fleet.configure({
    api: http({ one: fake.url }, { expect: [{ of: "json", path: "$.state", equals: "green", severity: "degraded" }] }),
  });
  await fleet.start("p1");
  await until("healthy", async () => (await statusOf(fleet, "api", "one")) === "healthy");
  state = "yellow";
  await until("degraded", async () => (await statusOf(fleet, "api", "one")) === "degraded");
  const seen = (await fleet.observations()).filter(({ degraded }) => degraded);
  assert.deepEqual(
    [seen[0]?.outcome, seen[0]?.degraded],
    ["ok", { code: "assertion", detail: 'JSON $.state: expected "green"; saw "yellow"' }],
  );
  state = "green";
  await until("healthy again", async () => (await statusOf(fleet, "api", "one")) === "healthy");
});

test("an assertion that is hard takes the endpoint down after its three failures, with the reason in health.changed", async (t) => {
  const fleet = await fleetFor(t);
  const fake = await server(t);
  let state = "green";
  fake.handler = (_request, response) => response.writeHead(200).end(JSON.stringify({ state }));
  await fleet.configure({ api: http({ one: fake.url }, { expect: [{ of: "json", path: "$.state", equals: "green" }] }) });
  await fleet.start("p1");
  await until("healthy", async () => (await statusOf(fleet, "api", "one")) === "healthy");
  state = "red";
  await until("unhealthy", async () => (await statusOf(fleet, "api", "one")) === "unhealthy");
  const last = (await fleet.health("api", "one")).at(-1)?.data;
  assert.equal(last?.error, 'JSON $.state: expected "green"; saw "red"');
});

test("an endpoint that reports itself is healthy while it does, whichever prober it tells, and down when it falls silent", async (t) => {
  const fleet = await fleetFor(t);
  const port = await freePort();
  const secrets = { BEAT: "beat-token" };
  const probe = { ...quick, type: "heartbeat", heartbeat: { max_age_ms: 600, token: { secret: "BEAT" } } };
  await fleet.configure({ batch: { kind: "http", probe, endpoints: [{ name: "worker", url: "http://127.0.0.1:9/none", tier: 0 }] } });
  await fleet.start("p1", { secrets, config: { MCPF_REPORT_PORT: port } });
  await fleet.start("p2", { secrets });
  const beat = setInterval(() => {
    void fetch(`http://127.0.0.1:${port}/report/batch/worker`, { method: "POST", headers: { authorization: "Bearer beat-token" } }).then(
      (answer) => assert.equal(answer.status, 204),
    );
  }, 150);
  t.after(() => clearInterval(beat));
  await until("healthy", async () => (await statusOf(fleet, "batch", "worker")) === "healthy");
  await new Promise((resolve) => setTimeout(resolve, 700));
  assert.equal(await statusOf(fleet, "batch", "worker"), "healthy");
  clearInterval(beat);
  await until("unhealthy", async () => (await statusOf(fleet, "batch", "worker")) === "unhealthy");
  const last = (await fleet.health("batch", "worker")).at(-1)?.data;
  assert.match(last?.error ?? "", /^no heartbeat: expected one every 600 ms, the last one is \d+ ms old$/);
  assert.equal(last?.votes.filter(({ verdict }) => verdict === "unhealthy").length, 2, "both have heard nothing");
});
