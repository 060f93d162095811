import assert from "node:assert/strict";
import dns from "node:dns";
import { syncBuiltinESMExports } from "node:module";
import os from "node:os";
import { after, test } from "node:test";
import { joinPath, topology } from "@mcp-failover/contracts";
import { proberPolicy } from "@mcp-failover/domain";
import { exhaustedBy, openSecrets } from "@mcp-failover/service-kit";
import { eventually, patientMs } from "@mcp-failover/testkit";
import { openProbeRunner, type ProbeMade, type ProbeRunner } from "../src/probes/run-probe.ts";
import { errorCodeOf } from "../src/probes/wire.ts";
import { type Target, targetsOf } from "../src/targets.ts";
import { answers, fakeServer, type Handler, legacyServer, modernServer } from "./servers.ts";

const cleanups: (() => Promise<void>)[] = [];
after(async () => {
  for (const cleanup of cleanups) await cleanup();
});

function runner(secrets: Record<string, string> = {}, policy: Partial<typeof proberPolicy> = {}, nowMs = () => Date.now()): ProbeRunner {
  const opened = openProbeRunner({ policy: { ...proberPolicy, ...policy }, secrets: openSecrets(secrets, undefined), nowMs });
  cleanups.push(() => opened.close());
  return opened;
}
function targetOf(kind: "mcp" | "http", url: string, endpoint: object = {}, probe: object = {}): Target {
  const parsed = topology.parse({ upstreams: { up: { kind, probe, endpoints: [{ name: "one", url, tier: 0, ...endpoint }] } } });
  return targetsOf(parsed, "development").get("up/one") as Target;
}
async function made(opened: ProbeRunner, target: Target, options: { fresh?: boolean; timeoutMs?: number } = {}): Promise<ProbeMade> {
  const probe = await opened.probe(target, { fresh: false, timeoutMs: 1000, ...options });
  assert.equal(probe.kind, "made", JSON.stringify(probe));
  return probe as ProbeMade;
}
async function server(handler: Handler) {
  const fake = await fakeServer(handler);
  cleanups.push(() => fake.kill());
  return fake;
}

test("http: each kind of answer has its outcome, and the response time is a real number of milliseconds", async () => {
  const opened = runner();
  const cases: [Handler, string, string | null, number | null][] = [
    [answers.status(200), "ok", null, 200],
    [answers.status(204), "ok", null, 204],
    [answers.status(302, { location: "http://127.0.0.1:1/" }), "ok", null, 302],
    [answers.status(401), "auth", null, 401],
    [answers.status(403), "auth", null, 403],
    [answers.status(404), "caller", null, 404],
    [answers.status(429, { "retry-after": "7" }), "soft", null, 429],
    [answers.status(500), "hard", "http_5xx", 500],
    [answers.status(503), "hard", "http_5xx", 503],
    [answers.reset, "hard", "reset", null],
  ];
  const fake = await server(answers.status(200));
  const target = targetOf("http", `${fake.url}/health`);
  for (const [handler, outcome, code, status] of cases) {
    fake.handler = handler;
    const { result } = await made(opened, target);
    assert.deepEqual([result.outcome, result.code, result.httpStatus], [outcome, code, status]);
    assert.ok(result.responseTimeMs > 0 && result.responseTimeMs < patientMs(1000));
    assert.equal(result.retryAfterMs, outcome === "soft" ? 7000 : null);
  }
});

test("http: refused, hanging, stalling after the headers and malformed answers are hard, each with its code", async () => {
  const opened = runner();
  const fake = await server(answers.hang);
  const target = targetOf("http", fake.url);
  for (const handler of [answers.hang, answers.stall]) {
    fake.handler = handler;
    const { result } = await made(opened, target, { timeoutMs: 150 });
    assert.deepEqual([result.outcome, result.code], ["hard", "timeout"]);
    assert.ok(result.responseTimeMs >= 145 && result.responseTimeMs < patientMs(400), `${result.responseTimeMs}`);
  }
  fake.handler = (request) => request.socket.end("ICY 200 yes\r\n\r\n");
  assert.equal((await made(opened, target)).result.code, "malformed");
  await fake.kill();
  const { result } = await made(opened, target);
  assert.deepEqual([result.outcome, result.code, result.error], ["hard", "refused", "no answer: refused (ECONNREFUSED)"]);
});

test("http: an answer without end counts once 64 KiB of it came", async () => {
  const fake = await server((_request, response) => {
    response.writeHead(200);
    const timer = setInterval(() => response.write("x".repeat(16_384)), 5);
    response.on("close", () => clearInterval(timer));
  });
  assert.equal((await made(runner(), targetOf("http", fake.url))).result.outcome, "ok");
});

test("W1: a kept connection that was reset is tried again on a fresh one before it counts", async () => {
  const opened = runner();
  const fake = await server(answers.status(200));
  const target = targetOf("http", fake.url);
  await made(opened, target);
  let resets = 0;
  fake.handler = (request, response, body) => {
    if (request.headers.connection === "close") return answers.status(200)(request, response, body);
    resets += 1;
    request.socket.resetAndDestroy();
  };
  assert.equal((await made(opened, target)).result.outcome, "ok");
  assert.equal(resets, 1);
  assert.equal((await made(opened, target, { fresh: true })).result.outcome, "ok");
});

test("quick probes use a fresh connection each, regular ones keep theirs", async () => {
  const opened = runner();
  const fake = await server(answers.status(200));
  const target = targetOf("http", fake.url);
  for (let n = 0; n < 8; n += 1) await made(opened, target);
  const kept = fake.connections;
  assert.ok(kept <= 2, `${kept} connections for eight regular probes`);
  for (let n = 0; n < 3; n += 1) await made(opened, target, { fresh: true });
  assert.equal(fake.connections, kept + 3);
});

test("secrets go into the headers of the one endpoint that names them, and into no result; without one nothing is said", async () => {
  const opened = runner({ KEY: "s3cret-key-value", PASSWORD: "p4ssword-value" });
  const fake = await server(answers.status(403));
  const target = targetOf("http", fake.url, {
    headers: { "X-Api-Key": { secret: "KEY", prefix: "Key " } },
    auth: { username: "neo4j", password: { secret: "PASSWORD" } },
  });
  const probe = await made(opened, target);
  assert.equal(fake.requests[0]?.headers["x-api-key"], "Key s3cret-key-value");
  assert.equal(fake.requests[0]?.headers.authorization, `Basic ${Buffer.from("neo4j:p4ssword-value").toString("base64")}`);
  assert.doesNotMatch(JSON.stringify(probe), /s3cret|p4ssword/);
  const missing = await runner().probe(target, { fresh: false, timeoutMs: 500 });
  assert.deepEqual([missing.kind, missing.kind === "not_made" && missing.reason], ["not_made", "secret"]);
  const broken = await runner({ KEY: "two\nlines", PASSWORD: "xxxx" }).probe(target, { fresh: false, timeoutMs: 500 });
  assert.deepEqual([broken.kind, broken.kind === "not_made" && broken.reason], ["not_made", "internal"]);
  assert.doesNotMatch(JSON.stringify(broken), /two|lines/);
});

test("modern MCP: discover with the version in body and headers, no session, no GET; -32022 lives", async () => {
  for (const error of [undefined, -32_022]) {
    const fake = await modernServer(error === undefined ? {} : { error });
    cleanups.push(() => fake.kill());
    const opened = runner();
    for (let n = 0; n < 3; n += 1) {
      const { result } = await made(opened, targetOf("mcp", `${fake.url}/mcp`));
      assert.deepEqual([result.era, result.outcome], ["modern", error === undefined ? "ok" : "caller"]);
    }
    assert.equal(fake.requests.length, 3);
    assert.ok(fake.requests.every(({ method }) => method === "POST"));
  }
});

test("legacy MCP: one session for many probes, in every shape of answer; it is ended at the close", async () => {
  for (const shape of ["stream", "held", "json"] as const) {
    const legacy = await legacyServer();
    cleanups.push(() => legacy.kill());
    legacy.shape = shape;
    const opened = runner();
    const target = targetOf("mcp", `${legacy.url}/mcp`);
    for (let n = 0; n < 5; n += 1) {
      const { result } = await made(opened, target, { fresh: n === 3 });
      assert.deepEqual([result.outcome, result.era], ["ok", "legacy"]);
    }
    assert.deepEqual([legacy.initialized, legacy.pings, legacy.sessions.size, opened.openSessions], [1, 5, 1, 1]);
    await opened.close();
    assert.deepEqual([legacy.deleted, legacy.sessions.size], [1, 0], "no session is left behind");
    assert.deepEqual(legacy.ran, [], "M1: looking for the era has run nothing");
    assert.ok(
      legacy.requests.every(({ method }) => method === "POST" || method === "DELETE"),
      "M5",
    );
  }
});

test("M3: a session that the server has lost is made anew within the probe, and that is not down", async () => {
  const legacy = await legacyServer();
  cleanups.push(() => legacy.kill());
  const opened = runner();
  const target = targetOf("mcp", legacy.url);
  for (const status of [404, 400] as const) {
    legacy.unknownSessionStatus = status;
    await made(opened, target);
    legacy.sessions.clear();
    assert.equal((await made(opened, target)).result.outcome, "ok");
    assert.equal(legacy.sessions.size, 1);
  }
});

test("M2: a server that hangs is never asked for a session, however often it is probed", async () => {
  const legacy = await legacyServer();
  cleanups.push(() => legacy.kill());
  legacy.hanging = true;
  const opened = runner();
  const target = targetOf("mcp", legacy.url);
  for (let n = 0; n < 5; n += 1) assert.equal((await made(opened, target, { timeoutMs: 60, fresh: true })).result.code, "timeout");
  legacy.hanging = false;
  assert.equal((await made(opened, target)).result.outcome, "ok");
  legacy.hanging = true;
  for (let n = 0; n < 5; n += 1) assert.equal((await made(opened, target, { timeoutMs: 60, fresh: true })).result.code, "timeout");
  legacy.hanging = false;
  assert.equal((await made(opened, target)).result.outcome, "ok");
  assert.equal(legacy.requests.filter(({ body }) => body.includes('"initialize"')).length, 1);
});

test("M4: sessions are rotated, ended when idle or out of the configuration, and probes side by side leave one", async () => {
  let nowMs = 1_800_000_000_000;
  const legacy = await legacyServer();
  cleanups.push(() => legacy.kill());
  const opened = runner({}, {}, () => nowMs);
  const target = targetOf("mcp", legacy.url);
  const settled = async (): Promise<void> => {
    for (let n = 0; n < 100 && legacy.sessions.size !== opened.openSessions; n += 1)
      await new Promise((resolve) => setTimeout(resolve, 10));
  };
  await Promise.all([made(opened, target), made(opened, target, { fresh: true }), made(opened, target)]);
  await settled();
  assert.deepEqual([legacy.sessions.size, opened.openSessions], [1, 1]);
  const [first] = legacy.sessions;
  nowMs += proberPolicy.sessionMs;
  assert.equal((await made(opened, target)).result.outcome, "ok");
  await settled();
  assert.equal(legacy.sessions.size, 1);
  assert.equal(legacy.sessions.has(first as string), false, "rotated");
  nowMs += proberPolicy.sessionMs;
  opened.retain(new Map([[target.key, target]]));
  await settled();
  assert.equal(legacy.sessions.size, 0, "idle");
  await made(opened, target);
  opened.retain(new Map());
  await settled();
  assert.equal(legacy.sessions.size, 0, "out of the configuration");
  assert.equal(legacy.initialized, legacy.deleted);
});

test("M4: a session that is being made while the prober stops is ended too", async () => {
  const legacy = await legacyServer();
  cleanups.push(() => legacy.kill());
  const { handler } = legacy;
  const answered = Promise.withResolvers<void>();
  legacy.handler = (request, response, body) => {
    if (!body.includes('"initialize"')) return handler(request, response, body);
    void answered.promise.then(() => handler(request, response, body));
    legacy.sessions.add("begun");
  };
  const opened = openProbeRunner({ policy: proberPolicy, secrets: openSecrets({}, undefined), nowMs: () => Date.now() });
  const probe = opened.probe(targetOf("mcp", legacy.url), { fresh: false, timeoutMs: 5000 });
  while (!legacy.sessions.delete("begun")) await new Promise((resolve) => setTimeout(resolve, 5));
  const closed = opened.close();
  answered.resolve();
  await closed;
  assert.equal((await probe).kind, "not_made");
  assert.deepEqual([legacy.initialized, legacy.deleted, legacy.sessions.size], [1, 1, 0]);
});

/** A legacy server whose `initialize` takes so long, and what became of its sessions. */
async function slowToBegin(initMs: number) {
  const kept = new Set<string>();
  const seen = { begun: 0, most: 0, kept };
  const fake = await server((request, response, body) => {
    const session = String(request.headers["mcp-session-id"]);
    if (request.method === "DELETE") {
      kept.delete(session);
      return response.writeHead(200).end();
    }
    const { id, method } = JSON.parse(body) as { id?: string; method: string };
    const say = (status: number, more: object, headers: Record<string, string> = {}) =>
      response.writeHead(status, { "content-type": "application/json", ...headers }).end(JSON.stringify({ jsonrpc: "2.0", id, ...more }));
    if (method === "server/discover") return say(400, { error: { code: -32_000, message: "no session" } });
    if (method === "initialize") {
      seen.begun += 1;
      const made = `s${seen.begun}`;
      const result = { protocolVersion: "2025-11-25", capabilities: {}, serverInfo: { name: "x", version: "1" } };
      setTimeout(() => {
        kept.add(made);
        seen.most = Math.max(seen.most, kept.size);
        say(200, { result }, { "mcp-session-id": made });
      }, initMs);
      return;
    }
    if (id === undefined) return response.writeHead(202).end();
    return kept.has(session) ? say(200, { result: {} }) : response.writeHead(404).end();
  });
  return { fake, seen };
}

test("M4: a session that is made after its probe gave up is ended, and no second one is asked for meanwhile", async () => {
  const { fake, seen } = await slowToBegin(1800);
  const opened = runner();
  const target = targetOf("mcp", fake.url);
  for (let time = 0; time < 3; time += 1) {
    const { result } = await made(opened, target, { fresh: true, timeoutMs: 400 });
    assert.deepEqual([result.code, seen.begun], ["timeout", 1]);
  }
  await eventually(() => seen.most === 1 && seen.kept.size === 0, { what: "what came late was ended", withinMs: patientMs(5000) });
  assert.equal(opened.openSessions, 0);
  const again = made(opened, target, { timeoutMs: 400 });
  assert.equal((await again).result.code, "timeout");
  assert.equal(seen.begun, 2, "the next one is asked for once the first is over");
  await opened.close();
  await eventually(() => seen.kept.size === 0, { what: "and ended at the stop", withinMs: patientMs(5000) });
});

test("M4: a session whose endpoint was taken out of the configuration, or put in anew, during the handshake is ended", async () => {
  const { fake, seen } = await slowToBegin(300);
  const opened = runner();
  const before = targetOf("mcp", fake.url);
  const after = targetOf("mcp", fake.url, { headers: { "x-team": "b" } });
  const during = made(opened, before, { timeoutMs: 5000 });
  await eventually(() => seen.begun === 1, { what: "it is being made", withinMs: patientMs(5000) });
  opened.retain(new Map([[after.key, after]]));
  assert.equal((await during).result.outcome, "ok");
  await eventually(() => seen.kept.size === 0, { what: "nobody's session was ended", withinMs: patientMs(5000) });
  for (let time = 0; time < 2; time += 1) await made(opened, after, { timeoutMs: 5000 });
  assert.deepEqual([seen.kept.size, opened.openSessions, seen.begun], [1, 1, 2]);
  opened.retain(new Map());
  await eventually(() => seen.kept.size === 0, { what: "none is left", withinMs: patientMs(5000) });
});

test("the era is found anew: a legacy server that was replaced by a modern one, and back, stays up all the time", async () => {
  let nowMs = 1_800_000_000_000;
  const legacy = await legacyServer();
  const modern = await modernServer();
  cleanups.push(
    () => legacy.kill(),
    () => modern.kill(),
  );
  const opened = runner({}, {}, () => nowMs);
  const target = targetOf("mcp", legacy.url);
  const legacyHandler = legacy.handler;
  assert.equal((await made(opened, target)).result.era, "legacy");
  legacy.handler = modern.handler;
  nowMs += proberPolicy.eraMs;
  assert.deepEqual([(await made(opened, target)).result.era, opened.openSessions], ["modern", 0]);
  legacy.handler = legacyHandler;
  assert.equal((await made(opened, target)).result.era, "legacy");
});

test("MCP: statuses and malformed answers are judged, and a page that is no MCP server is not taken for one", async () => {
  const fake = await server(answers.status(401));
  const opened = runner();
  const target = targetOf("mcp", fake.url);
  const judged = async (handler: Handler, timeoutMs = 10_000) => {
    fake.handler = handler;
    const { result } = await made(opened, target, { timeoutMs });
    return [result.outcome, result.code];
  };
  assert.deepEqual(await judged(answers.status(401)), ["auth", null]);
  assert.deepEqual(await judged(answers.status(429)), ["soft", null]);
  assert.deepEqual(await judged(answers.status(503)), ["hard", "http_5xx"]);
  assert.deepEqual(await judged(answers.text("<html>welcome</html>")), ["hard", "malformed"]);
  assert.deepEqual(await judged(answers.status(404)), ["hard", "malformed"]);
  assert.deepEqual(await judged(answers.hang, 300), ["hard", "timeout"]);
  assert.deepEqual(await judged(answers.text(`data: ${"x".repeat(3_000_000)}\n\n`, "text/event-stream")), ["hard", "malformed"]);
  assert.deepEqual(await judged(answers.text("data: {}\n\n", "text/event-stream")), ["hard", "malformed"]);
  const rpcError: Handler = (_request, response, body) => {
    const { id } = JSON.parse(body) as { id: string };
    response
      .writeHead(200, { "content-type": "application/json" })
      .end(JSON.stringify({ jsonrpc: "2.0", id, error: { code: -32_603, message: "x" } }));
  };
  assert.deepEqual(await judged(rpcError), ["caller", null], "M6: an answer to our id is a sign of life");
});

test("a time-out that fires late, because this process stood still, says nothing of the endpoint", async () => {
  const opened = runner();
  const fake = await server(answers.hang);
  const probe = opened.probe(targetOf("http", fake.url), { fresh: true, timeoutMs: 300 });
  await eventually(() => fake.requests.length === 1, { what: "the probe is under way" });
  for (const endMs = performance.now() + 1000; performance.now() < endMs; );
  const late = await probe;
  assert.deepEqual([late.kind, late.kind === "not_made" && late.reason], ["not_made", "late"]);
});

const fails = (code: string, more: { readonly address?: string; readonly cause?: Error } = {}): Error =>
  Object.assign(new Error(code), { code, ...more });

test("of several addresses, one that was tried tells of the endpoint; one that this machine has no address for is out of reach, and nothing has run out", (t) => {
  const noPort = fails("EADDRNOTAVAIL", { address: "2001:db8::1" });
  const refused = fails("ECONNREFUSED", { address: "127.0.0.1" });
  const both = Object.assign(new AggregateError([noPort, refused]), { code: "EADDRNOTAVAIL" });
  assert.deepEqual([exhaustedBy(both), errorCodeOf(both), errorCodeOf(fails("X", { cause: both }))], [null, "ECONNREFUSED", "X"]);
  const loopback = { address: "::1", family: "IPv6", internal: true } as os.NetworkInterfaceInfo;
  const local = { address: "fe80::1", family: "IPv6", internal: false } as os.NetworkInterfaceInfo;
  const global = { address: "2001:db8::2", family: "IPv6", internal: false } as os.NetworkInterfaceInfo;
  const of = (address: string, own: os.NetworkInterfaceInfo[]) => {
    t.mock.method(os, "networkInterfaces", () => ({ eth0: own }));
    return exhaustedBy(fails("EADDRNOTAVAIL", { address }));
  };
  assert.deepEqual([of("2001:db8::1", [loopback, local]), of("::1", [global])], [null, null]);
  for (const told of [of("2001:db8::1", [global]), of("::1", [loopback]), of("10.0.0.1", [])])
    assert.match(told ?? "", /^ports .*EADDRNOTAVAIL/);
  const all = new AggregateError([fails("EMFILE"), fails("EMFILE")]);
  assert.match(exhaustedBy(new Error("outer", { cause: all })) ?? "", /^files .*EMFILE/);
});

test("what this process or its machine has run out of says nothing of the endpoint, whatever its type", async (t) => {
  const opened = runner();
  const real = dns.lookup;
  let code = "";
  dns.lookup = ((_name: string, _options: unknown, told: (error: Error) => void) => told(fails(code))) as unknown as typeof dns.lookup;
  syncBuiltinESMExports();
  t.after(() => {
    dns.lookup = real;
    syncBuiltinESMExports();
  });
  const targets = [
    targetOf("http", "http://endpoint.test"),
    targetOf("mcp", "https://endpoint.test/mcp"),
    targetOf("http", "http://endpoint.test", {}, { type: "tcp", url: "tcp://endpoint.test:1" }),
  ];
  for (code of ["EMFILE", "ENFILE", "ENOMEM", "ENOBUFS", "EADDRNOTAVAIL", "EAI_MEMORY"]) {
    for (const target of targets) {
      const probe = await opened.probe(target, { fresh: true, timeoutMs: 1000 });
      assert.deepEqual([probe.kind, probe.kind === "not_made" && probe.reason], ["not_made", "exhausted"], `${code} ${target.type}`);
    }
  }
  code = "ENOTFOUND";
  for (const target of targets) assert.equal((await made(opened, target)).result.code, "dns");
});

test("a probe path is put after the endpoint's own", () => {
  assert.equal(joinPath("http://h/api", ""), "http://h/api");
  assert.equal(joinPath("http://h/api/", "/health"), "http://h/api/health");
  assert.equal(joinPath("http://h", "health?deep=1"), "http://h/health?deep=1");
  assert.equal(joinPath("http://h/api?key=1", "?x=2"), "http://h/api?x=2");
});
