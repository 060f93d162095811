import assert from "node:assert/strict";
import { createServer } from "node:https";
import type { AddressInfo } from "node:net";
import { type TestContext, test } from "node:test";
import { gzipSync } from "node:zlib";
import { selfSigned } from "@mcp-failover/testkit";
import { resultOf, runnerFor, targetOf } from "./probe-kit.ts";
import { answers, fakeServer, type Handler } from "./servers.ts";

async function serverFor(t: TestContext, handler: Handler) {
  const server = await fakeServer(handler);
  t.after(() => server.kill());
  return server;
}

test("http: a failed assertion is down or degraded as it says, and a hard one is told before others", async (t) => {
  const body = JSON.stringify({ status: "yellow", shards: { failed: 2 } });
  const server = await serverFor(t, (_request, response) =>
    response.writeHead(200, { "content-type": "application/json", "x-version": "7" }).end(body),
  );
  const runner = runnerFor(t);
  const probe = (expect: object[]) => resultOf(runner, targetOf({ expect }, server.url));
  const yellow = { of: "json", path: "$.status", equals: "green", severity: "degraded" };
  const shards = { of: "json", path: "$.shards.failed", equals: 0 };
  const soft = await probe([yellow]);
  assert.deepEqual(
    [soft.outcome, soft.code, soft.error, soft.degraded],
    ["ok", null, null, { code: "assertion", detail: 'JSON $.status: expected "green"; saw "yellow"' }],
  );
  const hard = await probe([yellow, shards]);
  assert.deepEqual([hard.outcome, hard.code, hard.error], ["hard", "malformed", "JSON $.shards.failed: expected 0; saw 2"]);
  const all = [
    { of: "header", name: "X-Version", equals: 7 },
    { of: "body", contains: "shards" },
    { of: "status", equals: 200 },
    { of: "latency_ms", max: 1500 },
  ];
  const well = await probe(all);
  assert.deepEqual([well.outcome, well.error, well.degraded], ["ok", null, undefined]);
  server.handler = (_request, response) => void setTimeout(() => response.writeHead(200).end("{}"), 20);
  const slow = await probe([{ of: "latency_ms", max: 0, severity: "degraded" }]);
  assert.match(slow.degraded?.detail ?? "", /^latency ms: expected at most 0; saw \d+$/);
});

test("http: an expected status is well whatever it is otherwise; an unexpected one is down, but credentials and rate limits stay what they are", async (t) => {
  const server = await serverFor(t, answers.status(200));
  const runner = runnerFor(t);
  const cases: [number, number[], string][] = [
    [404, [404], "ok"],
    [401, [200, 401], "ok"],
    [503, [503], "ok"],
    [200, [204], "hard"],
    [404, [200], "hard"],
    [401, [200], "auth"],
    [429, [200], "soft"],
    [503, [200], "hard"],
  ];
  for (const [status, wanted, outcome] of cases) {
    server.handler = answers.status(status);
    const result = await resultOf(runner, targetOf({ expect: [{ of: "status", in: wanted }] }, server.url));
    assert.deepEqual([result.outcome, result.httpStatus], [outcome, status], `${status} where ${wanted} is expected`);
  }
});

test("a server that compresses for whoever takes it answers us as it is; one that does so unasked is told as that", async (t) => {
  let always = false;
  const server = await serverFor(t, (request, response, body) => {
    const { id = null, method } = JSON.parse(body || "{}") as { id?: unknown; method?: string };
    const supported = { jsonrpc: "2.0", id, result: { supportedVersions: ["2026-07-28"] } };
    const text = JSON.stringify(method === "server/discover" ? supported : { status: "green" });
    // RFC 9110, 12.5.3: without the header any coding is acceptable.
    const takes = request.headers["accept-encoding"];
    const packs = always || takes === undefined || /gzip/.test(String(takes));
    response.writeHead(200, { "content-type": "application/json", ...(packs ? { "content-encoding": "gzip" } : {}) });
    response.end(packs ? gzipSync(text) : text);
  });
  const runner = runnerFor(t);
  const json = targetOf({ type: "http", expect: [{ of: "json", path: "$.status", equals: "green" }] }, server.url);
  const mcp = targetOf({ type: "mcp" }, `${server.url}/mcp`, { upstream: { kind: "mcp" } });
  for (const target of [json, mcp]) {
    always = false;
    for (const fresh of [true, false]) assert.equal((await resultOf(runner, target, { fresh })).outcome, "ok");
    always = true;
    assert.match((await resultOf(runner, target)).error ?? "", /body (that )?is compressed, which was not asked for/);
  }
});

test("a server that calls a body that is none of the codings something else is read, as callers read it", async (t) => {
  let called = "";
  const server = await serverFor(t, (_request, response, body) => {
    const { id = null, method } = JSON.parse(body || "{}") as { id?: unknown; method?: string };
    const result = method === "server/discover" ? { supportedVersions: ["2026-07-28"] } : {};
    response.writeHead(200, { "content-type": "application/json", "content-encoding": called });
    response.end(JSON.stringify({ jsonrpc: "2.0", id, result, status: "green" }));
  });
  const runner = runnerFor(t);
  const json = targetOf({ type: "http", expect: [{ of: "json", path: "$.status", equals: "green" }] }, server.url);
  const mcp = targetOf({ type: "mcp" }, `${server.url}/mcp`, { upstream: { kind: "mcp" } });
  for (const target of [json, mcp]) {
    for (called of ["utf-8", "UTF8", "none", "identity", ""]) {
      const { outcome, error } = await resultOf(runner, target);
      assert.deepEqual([outcome, error], ["ok", null], `${target.type} ${called}`);
    }
    for (called of ["GZIP", "utf-8, br", "x-gzip", "deflate", "zstd"])
      assert.match((await resultOf(runner, target)).error ?? "", /is compressed, which was not asked for/, called);
  }
});

test("a server that repeats our key in its answer does not get it into a reason", async (t) => {
  const server = await serverFor(t, (request, response) => response.end(JSON.stringify({ key: request.headers["api-key"] })));
  const runner = runnerFor(t, { secrets: { KEY: "planted-key-value" } });
  const target = targetOf({ expect: [{ of: "json", path: "$.key", equals: "x" }] }, server.url, {
    endpoint: { headers: { "Api-Key": { secret: "KEY" } } },
  });
  const { error } = await resultOf(runner, target);
  assert.equal(error, 'JSON $.key: expected "x"; saw "[secret KEY]"');
});

test("P1: an endpoint's headers and credentials go to its own host and port alone, in checks too; what a check names itself goes with it", async (t) => {
  const own = await serverFor(t, answers.status(200));
  const foreign = await serverFor(t, answers.status(200));
  const runner = runnerFor(t, { secrets: { KEY: "own-key", PASSWORD: "own-password", OTHER: "other-key" } });
  const endpoint = { headers: { "Api-Key": { secret: "KEY" } }, auth: { username: "u", password: { secret: "PASSWORD" } } };
  const checks = [
    { type: "http", url: `${foreign.url}/status` },
    { type: "http", url: `${foreign.url}/named`, headers: { "Api-Key": { secret: "OTHER" } } },
    { type: "http", url: `${own.url}/deep` },
  ];
  const result = await resultOf(runner, targetOf({ path: "/health", checks }, own.url, { endpoint }));
  assert.equal(result.outcome, "ok");
  const seen = [...own.requests, ...foreign.requests].map(({ path, headers }) => [
    path,
    headers["api-key"],
    headers.authorization !== undefined,
  ]);
  assert.deepEqual(
    seen.sort(([a], [b]) => String(a).localeCompare(String(b))),
    [
      ["/deep", "own-key", true],
      ["/health", "own-key", true],
      ["/named", "other-key", false],
      ["/status", undefined, false],
    ],
  );
});

test("further checks: the worst counts by its own severity, named by its type; one that cannot be made here says nothing", async (t) => {
  const server = await serverFor(t, answers.status(200));
  const extra = await serverFor(t, answers.status(503));
  const runner = runnerFor(t);
  const probe = (...checks: object[]) => resultOf(runner, targetOf({ checks }, server.url));
  const hard = await probe({ type: "http", url: extra.url });
  assert.deepEqual([hard.outcome, hard.code, hard.error], ["hard", "http_5xx", "http check: HTTP 503: it failed"]);
  const soft = await probe({ type: "http", url: extra.url, severity: "degraded" });
  assert.deepEqual([soft.outcome, soft.degraded], ["ok", { code: "assertion", detail: "http check: HTTP 503: it failed" }]);
  assert.deepEqual([(await probe({ type: "exec", exec: { command: "nowhere" } })).outcome], ["ok"]);
  await extra.kill();
  assert.equal(
    (await probe({ type: "tcp", url: `tcp://127.0.0.1:${extra.port}`, severity: "degraded" })).degraded?.detail,
    "tcp check: no answer: refused (ECONNREFUSED)",
  );
});

test("nine checks of one host go out together, on kept connections too: each is timed by its own answer, not by a wait of our own", async (t) => {
  const held: (() => void)[] = [];
  // It answers once all have come.
  const server = await serverFor(t, (_request, response) => {
    held.push(() => response.end("{}"));
    if (held.length === 9) for (const answer of held.splice(0)) answer();
  });
  const checks = Array.from({ length: 8 }, (_, index) => ({ type: "http", path: `/${index}` }));
  const target = targetOf({ path: "/main", checks }, server.url);
  const runner = runnerFor(t);
  for (let time = 0; time < 2; time += 1) assert.equal((await resultOf(runner, target)).error, null);
  assert.equal(server.connections, 9, "which are kept");
});

test("every_ms: a good result stands for its time, a bad one is looked at again with the next probe", async (t) => {
  let nowMs = 1_800_000_000_000;
  const server = await serverFor(t, answers.status(200));
  const dear = await serverFor(t, answers.status(200));
  const runner = runnerFor(t, { nowMs: () => nowMs });
  const target = targetOf({ checks: [{ type: "http", url: dear.url, every_ms: 60_000, severity: "degraded" }] }, server.url);
  for (let n = 0; n < 5; n += 1) {
    assert.equal((await resultOf(runner, target, { fresh: n > 2 })).degraded, undefined);
    nowMs += 5000;
  }
  assert.deepEqual([server.requests.length, dear.requests.length], [5, 1]);
  nowMs += 60_000;
  dear.handler = answers.status(500);
  for (let n = 0; n < 3; n += 1) assert.equal((await resultOf(runner, target)).degraded?.code, "assertion");
  dear.handler = answers.status(200);
  assert.equal((await resultOf(runner, target)).degraded, undefined);
  assert.equal(dear.requests.length, 5);
  nowMs -= 3_600_000;
  assert.equal((await resultOf(runner, target)).degraded, undefined);
  assert.equal(dear.requests.length, 6, "nobody knows how old it is after the clock was set back");
});

test("certificate_days of a probe over TLS: read by a handshake of its own, at most once a minute", async (t) => {
  const { key, cert } = selfSigned({ untilMs: Date.now() + 9.5 * 86_400_000 });
  let connections = 0;
  const server = createServer({ key, cert }, (_request, response) => response.end("{}"));
  server.on("connection", () => {
    connections += 1;
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  const url = `wss://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const runner = runnerFor(t);
  // HTTPS trusts the machine's authorities alone, so the assertion is shown on a refused upgrade of the same server.
  const target = targetOf({
    type: "websocket",
    url,
    ca: cert,
    expect: [
      { of: "status", equals: 200 },
      { of: "certificate_days", min: 14, severity: "degraded" },
    ],
  });
  for (let n = 0; n < 3; n += 1) {
    const result = await resultOf(runner, target);
    assert.deepEqual(
      [result.outcome, result.degraded],
      ["ok", { code: "certificate", detail: "certificate days: expected at least 14; saw 9" }],
    );
  }
  assert.equal(connections, 4, "three probes and one look at the certificate");
});
