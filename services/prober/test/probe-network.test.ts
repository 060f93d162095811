import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { createSocket } from "node:dgram";
import { createServer as createHttp } from "node:http";
import { type AddressInfo, createServer as createTcp, type Server, type Socket } from "node:net";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { createServer as createTls } from "node:tls";
import { eventually, patientMs, selfSigned, startRedis } from "@mcp-failover/testkit";
import { WebSocketServer } from "ws";
import type { CheckContext } from "../src/probes/check.ts";
import { probeDns } from "../src/probes/dns.ts";
import { resultOf, runnerFor, silentPort, targetOf } from "./probe-kit.ts";

const dayMs = 86_400_000;

async function listening(t: TestContext, server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => new Promise((resolve) => server.close(resolve)));
  return (server.address() as AddressInfo).port;
}

test("tcp: a port that takes connections is well, and a closed one refused", async (t) => {
  const runner = runnerFor(t);
  const server = createTcp((socket) => socket.destroy());
  const port = await listening(t, server);
  const result = await resultOf(runner, targetOf({ type: "tcp", url: `tcp://127.0.0.1:${port}` }));
  assert.deepEqual([result.outcome, result.error], ["ok", null]);
  assert.ok(result.responseTimeMs > 0 && result.responseTimeMs < patientMs(2000), `${result.responseTimeMs}`);
  // The endpoint's own host and port, where no URL is given.
  assert.equal((await resultOf(runner, targetOf({ type: "tcp" }, `http://127.0.0.1:${port}/api`))).outcome, "ok");
  const refused = await resultOf(runner, targetOf({ type: "tcp", port: 9 }));
  assert.deepEqual([refused.outcome, refused.code], ["hard", "refused"]);
});

test("whatever its type, a probe of a server that takes connections and says nothing ends with its time-out, and leaves no connection", async (t) => {
  const open = new Set<Socket>();
  const server = createTcp((socket) => {
    open.add(socket);
    socket.on("close", () => open.delete(socket)).on("error", () => undefined);
    socket.resume();
  });
  const port = await listening(t, server);
  const runner = runnerFor(t);
  const at = (scheme: string): string => `${scheme}://127.0.0.1:${port}`;
  const mcp = { upstream: { kind: "mcp", tools: { look: { read_only: true } } } };
  const probes: [Parameters<typeof targetOf>[0], string, Parameters<typeof targetOf>[2]?][] = [
    [{ type: "http" }, at("http")],
    [{ type: "mcp" }, at("http"), mcp],
    [{ type: "mcp_tools" }, at("http"), mcp],
    [{ type: "mcp_canary", mcp_canary: { tool: "look" } }, at("http"), mcp],
    [{ type: "resource", resource: { metric: "m", limit: 1 } }, at("http")],
    [{ type: "tls" }, at("https")],
    [{ type: "websocket" }, at("http")],
    [{ type: "redis", port }, at("http")],
    [{ type: "bolt", port }, at("http")],
  ];
  for (const [probe, url, more] of probes) {
    const result = await resultOf(runner, targetOf(probe, url, more), { timeoutMs: 300 });
    assert.deepEqual([result.outcome, result.code], ["hard", "timeout"], `${JSON.stringify(probe)}: ${result.error}`);
  }
  await eventually(async () => open.size === 0, { withinMs: 8000, what: "no connection is left" });
});

test("tcp and tls: a port whose packets the network swallows is down at the time-out", async (t) => {
  const port = await silentPort(t);
  const runner = runnerFor(t);
  for (const type of ["tcp", "tls"]) {
    const result = await resultOf(runner, targetOf({ type, url: `${type}://127.0.0.1:${port}` }), { timeoutMs: 300 });
    assert.deepEqual([result.outcome, result.code], ["hard", "timeout"], type);
  }
});

test("tls: the days of a certificate are counted; the last 14 degrade, or what the configuration says; an untrusted or expired one is down", async (t) => {
  const serve = async (untilMs: number, name = "localhost") => {
    const { key, cert } = selfSigned({ untilMs, name, fromMs: Date.now() - 30 * dayMs });
    const server = createTls({ key, cert }, (socket) => socket.on("error", () => undefined));
    return { url: `tls://127.0.0.1:${await listening(t, server)}`, cert };
  };
  const runner = runnerFor(t);
  const long = await serve(Date.now() + 100.5 * dayMs);
  const tls = (url: string, ca: string, expect: object[] = []) => resultOf(runner, targetOf({ type: "tls", url, ca, expect }));
  const well = await tls(long.url, long.cert);
  assert.deepEqual([well.outcome, well.degraded], ["ok", undefined]);
  const more = await tls(long.url, long.cert, [{ of: "certificate_days", min: 101, severity: "degraded" }]);
  assert.deepEqual(more.degraded, { code: "certificate", detail: "certificate days: expected at least 101; saw 100" });
  const hard = await tls(long.url, long.cert, [{ of: "certificate_days", min: 101 }]);
  assert.deepEqual([hard.outcome, hard.code, hard.error], ["hard", "tls", "certificate days: expected at least 101; saw 100"]);
  const version = await tls(long.url, long.cert, [{ of: "protocol_version", equals: "TLSv1.3" }]);
  assert.equal(version.outcome, "ok");
  const short = await serve(Date.now() + 3.5 * dayMs);
  const ends = await tls(short.url, short.cert);
  assert.deepEqual(
    [ends.outcome, ends.degraded],
    ["ok", { code: "certificate", detail: "the certificate ends in 3 days; expected at least 14" }],
  );
  const expired = await serve(Date.now() - dayMs);
  assert.deepEqual([(await tls(expired.url, expired.cert)).outcome, (await tls(expired.url, expired.cert)).code], ["hard", "tls"]);
  const untrusted = await resultOf(runner, targetOf({ type: "tls", url: long.url }));
  assert.deepEqual([untrusted.outcome, untrusted.code, untrusted.error], ["hard", "tls", "no answer: tls (DEPTH_ZERO_SELF_SIGNED_CERT)"]);
});

test("dns: a name server on loopback that answers is well; no record, a wrong one, and silence are told apart", async (t) => {
  const asked: string[] = [];
  const responder = createSocket("udp4");
  await new Promise<void>((resolve) => responder.bind(0, "127.0.0.1", resolve));
  t.after(() => responder.close());
  responder.on("message", (query, peer) => {
    const labels: string[] = [];
    let at = 12;
    for (let length = query[at] ?? 0; length > 0; length = query[at] ?? 0) {
      labels.push(query.subarray(at + 1, at + 1 + length).toString("latin1"));
      at += length + 1;
    }
    const name = labels.join(".");
    asked.push(name);
    if (name.startsWith("silent")) return;
    const isKnown = name.startsWith("known");
    const head = Buffer.from([query[0] ?? 0, query[1] ?? 0, 0x81, isKnown ? 0x80 : 0x83, 0, 1, 0, isKnown ? 1 : 0, 0, 0, 0, 0]);
    const answer = Buffer.from([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 1, 2, 3]);
    const reply = Buffer.concat([head, query.subarray(12, at + 5), ...(isKnown ? [answer] : [])]);
    setTimeout(() => responder.send(reply, peer.port, peer.address), name.startsWith("known-late") ? 2600 : 0);
  });
  const runner = runnerFor(t);
  const server = `127.0.0.1:${responder.address().port}`;
  const dns = (name: string, expect: object[] = [], timeoutMs = 2000) =>
    resultOf(runner, targetOf({ type: "dns", dns: { name, server }, expect }), { timeoutMs });
  assert.equal((await dns("known.example")).outcome, "ok");
  assert.equal((await dns("known.example", [{ of: "json", path: "$.answers[*]", equals: "10.1.2.3" }])).outcome, "ok");
  const wrong = await dns("known.example", [{ of: "json", path: "$.answers[*]", equals: "10.9.9.9" }]);
  assert.deepEqual([wrong.outcome, wrong.error], ["hard", 'JSON $.answers[*]: expected "10.9.9.9"; saw "10.1.2.3"']);
  const none = await dns("unknown.example");
  assert.deepEqual([none.outcome, none.code, none.error], ["hard", "dns", "no A record of unknown.example: ENOTFOUND"]);
  const silent = await dns("silent.example", [], 200);
  assert.deepEqual([silent.outcome, silent.code], ["hard", "timeout"]);
  assert.equal((await dns("known-late.example", [], 10_000)).outcome, "ok", "it has the time that the probe has");
  // Without a name, that of the endpoint's host.
  const own = await resultOf(runner, targetOf({ type: "dns", dns: { server } }, "https://known.example/api"));
  assert.deepEqual([own.outcome, asked.at(-1)], ["ok", "known.example"]);
});

test("dns: a probe that is over asks no more: whom it had asked for ten minutes is let go", async (t) => {
  const responder = createSocket("udp4");
  await new Promise<void>((resolve) => responder.bind(0, "127.0.0.1", resolve));
  const ending = new AbortController();
  const asked = new Promise<() => void>((resolve) => {
    responder.once("message", (query, peer) =>
      // There is no such name: what still waits for an answer has one then.
      resolve(() =>
        responder.send(Buffer.from(query).fill(Buffer.from([0x81, 0x83]), 2, 4), peer.port, peer.address, () => responder.close()),
      ),
    );
  });
  const { checks } = targetOf({ type: "dns", dns: { name: "silent.example", server: `127.0.0.1:${responder.address().port}` } });
  const probe = probeDns({ check: checks[0], signal: ending.signal } as CheckContext);
  const ended = probe.then(
    () => "answered",
    (error: NodeJS.ErrnoException) => error.code,
  );
  const answer = await asked;
  t.after(answer);
  ending.abort();
  assert.equal(await Promise.race([ended, sleep(patientMs(2000), "it still asks", { ref: false })]), "ECANCELLED");
});

test("websocket: the upgrade and a ping, or the first message; what refuses the upgrade is judged by its status", async (t) => {
  const http = createHttp((_request, response) => response.writeHead(200).end("hello"));
  const port = await listening(t, http);
  const sockets = new WebSocketServer({ noServer: true });
  const keys: (string | undefined)[] = [];
  let refuse: string | null = null;
  http.on("upgrade", (request, socket, head) => {
    keys.push(request.headers["x-api-key"] as string | undefined);
    if (refuse !== null) {
      socket.end(`HTTP/1.1 ${refuse}\r\ncontent-length: 0\r\n\r\n`);
      return;
    }
    sockets.handleUpgrade(request, socket, head, (opened) => {
      opened.on("message", (data) => opened.send(JSON.stringify({ echo: String(data), status: "ready" })));
    });
  });
  const runner = runnerFor(t, { secrets: { KEY: "ws-key-value" } });
  const endpoint = { headers: { "X-Api-Key": { secret: "KEY" } } };
  const socket = (probe: object = {}) =>
    resultOf(runner, targetOf({ type: "websocket", ...probe }, `http://127.0.0.1:${port}/live`, { endpoint }));
  const plain = await socket();
  assert.deepEqual([plain.outcome, plain.error, keys], ["ok", null, ["ws-key-value"]]);
  const asked = await socket({
    body: "hi",
    expect: [
      { of: "json", path: "$.echo", equals: "hi" },
      { of: "body", contains: "ready" },
    ],
  });
  assert.equal(asked.outcome, "ok", String(asked.error));
  const wrong = await socket({ body: { ask: 1 }, expect: [{ of: "json", path: "$.status", equals: "up" }] });
  assert.deepEqual([wrong.outcome, wrong.error], ["hard", 'JSON $.status: expected "up"; saw "ready"']);
  const refusals: [string, string, string | null][] = [
    ["503 Unavailable", "hard", "http_5xx"],
    ["401 Unauthorized", "auth", null],
    ["429 Slow Down", "soft", null],
    ["200 OK", "hard", "malformed"],
  ];
  for (const [status, outcome, code] of refusals) {
    refuse = status;
    const result = await socket();
    assert.deepEqual([result.outcome, result.code], [outcome, code], status);
  }
  assert.ok(!keys.includes(undefined));
  for (let n = 0; n < 250 && sockets.clients.size > 0; n += 1) await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(sockets.clients.size, 0, "no connection is left");
});

test("websocket: a server that closes what it has just opened is down, whatever is asked of it, and its close code is told", async (t) => {
  const http = createHttp();
  const sockets = new WebSocketServer({ server: http });
  let code = 1000;
  sockets.on("connection", (opened) => (code === 0 ? opened.terminate() : opened.close(code, "secret words")));
  const url = `http://127.0.0.1:${await listening(t, http)}/live`;
  const runner = runnerFor(t);
  const upgraded = [{ of: "status", equals: 101 }];
  for (code of [1000, 1008, 1013, 4401]) {
    const result = await resultOf(runner, targetOf({ type: "websocket", body: "hello", expect: upgraded }, url));
    assert.deepEqual([result.outcome, result.code, result.error], ["hard", "closed", `it closed the WebSocket, with the code ${code}`]);
  }
  code = 0;
  assert.equal((await resultOf(runner, targetOf({ type: "websocket", body: "hello" }, url))).outcome, "hard");
});

test("websocket: a server that never closes in turn keeps no connection", async (t) => {
  const open = new Set<unknown>();
  const http = createHttp();
  http.on("upgrade", (request, socket) => {
    open.add(socket);
    socket.on("error", () => undefined);
    socket.on("end", () => {
      open.delete(socket);
      socket.destroy();
    });
    const accept = createHash("sha1")
      .update(`${request.headers["sec-websocket-key"]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`)
      .digest("base64");
    socket.write(
      `HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: ${accept}\r\n\r\n`,
    );
    // An empty pong, to whatever was said.
    socket.once("data", () => socket.write(Buffer.from([0x8a, 0])));
  });
  const target = targetOf({ type: "websocket" }, `http://127.0.0.1:${await listening(t, http)}/live`);
  assert.equal((await resultOf(runnerFor(t), target)).outcome, "ok");
  assert.equal(open.size, 1);
  await eventually(() => open.size === 0, { what: "the connection is closed" });
});

test("redis: PING of a real server; AUTH with what the endpoint names; INFO for assertions; refused credentials are no failure", async (t) => {
  const redis = await startRedis();
  t.after(() => redis.stop());
  const runner = runnerFor(t, { secrets: { REDIS_PASSWORD: "right-password", WRONG: "wrong-password" } });
  const { host } = new URL(redis.url);
  const probe = (more: object = {}) => resultOf(runner, targetOf({ type: "redis", url: `redis://${host}`, ...more }));
  const well = await probe();
  assert.deepEqual([well.outcome, well.error], ["ok", null]);
  const fields = await probe({
    expect: [
      { of: "json", path: "$.role", equals: "master" },
      { of: "json", path: "$.used_memory", max: 10, severity: "degraded" },
      { of: "protocol_version", matches: "^\\d+\\." },
    ],
  });
  assert.equal(fields.outcome, "ok", String(fields.error));
  assert.match(fields.degraded?.detail ?? "", /^JSON \$\.used_memory: expected at most 10; saw \d+$/);
  const talk = async (...words: string[]): Promise<void> => {
    const { connect } = await import("node:net");
    const socket = connect(Number(new URL(redis.url).port), "127.0.0.1");
    socket.write(`${words.join(" ")}\r\n`);
    await new Promise((resolve) => socket.once("data", resolve));
    socket.destroy();
  };
  await talk("CONFIG", "SET", "requirepass", "right-password");
  assert.equal((await probe()).outcome, "auth");
  assert.equal((await probe({ auth: { password: { secret: "WRONG" } } })).outcome, "auth");
  assert.equal((await probe({ auth: { password: { secret: "REDIS_PASSWORD" } } })).outcome, "ok");
  assert.equal((await probe({ auth: { username: "default", password: { secret: "REDIS_PASSWORD" } } })).outcome, "ok");
  await redis.stop();
  assert.deepEqual([(await probe()).outcome, (await probe()).code], ["hard", "refused"]);
});

test("redis: a server that loads its data is down, one that is no Redis is malformed, and what it says is not repeated", async (t) => {
  let reply = "-LOADING Redis is loading the dataset in memory secret-words\r\n";
  const server = createTcp((socket) => {
    socket.on("error", () => undefined);
    socket.on("data", () => socket.write(reply));
  });
  const url = `redis://127.0.0.1:${await listening(t, server)}`;
  const runner = runnerFor(t);
  const loading = await resultOf(runner, targetOf({ type: "redis", url }));
  assert.deepEqual([loading.outcome, loading.error], ["hard", "Redis says LOADING"]);
  for (const text of ["HTTP/1.1 400 Bad Request\r\n\r\n", "+NOPE\r\n", "$99999999999\r\n"]) {
    reply = text;
    const result = await resultOf(runner, targetOf({ type: "redis", url }));
    assert.deepEqual([result.outcome, result.code], ["hard", "malformed"], text);
  }
});

test("redis: credentials that it has no use for are refused ones, whatever its version, and no failure", async (t) => {
  let refusal = "";
  const server = createTcp((socket) => {
    socket.on("error", () => undefined);
    socket.on("data", (bytes) => socket.write(String(bytes).includes("AUTH") ? `-${refusal}\r\n` : "+PONG\r\n"));
  });
  const url = `redis://127.0.0.1:${await listening(t, server)}`;
  const runner = runnerFor(t, { secrets: { OF_REDIS: "word" } });
  const target = targetOf({ type: "redis", url, auth: { username: "prober", password: { secret: "OF_REDIS" } } });
  for (refusal of [
    "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
    "ERR Client sent AUTH, but no password is set",
    "ERR wrong number of arguments for 'auth' command",
    "ERR invalid password",
    "WRONGPASS invalid username-password pair or user is disabled.",
  ]) {
    assert.equal((await resultOf(runner, target)).outcome, "auth", refusal);
  }
  refusal = "ERR max number of clients reached";
  assert.equal((await resultOf(runner, target)).outcome, "hard");
});
