import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { memoryBroker } from "@mcp-failover/bus";
import { memorySeams } from "@mcp-failover/bus/internal";
import { streams } from "@mcp-failover/contracts";
import { testKit } from "@mcp-failover/service-kit/testing";
import { becomes, freePort } from "@mcp-failover/testkit";
import type { ProberEnvironment } from "../src/config.ts";
import { openReporting, ReportAddressError } from "../src/reporting.ts";
import { resultOf, runnerFor, targetOf } from "./probe-kit.ts";

async function world(t: TestContext) {
  const broker = memoryBroker();
  await broker.connect().ensureStreams(streams, { replicas: 1 });
  const target = targetOf({ type: "heartbeat", heartbeat: { token: { secret: "TOKEN" }, max_age_ms: 15_000 } });
  const plain = { ...targetOf({ type: "tcp", port: 1 }), key: "up/plain", endpoint: "plain" };
  const targets = new Map([
    ["up/one", target],
    ["up/plain", plain],
  ]);
  const spoken: string[] = [];
  const watcher = broker.connect();
  watcher.subscribe("endpoint.reported", (event) => spoken.push(JSON.stringify(event)));
  const open = async (instance: string, config: ProberEnvironment, secrets: Record<string, string>) => {
    const kit = testKit<ProberEnvironment>({ service: "prober", bus: broker.connect({ instance }), instance, config, secrets });
    const reporting = await openReporting(kit, () => targets);
    t.after(() => reporting.stop());
    return reporting;
  };
  const receiver = await open("p1", { MCPF_REPORT_PORT: 0 }, { TOKEN: "heartbeat-token" });
  const other = await open("p2", {}, { TOKEN: "heartbeat-token" });
  const post = (path: string, token: string | null, body?: string, method = "POST") =>
    fetch(`${receiver.url}${path}`, {
      method,
      ...(body === undefined ? {} : { body }),
      headers: token === null ? {} : { authorization: `Bearer ${token}` },
    });
  return { receiver, other, post, spoken };
}
const soon = () => new Promise((resolve) => setTimeout(resolve, 50));

test("a report with the right token reaches every prober, whoever took it in, and the token leaves this process nowhere", async (t) => {
  const { receiver, other, post, spoken } = await world(t);
  assert.equal(other.url, null, "no port is opened where none is configured");
  assert.equal((await post("/report/up/one", "heartbeat-token")).status, 204);
  await soon();
  assert.deepEqual([receiver.reports.last("up/one")?.status, other.reports.last("up/one")?.status], ["ok", "ok"]);
  assert.equal(
    (await post("/report/up/one", "heartbeat-token", '{"status":"degraded","detail":"slow; token heartbeat-token"}')).status,
    204,
  );
  await soon();
  assert.deepEqual(
    [other.reports.last("up/one")?.status, other.reports.last("up/one")?.detail],
    ["degraded", "slow; token [secret TOKEN]"],
  );
  assert.equal(spoken.length, 2);
  assert.doesNotMatch(spoken.join(), /heartbeat-token/);
});

test("what an endpoint says after the clock of its prober was set counts at once, and what it said before gets no younger", async (t) => {
  const broker = memoryBroker();
  await broker.connect().ensureStreams(streams, { replicas: 1 });
  const target = targetOf({ type: "heartbeat", heartbeat: { token: { secret: "TOKEN" }, max_age_ms: 3_600_000 } });
  let jumpedMs = 0;
  const nowMs = () => Date.now() + jumpedMs;
  const config: ProberEnvironment = { MCPF_REPORT_PORT: 0 };
  const kit = testKit<ProberEnvironment>({ service: "prober", bus: broker.connect(), config, secrets: { TOKEN: "t" }, nowMs });
  const reporting = await openReporting(kit, () => new Map([["up/one", target]]));
  t.after(() => reporting.stop());
  const runner = runnerFor(t, { reports: reporting.reports, nowMs });
  const says = async (status: string) => {
    const body = JSON.stringify({ status });
    const answer = await fetch(`${reporting.url}/report/up/one`, { method: "POST", body, headers: { authorization: "Bearer t" } });
    assert.equal(answer.status, 204);
  };
  await says("ok");
  jumpedMs = -7_200_000;
  await says("failing");
  await becomes(
    async () => (await resultOf(runner, target)).error,
    (error) => error === "it reports that it fails",
  );
  await says("ok");
  jumpedMs = 7_200_000;
  assert.equal((await resultOf(runner, target)).outcome, "ok", "a clock set forward makes no report old");
});

test("heartbeats that were told to the others while a prober was cut off from them are no silence of the endpoint", async (t) => {
  const broker = memoryBroker();
  await broker.connect().ensureStreams(streams, { replicas: 1 });
  const target = targetOf({ type: "heartbeat", heartbeat: { token: { secret: "TOKEN" }, max_age_ms: 15_000 } });
  let clockMs = 0;
  const bus = broker.connect({ instance: "p2" });
  const kit = testKit<ProberEnvironment>({ service: "prober", bus, instance: "p2", config: {}, secrets: { TOKEN: "t" } });
  const { reports, stop } = await openReporting(
    kit,
    () => new Map([["up/one", target]]),
    () => clockMs,
  );
  t.after(stop);
  const runner = runnerFor(t, { reports });
  const told = async (): Promise<string> => {
    const probe = await runner.probe(target, { fresh: false, timeoutMs: 5000 });
    return probe.kind === "made" ? probe.result.outcome : probe.reason;
  };
  const others = broker.connect({ instance: "p1" });
  const from = testKit<ProberEnvironment>({ service: "prober", bus: others, instance: "p1", config: {}, secrets: {} });
  const report = { upstream: "up", endpoint: "one", status: "ok", detail: null, receivedBy: "p1" } as const;
  others.publish(from.event("endpoint.reported", [], report));
  await becomes(
    () => reports.last("up/one")?.status,
    (status) => status === "ok",
  );
  memorySeams(bus).cut();
  clockMs += 30_000;
  assert.equal(await told(), "waiting");
  memorySeams(bus).restore();
  await becomes(
    () => bus.status.kind,
    (kind) => kind === "connected",
  );
  assert.equal(await told(), "waiting", "the next report may be on its way");
  clockMs += 15_001;
  assert.equal(await told(), "hard", "nothing came, though it would have been heard");
});

test("R1: a wrong token, none, and one for an endpoint that expects no reports are refused alike, and change nothing", async (t) => {
  const { receiver, post } = await world(t);
  const answers = await Promise.all([
    post("/report/up/one", "heartbeat-tokem"),
    post("/report/up/one", null),
    post("/report/up/plain", "heartbeat-token"),
    post("/report/up/nothing", "heartbeat-token"),
  ]);
  const said = await Promise.all(answers.map(async (answer) => `${answer.status} ${await answer.text()}`));
  assert.equal(new Set(said).size, 1, said.join("\n"));
  assert.match(said[0] ?? "", /^401 /);
  assert.equal(receiver.reports.last("up/one"), null);
});

test("R2: other methods, paths, bodies that are no report and too large ones are refused with a sentence", async (t) => {
  const { receiver, post } = await world(t);
  const token = "heartbeat-token";
  const cases: [Promise<Response>, number][] = [
    [post("/report/up/one", token, undefined, "GET"), 405],
    [post("/", token), 404],
    [post("/report/up", token), 404],
    [post("/report/up/one", token, "{"), 400],
    [post("/report/up/one", token, '{"status":"splendid"}'), 400],
    [post("/report/up/one", token, JSON.stringify({ detail: "x".repeat(5000) })), 413],
  ];
  for (const [answer, status] of cases) {
    const got = await answer;
    assert.equal(got.status, status);
    assert.equal(typeof ((await got.json()) as { error: string }).error, "string");
  }
  assert.equal(receiver.reports.last("up/one"), null);
});

test("probers of one machine share the address: one takes reports in, and another takes the address over when it is gone", async (t) => {
  const port = await freePort();
  const broker = memoryBroker();
  await broker.connect().ensureStreams(streams, { replicas: 1 });
  const target = targetOf({ type: "heartbeat", heartbeat: { token: { secret: "TOKEN" }, max_age_ms: 15_000 } });
  const open = async (instance: string) => {
    const kit = testKit<ProberEnvironment>({
      service: "prober",
      bus: broker.connect({ instance }),
      instance,
      config: { MCPF_REPORT_PORT: port },
      secrets: { TOKEN: "token-value" },
    });
    const reporting = await openReporting(kit, () => new Map([["up/one", target]]));
    t.after(() => reporting.stop());
    return reporting;
  };
  const [first, second] = [await open("p1"), await open("p2")];
  assert.deepEqual([first.url, second.url], [`http://127.0.0.1:${port}`, null]);
  await first.stop();
  for (let n = 0; n < 100 && second.url === null; n += 1) await soon();
  const answer = await fetch(`http://127.0.0.1:${port}/report/up/one`, {
    method: "POST",
    headers: { authorization: "Bearer token-value" },
  });
  assert.deepEqual([answer.status, second.reports.last("up/one")?.status], [204, "ok"]);
});

test("an address that cannot be had is told with what to change, also where only a privilege is missing", async () => {
  const config = { MCPF_REPORT_PORT: 80, MCPF_REPORT_HOST: "192.0.2.1" };
  const kit = testKit<ProberEnvironment>({ service: "prober", bus: memoryBroker().connect(), config });
  await assert.rejects(
    openReporting(kit, () => new Map()),
    /^ReportAddressError: heartbeats .* 192\.0\.2\.1:80 \(EADDRNOTAVAIL\): give an address of this machine/,
  );
  const denied = new ReportAddressError("127.0.0.1", 80, Object.assign(new Error("listen EACCES"), { code: "EACCES" }));
  assert.match(denied.message, /\(EACCES\): ports under 1024 .* MCPF_REPORT_PORT/);
});
