import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { connectBus } from "@mcp-failover/bus";
import { jetStreamApi } from "@mcp-failover/bus/internal";
import { makeEvent, streams } from "@mcp-failover/contracts";
import { eventually, freePort, startNats } from "@mcp-failover/testkit";
import type { Readiness } from "../src/index.ts";

interface Service {
  readonly child: ChildProcess;
  output(): string;
  /** Lines of its log. */
  log(): { level: string; msg: string; [key: string]: unknown }[];
  get(path: string): Promise<{ status: number; type: string; body: string }>;
  readyz(): Promise<{ status: number; body: Readiness }>;
  exit(withinMs?: number): Promise<number | string | null>;
}

const until = (what: string, holds: () => boolean | Promise<boolean>, withinMs = 15_000) => eventually(holds, { what, withinMs });

/** Runs the fixture as a process of its own. Without another NATS_URL nothing listens where it looks for one. */
async function run(t: TestContext, env: Record<string, string> = {}): Promise<Service> {
  const port = await freePort();
  const child = spawn(process.execPath, [fileURLToPath(new URL("./fixtures/service.ts", import.meta.url))], {
    env: {
      PATH: process.env["PATH"],
      NATS_URL: `nats://127.0.0.1:${await freePort()}`,
      MCPF_INSTANCE: "notifier-1",
      MCPF_HEALTH_PORT: String(port),
      ...env,
    },
    stdio: ["pipe", "pipe", "pipe"],
  });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (text: string) => (output += text));
  const closed = new Promise<number | string | null>((resolve) => child.once("close", (code, signal) => resolve(code ?? signal)));
  t.after(async () => {
    child.kill("SIGKILL");
    await closed;
  });
  const get: Service["get"] = async (path) => {
    const response = await fetch(`http://127.0.0.1:${port}${path}`, { headers: { connection: "close" } });
    return { status: response.status, type: response.headers.get("content-type") ?? "", body: await response.text() };
  };
  return {
    child,
    output: () => output,
    log: () =>
      output
        .split("\n")
        .filter((line) => line.startsWith("{"))
        .map((line) => JSON.parse(line)),
    get,
    async readyz() {
      const { status, body } = await get("/readyz");
      return { status, body: JSON.parse(body) };
    },
    async exit(withinMs = 15_000) {
      const code = await Promise.race([closed, sleep(withinMs, "late" as const, { ref: false })]);
      assert.notEqual(code, "late", `it runs on after ${withinMs} ms:\n${output}`);
      return code;
    },
  };
}

/** A nats-server with the streams, and a bus on it, until the test is over. */
async function natsWithStreams(t: TestContext) {
  const nats = await startNats();
  const bus = connectBus({ servers: nats.url, name: "test", instance: "test" });
  t.after(async () => {
    await bus.close();
    await nats.stop();
  });
  await until("connected", () => bus.status.kind === "connected");
  await bus.ensureStreams(streams, { replicas: 1 });
  return { nats, bus };
}

const said = (service: Service, text: string) => until(`it says "${text}"`, () => service.output().includes(text));

test("a wrong environment ends with 2 and names each variable, of the kit and of the service, without its value", async (t) => {
  const base = await run(t, { MCPF_INSTANCE: "has spaces", MCPF_LOG_LEVEL: "shouting" });
  assert.equal(await base.exit(), 2);
  assert.match(
    base.output(),
    /^notifier: the environment cannot be used:\n {2}MCPF_INSTANCE: use .*\n {2}MCPF_LOG_LEVEL: give one of trace, .*\n$/,
  );
  const own = await run(t, { FIXTURE_LIMIT: "a-value-not-to-repeat" });
  assert.equal(await own.exit(), 2);
  assert.match(own.output(), /FIXTURE_LIMIT: /);
  for (const { output } of [base, own]) assert.doesNotMatch(output(), /has spaces|shouting|a-value-not-to-repeat/);
});

test("on NATS it becomes ready, answers requests, lists itself; SIGTERM finishes what it began, leaves the list, and ends with 0", async (t) => {
  const { nats, bus } = await natsWithStreams(t);
  const service = await run(t, { NATS_URL: nats.url, FIXTURE_LIMIT: "7" });
  await said(service, '"msg":"started"');
  await until("connected", async () => (await service.readyz()).body.conditions["bus"]?.ok === true);
  const { status, body } = await service.readyz();
  assert.deepEqual([status, body.status], [200, "degraded"], "a condition that is not required only degrades");
  assert.deepEqual(body.conditions["neighbour"], { ok: false, required: false, reason: "the neighbour is out of reach" });
  assert.deepEqual(await service.get("/healthz"), { status: 200, type: "application/json", body: '{"status":"alive"}' });
  const metrics = await service.get("/metrics");
  assert.match(metrics.type, /^text\/plain/);
  assert.match(metrics.body, /^mcpf_bus_connected 1$/m);
  assert.match(metrics.body, /^process_cpu_seconds_total /m);
  assert.equal((await service.get("/elsewhere")).status, 404);

  await until("it is listed", async () => (await bus.services()).some(({ name }) => name === "notifier"));
  const listed = (await bus.services()).find(({ name }) => name === "notifier");
  assert.equal(listed?.metadata["instance"], "notifier-1");
  const [examined] = await bus.services({ examine: true });
  assert.deepEqual(JSON.parse(examined?.metadata["readiness"] ?? "null"), (await service.readyz()).body, "the bus says what /readyz does");
  const by = { kind: "operator", id: "test" } as const;
  const reply = await bus.request("command.acknowledge", { commandId: "c1", by, reason: "test", incidentId: "i1" }, { timeoutMs: 3000 });
  assert.deepEqual(reply, { ok: true, result: { limit: 7 } });

  service.child.kill("SIGTERM");
  assert.equal(await service.exit(), 0);
  const log = service.log().map(({ msg }) => msg);
  assert.ok(log.indexOf("stopping") > 0 && log.indexOf("finished what it had begun") > log.indexOf("stopping"), service.output());
  assert.deepEqual(await bus.services(), []);
});

test("SIGTERM while it works on a request: it takes no other, ends its work meanwhile, and the request is answered before it ends", async (t) => {
  const { nats, bus } = await natsWithStreams(t);
  const service = await run(t, { NATS_URL: nats.url, FIXTURE_MODE: "answers_slowly", FIXTURE_LIMIT: "7" });
  await until("it is listed", async () => (await bus.services()).some(({ name }) => name === "notifier"));
  const by = { kind: "operator", id: "test" } as const;
  const ask = (commandId: string) =>
    bus.request("command.acknowledge", { commandId, by, reason: "test", incidentId: "i1" }, { timeoutMs: 5000 });
  const answer = ask("c1");
  await said(service, '"msg":"asked"');
  service.child.kill("SIGTERM");
  await said(service, '"msg":"finished what it had begun"');
  await assert.rejects(ask("c2"), { code: "no_responders" });
  assert.deepEqual(await answer, { ok: true, result: { limit: 7 } });
  assert.equal(await service.exit(), 0);
  assert.equal(service.log().filter(({ msg }) => msg === "asked").length, 1);
});

test("a reader that falls behind degrades it, with the reason on /readyz, in its metrics and in its log, until it has read all", async (t) => {
  const { nats, bus } = await natsWithStreams(t);
  const service = await run(t, { NATS_URL: nats.url, FIXTURE_MODE: "reads_slowly" });
  await said(service, '"msg":"started"');
  const say = (n: number) => {
    const timeMs = Date.now();
    const timestamp = new Date(timeMs).toISOString();
    const data = {
      notificationId: `n-${n}`,
      channel: "pager",
      incidentId: "i-1",
      kind: "test",
      attempt: 1,
      timestamp,
      error: null,
      willRetry: false,
    };
    return bus.append(
      makeEvent({ type: "notify.sent", keys: ["pager"], data, id: `n-${n}`, service: "notifier", instance: "test", timeMs }),
    );
  };
  for (let n = 1; n <= 300; n += 1) await say(n);
  const reading = async () => (await service.readyz()).body.conditions["reading"];
  await until("it falls behind", async () => (await reading())?.ok === false, 60_000);
  assert.match(
    (await reading())?.reason ?? "",
    /more than 10 messages of AUDIT wait for more than 10 s: give this service more processor time/,
  );
  assert.match((await service.get("/metrics")).body, /^mcpf_bus_slow_readers 1$/m);
  assert.ok(service.log().some(({ condition, level, ok }) => condition === "reading" && level === "warn" && ok === false));
  await until("it has read all", async () => (await reading())?.ok === true, 90_000);
  assert.match((await service.get("/metrics")).body, /^mcpf_bus_slow_readers 0$/m);
});

test("a service whose log cannot be read any more is not ready, and one that goes on without NATS degraded, until it can be read again", async (t) => {
  const { nats, bus } = await natsWithStreams(t);
  const reads = { NATS_URL: nats.url, FIXTURE_MODE: "reads_slowly" };
  const services = await Promise.all([run(t, reads), run(t, { ...reads, FIXTURE_NEEDS_BUS: "0" })]);
  await Promise.all(services.map((service) => said(service, '"msg":"started"')));
  const reading = async (service: Service) => (await service.readyz()).body.conditions["reading"];
  const wells = async () => (await Promise.all(services.map(reading))).map((condition) => condition?.ok);
  await until("both read", async () => (await wells()).every((ok) => ok === true));

  await jetStreamApi(bus, "STREAM.DELETE.AUDIT");
  await until("both are deaf", async () => (await wells()).every((ok) => ok === false), 30_000);
  for (const [service, code, word] of [
    [services[0] as Service, 503, "not_ready"],
    [services[1] as Service, 200, "degraded"],
  ] as const) {
    const { status, body } = await service.readyz();
    assert.deepEqual([status, body.status, body.conditions["bus"]?.ok], [code, word, true]);
    assert.match(
      body.conditions["reading"]?.reason ?? "",
      /^AUDIT cannot be read \(the stream AUDIT does not exist yet.*\): see that JetStream answers/,
    );
    assert.match((await service.get("/metrics")).body, /^mcpf_bus_slow_readers 1$/m);
  }
  // Tried again many times meanwhile.
  await sleep(3000);
  for (const service of services) {
    const told = service.log().filter(({ condition, ok }) => condition === "reading" && ok === false);
    assert.deepEqual(
      told.map(({ level }) => level),
      ["warn"],
    );
  }

  await bus.ensureStreams(streams, { replicas: 1 });
  await until("both read again", async () => (await wells()).every((ok) => ok === true));
  for (const service of services) assert.match((await service.get("/metrics")).body, /^mcpf_bus_slow_readers 0$/m);
});

test("without NATS it lives and is not ready; one that does not need it only is degraded; both stop with 0", async (t) => {
  const [needs, goesOn] = await Promise.all([run(t), run(t, { FIXTURE_NEEDS_BUS: "0" })]);
  await Promise.all([said(needs, '"msg":"started"'), said(goesOn, '"msg":"started"')]);
  for (const [service, status, word] of [
    [needs, 503, "not_ready"],
    [goesOn, 200, "degraded"],
  ] as const) {
    const ready = await service.readyz();
    assert.deepEqual([ready.status, ready.body.status, ready.body.conditions["bus"]?.ok], [status, word, false]);
    assert.match(ready.body.conditions["bus"]?.reason ?? "", /^NATS is out of reach: ./);
    assert.equal((await service.get("/healthz")).status, 200);
    assert.match((await service.get("/metrics")).body, /^mcpf_bus_connected 0$/m);
    service.child.kill("SIGINT");
    assert.equal(await service.exit(), 0);
  }
});

test("no form of a secret's value reaches the log, also not in errors and in the last words of a crash", async (t) => {
  const value = 'pass"word/+=\\with corners';
  const service = await run(t, { FIXTURE_TOKEN: value, FIXTURE_MODE: "crashes" });
  assert.equal(await service.exit(), 1);
  assert.match(service.output(), /called with Bearer \[secret FIXTURE_TOKEN\]/);
  assert.match(service.output(), /"msg":"uncaught exception/);
  assert.match(service.output(), /crashed with Bearer \[secret FIXTURE_TOKEN\]/);
  assert.doesNotMatch(service.output(), /corners/);
  for (const line of service.output().trim().split("\n")) assert.doesNotThrow(() => JSON.parse(line), `still JSON: ${line}`);
});

test("a start that fails ends with 1 and says why; a stop that fails ends with 1 as well", async (t) => {
  const start = await run(t, { FIXTURE_MODE: "start_fails" });
  assert.equal(await start.exit(), 1);
  assert.match(start.output(), /there is no start today/);
  const stop = await run(t, { FIXTURE_MODE: "stop_fails" });
  await said(stop, '"msg":"started"');
  stop.child.kill("SIGTERM");
  assert.equal(await stop.exit(), 1);
  assert.match(stop.output(), /cannot stop/);
});

test("a service that has not come up yet is not ready, and stops in good order too", async (t) => {
  const service = await run(t, { FIXTURE_MODE: "start_hangs" });
  await until("its health is served", () =>
    service.get("/healthz").then(
      ({ status }) => status === 200,
      () => false,
    ),
  );
  const { status, body } = await service.readyz();
  assert.deepEqual([status, body.conditions["started"]], [503, { ok: false, required: true, reason: "starting" }]);
  service.child.kill("SIGTERM");
  assert.equal(await service.exit(), 0);
});

test("it stops when its supervisor is gone, if it was told to watch for that; otherwise the end of its input means nothing", async (t) => {
  const [watches, ignores] = await Promise.all([run(t, { MCPF_PARENT_PIPE: "1" }), run(t)]);
  await Promise.all([said(watches, '"msg":"started"'), said(ignores, '"msg":"started"')]);
  for (const { child } of [watches, ignores]) child.stdin?.end();
  assert.equal(await watches.exit(), 0);
  assert.match(watches.output(), /the supervisor is gone/);
  assert.equal((await ignores.get("/healthz")).status, 200);
});
