import assert from "node:assert/strict";
import { test } from "node:test";
import { memorySeams } from "@mcp-failover/bus/internal";
import { decideHealth, type HealthInput } from "@mcp-failover/domain";
import { patientMs } from "@mcp-failover/testkit";
import { fleetFor, http, server, statusOf, until } from "./fleet-of-memory.ts";
import { answers } from "./servers.ts";

test("a well endpoint is said to be healthy once, with a real response time, and the prober becomes ready before its grace ends", async (t) => {
  const fleet = await fleetFor(t);
  const fake = await server(t);
  await fleet.configure({ api: http({ one: fake.url }) });
  const startedMs = performance.now();
  const prober = await fleet.start("p1");
  assert.equal(prober.kit.readiness().status, "not_ready");
  await until("healthy", async () => (await statusOf(fleet, "api", "one")) === "healthy");
  await until("ready", () => prober.kit.readiness().status === "ready");
  assert.ok(performance.now() - startedMs < patientMs(3000), "well before the grace of 5 s");
  await new Promise((resolve) => setTimeout(resolve, 700));
  const said = await fleet.health("api", "one");
  assert.equal(said.length, 1, "no word without a change");
  const first = said[0]?.data;
  assert.deepEqual([first?.previousStatus, first?.service, first?.critical, first?.error], [null, "api", true, null]);
  assert.ok((first?.responseTime ?? 0) > 0 && !Number.isInteger(first?.responseTime));
  const seen = (await fleet.observations()).filter(({ outcome }) => outcome === "ok");
  assert.ok(seen.length >= 4 && seen.every(({ observer }) => observer === "p1"));
});

test("killed and come back: unhealthy behind the fence with its votes, healthy again, and every word can be decided again from its certificate", async (t) => {
  const fleet = await fleetFor(t);
  const fake = await server(t);
  await fleet.configure({ api: http({ one: fake.url }) });
  await fleet.start("p1");
  await until("healthy", async () => (await statusOf(fleet, "api", "one")) === "healthy");
  await fake.kill();
  const killedMs = performance.now();
  await until("unhealthy", async () => (await statusOf(fleet, "api", "one")) === "unhealthy");
  assert.ok(performance.now() - killedMs < patientMs(2000));
  await fake.comeBack();
  const backMs = performance.now();
  await until("healthy again", async () => (await statusOf(fleet, "api", "one")) === "healthy");
  assert.ok(performance.now() - backMs < patientMs(2000));
  const said = await fleet.health("api", "one");
  assert.deepEqual(
    said.map(({ data }) => [data.previousStatus, data.status, data.certificate.rule]),
    [
      [null, "healthy", "rise"],
      ["healthy", "unhealthy", "fall"],
      ["unhealthy", "healthy", "rise"],
    ],
  );
  const down = said[1]?.data;
  assert.deepEqual([down?.responseTime, down?.error, down?.state.score], [null, "no answer: refused (ECONNREFUSED)", 0]);
  assert.deepEqual(
    down?.votes.map(({ observer, verdict, code }) => [observer, verdict, code]),
    [["p1", "unhealthy", "refused"]],
  );
  let before: unknown = null;
  for (const { data } of said) {
    const input = data.certificate.input as HealthInput;
    assert.deepEqual(input.state, before, "each decision starts from the last word");
    const again = decideHealth(input);
    assert.deepEqual([again.rule, again.state, again.publish], [data.certificate.rule, data.state, true]);
    before = data.state;
  }
});

test("a lone prober's fall carries a probe made for the purpose", async (t) => {
  const fleet = await fleetFor(t);
  const fake = await server(t);
  await fleet.configure({ api: http({ one: fake.url }) });
  await fleet.start("p1");
  await until("healthy", async () => (await statusOf(fleet, "api", "one")) === "healthy");
  fake.handler = answers.status(503);
  await until("unhealthy", async () => (await statusOf(fleet, "api", "one")) === "unhealthy");
  const down = (await fleet.health("api", "one")).at(-1)?.data;
  const input = down?.certificate.input as HealthInput;
  assert.deepEqual([input.asked, input.evidence.at(-1)?.purpose], [1, "confirm"]);
  assert.ok(input.evidence.filter(({ outcome }) => outcome === "hard").length >= 4, "three failures, then the one that confirms");
  assert.deepEqual(down?.certificate.folded.AUDIT, { first: 2, last: 2 });
});

test("401, 429 and 404: degraded with the rule of each, and alive", async (t) => {
  const fleet = await fleetFor(t);
  const servers = { auth: await server(t, 401), soft: await server(t, 429), caller: await server(t, 404) };
  await fleet.configure({ api: http({ auth: servers.auth.url, soft: servers.soft.url, caller: servers.caller.url }) });
  await fleet.start("p1");
  await until("all said", async () => {
    const all = await Promise.all(["auth", "soft", "caller"].map((endpoint) => statusOf(fleet, "api", endpoint)));
    return all.join() === "degraded,degraded,healthy";
  });
  const auth = (await fleet.health("api", "auth"))[0]?.data;
  assert.deepEqual([auth?.state.cause, auth?.error], ["auth", "HTTP 401: it refuses our credentials"]);
});

test("an endpoint whose secret is missing is not judged, and the others are", async (t) => {
  const fleet = await fleetFor(t);
  const fake = await server(t);
  await fleet.configure({
    locked: http({ one: fake.url }, {}, { headers: { authorization: { secret: "NOT_THERE" } } }),
    open: http({ one: `${fake.url}/open` }),
  });
  const prober = await fleet.start("p1");
  await until("healthy", async () => (await statusOf(fleet, "open", "one")) === "healthy");
  await until("skipped", async () => (await prober.metric("mcpf_prober_skipped_total")) >= 2);
  assert.equal(await statusOf(fleet, "locked", "one"), undefined);
  assert.ok(fake.requests.every(({ path }) => path === "/open"));
});

test("without the log it probes on and decides nothing; afterwards it decides on what is so by then", async (t) => {
  const fleet = await fleetFor(t);
  const fake = await server(t);
  await fleet.configure({ api: http({ one: fake.url, two: `${fake.url}/two` }) });
  const prober = await fleet.start("p1", { policy: { bufferMax: 10, batchMax: 4 } });
  const both = async (status: string) =>
    (await statusOf(fleet, "api", "one")) === status && (await statusOf(fleet, "api", "two")) === status;
  await until("healthy", () => both("healthy"));
  memorySeams(prober.bus).cut();
  await fake.kill();
  await until("probing on", async () => (await prober.metric("mcpf_prober_dropped_observations_total")) > 0, 8000);
  await fake.comeBack();
  await new Promise((resolve) => setTimeout(resolve, 600));
  memorySeams(prober.bus).restore();
  const restoredMs = Date.now();
  await until(
    "fresh observations",
    async () => (await fleet.observations()).filter(({ startedAtMs }) => startedAtMs > restoredMs).length >= 4,
  );
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.deepEqual(
    (await fleet.health("api", "one")).map(({ data }) => data.status),
    ["healthy"],
    "the outage that nobody could be told of in time is not told of afterwards",
  );
  const kept = (await fleet.observations()).filter(({ outcome }) => outcome === "hard");
  assert.ok(kept.length <= 10, "the buffer is bounded");
});

test("a changed configuration: new endpoints are probed at once, removed ones no more, a moved one is judged anew", async (t) => {
  const fleet = await fleetFor(t);
  const [first, second] = [await server(t), await server(t, 503)];
  await fleet.configure({ api: http({ one: first.url, gone: `${first.url}/gone` }, { interval_ms: 100 }) });
  const prober = await fleet.start("p1");
  await until("ready", () => prober.kit.readiness().status === "ready");
  assert.deepEqual([await statusOf(fleet, "api", "one"), await statusOf(fleet, "api", "gone")], ["healthy", "healthy"]);
  await fleet.configure({ api: http({ one: second.url, fresh: `${first.url}/fresh` }, { interval_ms: 100 }) });
  await until("fresh healthy", async () => (await statusOf(fleet, "api", "fresh")) === "healthy");
  await until("moved to a sick server", async () => (await statusOf(fleet, "api", "one")) === "unhealthy");
  const before = first.requests.filter(({ path }) => path === "/gone").length;
  await new Promise((resolve) => setTimeout(resolve, 400));
  assert.equal(first.requests.filter(({ path }) => path === "/gone").length, before);
});

test("a probe that is due while the last one runs is skipped and counted, never made up for", async (t) => {
  const fleet = await fleetFor(t);
  const fake = await server(t);
  let inFlight = 0;
  let most = 0;
  fake.handler = (request, response, body) => {
    inFlight += 1;
    most = Math.max(most, inFlight);
    setTimeout(
      () => {
        inFlight -= 1;
        answers.status(200)(request, response, body);
      },
      request.url === "/slow" ? 250 : 0,
    );
  };
  await fleet.configure({ api: http({ slow: `${fake.url}/slow` }, { interval_ms: 100, timeout_ms: 1000 }) });
  const slow = await fleet.start("p1");
  await until("skipped", async () => (await slow.metric("mcpf_prober_skipped_total")) >= 4);
  assert.equal(most, 1);
  await fleet.configure({ api: http({ quick: `${fake.url}/quick` }, { interval_ms: 100, timeout_ms: 1000 }) });
  await new Promise((resolve) => setTimeout(resolve, 300));
  const skipped = await slow.metric("mcpf_prober_skipped_total");
  const made = await slow.metric("mcpf_prober_probes_total");
  await until("probed on", async () => (await slow.metric("mcpf_prober_probes_total")) >= made + 5);
  assert.equal(await slow.metric("mcpf_prober_skipped_total"), skipped, "a quick one skips nothing");
});
