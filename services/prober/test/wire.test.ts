import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createServer as createHttpsServer } from "node:https";
import { type AddressInfo, createServer as createTcpServer, type Socket } from "node:net";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { getCACertificates, setDefaultCACertificates } from "node:tls";
import { patientMs, selfSigned } from "@mcp-failover/testkit";
import { userAgent } from "../src/probes/http-connections.ts";
import { errorCodeOf, openWire, type SendRequest } from "../src/probes/wire.ts";
import { silentPort } from "./probe-kit.ts";

function wireFor(t: TestContext, connections?: number, lifeMs?: number) {
  const wire = openWire(connections, lifeMs);
  t.after(() => wire.close());
  return wire;
}
const limits = { bytesMax: 1000, keepsBody: false };
const get = (url: string, more: Partial<SendRequest> = {}): SendRequest => ({
  url,
  method: "GET",
  headers: {},
  fresh: false,
  signal: AbortSignal.timeout(5000),
  ...more,
});

test("W4: a request that is given up ends at once, also where the network swallows the packets of its connection", async (t) => {
  const port = await silentPort(t);
  const wire = wireFor(t);
  for (const fresh of [true, false]) {
    for (const call of ["look", "send"] as const) {
      const startedMs = performance.now();
      const request = get(`http://127.0.0.1:${port}/`, { fresh, signal: AbortSignal.timeout(200) });
      await assert.rejects(() => (call === "look" ? wire.look(request, limits) : wire.send(request)));
      const tookMs = performance.now() - startedMs;
      // Making the connection may take five seconds.
      assert.ok(tookMs < patientMs(3000), `${call} ${fresh ? "fresh" : "kept"}: ${tookMs} ms`);
    }
  }
});

test("C2: one host is never given more connections than its limit, and they are used again", async (t) => {
  const sockets = new Set<unknown>();
  let requests = 0;
  const server = createServer((request, response) => {
    requests += 1;
    sockets.add(request.socket);
    setTimeout(() => response.end("well"), 5);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const wire = wireFor(t, 4);
  for (let round = 0; round < 5; round += 1) {
    await Promise.all(Array.from({ length: 12 }, (_, index) => wire.look(get(`${url}/${index}`), limits)));
  }
  assert.deepEqual([requests, sockets.size], [60, 4]);
});

/** A raw server that answers each request as it is told, and keeps what it was sent by connection. */
async function rawServer(t: TestContext, answerTo: (request: string, socket: Socket) => void, host = "127.0.0.1") {
  const sent: string[][] = [];
  const sockets = new Set<Socket>();
  const server = createTcpServer((socket) => {
    const mine: string[] = [];
    sent.push(mine);
    sockets.add(socket);
    socket.on("error", () => undefined);
    socket.on("data", (chunk: Buffer) => {
      mine.push(chunk.toString("utf8"));
      answerTo(chunk.toString("utf8"), socket);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, host, resolve));
  t.after(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  const { port } = server.address() as AddressInfo;
  return { port, sent, sockets, url: host.includes(":") ? `http://[${host}]:${port}` : `http://${host}:${port}` };
}
const okAnswer = (more = ""): string => `HTTP/1.1 200 OK\r\n${more}content-length: 4\r\n\r\nwell`;

test("a request is sent as it was meant, with its body, its headers and the host that was asked for", async (t) => {
  const server = await rawServer(t, (_request, socket) => socket.write(okAnswer()));
  const wire = wireFor(t);
  const headers = { Host: "api.internal", "X-Key": "k" };
  const answer = await wire.look(get(`${server.url}/a b?c=ü`, { method: "POST", headers, body: "höllo" }), {
    bytesMax: 100,
    keepsBody: true,
  });
  assert.deepEqual([answer.status, answer.body.toString(), answer.enough], [200, "well", false]);
  await wire.look(get(server.url, { fresh: true }), limits);
  assert.deepEqual(server.sent, [
    [
      `POST /a%20b?c=%C3%BC HTTP/1.1\r\nhost: api.internal\r\nconnection: keep-alive\r\nX-Key: k\r\nuser-agent: ${userAgent}\r\naccept-encoding: identity\r\ncontent-length: 6\r\n\r\nhöllo`,
    ],
    [
      `GET / HTTP/1.1\r\nhost: 127.0.0.1:${server.port}\r\nconnection: close\r\nuser-agent: ${userAgent}\r\naccept-encoding: identity\r\n\r\n`,
    ],
  ]);
});

test("a request says who sends it, by the version of this package, where its headers name nobody", async (t) => {
  const server = await rawServer(t, (_request, socket) => socket.write(okAnswer("connection: close\r\n")));
  const wire = wireFor(t);
  const { version } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")) as { version: string };
  for (const headers of [{}, { "User-Agent": "ours/1" }] as Record<string, string>[]) {
    await wire.look(get(server.url, { headers }), limits);
    (await wire.send(get(server.url, { headers }))).release();
  }
  const said = server.sent.map(([request]) => [...(request ?? "").matchAll(/^user-agent: (.*)\r$/gim)].map(([, name]) => name));
  const ours = [`mcp-failover/${version}`];
  assert.deepEqual(said, [ours, ours, ["ours/1"], ["ours/1"]]);
});

test("a header that could end itself or say where the request ends is refused unsent, and its value is not told", async (t) => {
  const server = await rawServer(t, (_request, socket) => socket.write(okAnswer()));
  const wire = wireFor(t);
  for (const headers of [
    { "x-key": "s3cret\r\nx: y" },
    { "x\r\ny": "s3cret" },
    { "Content-Length": "3" },
    { "transfer-encoding": "chunked" },
  ]) {
    await assert.rejects(
      () => wire.look(get(server.url, { headers: headers as Record<string, string> }), limits),
      (error) => error instanceof TypeError && !error.message.includes("s3cret"),
    );
  }
  assert.deepEqual(server.sent, []);
});

test("C3: a kept connection that its server said something on, gave up or will soon give up is not used again", async (t) => {
  const cases: [string, (socket: Socket) => void, number][] = [
    [okAnswer(), () => undefined, 1],
    [okAnswer(), (socket) => socket.write("HTTP/1.1 408 too late\r\n\r\n"), 2],
    [okAnswer(), (socket) => socket.end(), 2],
    [okAnswer(), (socket) => socket.resetAndDestroy(), 2],
    [okAnswer("keep-alive: timeout=1\r\n"), () => undefined, 2],
    [okAnswer("connection: close\r\n"), () => undefined, 2],
    [`${okAnswer()}more`, () => undefined, 2],
  ];
  for (const [answer, afterwards, connections] of cases) {
    const server = await rawServer(t, (_request, socket) => socket.write(answer));
    const wire = wireFor(t);
    await wire.look(get(server.url), limits);
    for (const socket of server.sockets) afterwards(socket);
    await sleep(30);
    assert.equal((await wire.look(get(server.url), limits)).status, 200);
    assert.equal(server.sent.length, connections, answer);
  }
});

test("C3: a kept connection is not used for longer than its time, however often it is used: the name may mean another address by then", async (t) => {
  for (const call of ["look", "send"] as const) {
    const server = await rawServer(t, (_request, socket) => socket.write(okAnswer()));
    const wire = wireFor(t, 4, 1500);
    const use = async (): Promise<void> => {
      if (call === "look") await wire.look(get(server.url), limits);
      else {
        const answer = await wire.send(get(server.url));
        for await (const _chunk of answer.chunks());
        answer.release();
      }
      // undici takes a turn until its connection is free again.
      await sleep(20);
    };
    await use();
    await use();
    assert.equal(server.sent.length, 1, call);
    for (const endMs = performance.now() + patientMs(10_000); server.sent.length < 2 && performance.now() < endMs; ) {
      await use();
    }
    assert.ok(server.sent.length >= 2, `${call}: another connection after its time`);
  }
});

test("an answer that is cut off is closed, one without length ends with its connection, and an address of IPv6 is an address", async (t) => {
  const cut = await rawServer(t, (_request, socket) => socket.end("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nwe"));
  const wire = wireFor(t);
  await assert.rejects(
    () => wire.look(get(cut.url), limits),
    (error) => errorCodeOf(error) === "UND_ERR_SOCKET",
  );
  assert.equal(cut.sent.length, 2, "W1: it was tried on a fresh one");
  const open = await rawServer(t, (_request, socket) => socket.end("HTTP/1.1 200 OK\r\n\r\nwell"), "::1").catch(() => null);
  if (open === null) return t.diagnostic("no IPv6 here: that part is skipped");
  const answer = await wire.look(get(open.url), { bytesMax: 100, keepsBody: true });
  assert.equal(answer.body.toString(), "well");
});

test("TLS: the server hears which name is meant, or which one the configuration's host header says, and none for an address", async (t) => {
  const heard: string[] = [];
  const SNICallback = (name: string, done: (error: null) => void): void => {
    heard.push(name);
    done(null);
  };
  const server = createHttpsServer({ ...selfSigned({ untilMs: Date.now() + 3_600_000 }), SNICallback });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  const { port } = server.address() as AddressInfo;
  const wire = wireFor(t);
  const ask = async (host: string, headers: Record<string, string> = {}): Promise<void> => {
    // Nobody trusts the certificate, and the name was heard by then.
    await wire.look(get(`https://${host}:${port}/`, { fresh: true, headers }), limits).catch(() => undefined);
  };
  await ask("localhost");
  await ask("localhost", { Host: `api.internal:${port}` });
  await ask("127.0.0.1");
  assert.deepEqual(heard, ["localhost", "api.internal"]);
});

test("TLS: a certificate that does not verify is told as such; one that does serves kept and fresh connections", async (t) => {
  const { key, cert } = selfSigned({ untilMs: Date.now() + 3_600_000 });
  const sockets = new Set<unknown>();
  const server = createHttpsServer({ key, cert }, (request, response) => {
    sockets.add(request.socket);
    response.end("w".repeat(100_000));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  const wire = wireFor(t);
  await assert.rejects(
    () => wire.look(get(`https://127.0.0.1:${port}/`), limits),
    (error) => errorCodeOf(error) === "DEPTH_ZERO_SELF_SIGNED_CERT",
  );
  const before = getCACertificates("default");
  setDefaultCACertificates([...before, cert]);
  t.after(() => setDefaultCACertificates(before));
  for (const host of ["127.0.0.1", "localhost"]) {
    sockets.clear();
    for (const fresh of [false, false, true, false]) {
      const answer = await wire.look(get(`https://${host}:${port}/`, { fresh }), { bytesMax: 200_000, keepsBody: true });
      assert.deepEqual([answer.status, answer.body.toString() === "w".repeat(100_000)], [200, true]);
    }
    assert.equal(sockets.size, 2, host);
  }
});

test("what waits for a connection goes on when one is given up, and ends when the wire is closed", async (t) => {
  const server = await rawServer(t, (request, socket) => void (request.includes("/hang") ? null : socket.write(okAnswer())));
  const wire = wireFor(t, 1);
  const aborter = new AbortController();
  const hanging = assert.rejects(() => wire.look(get(`${server.url}/hang`, { signal: aborter.signal }), limits));
  const waiting = new AbortController();
  const givenUp = assert.rejects(() => wire.look(get(`${server.url}/never`, { signal: waiting.signal }), limits));
  const next = wire.look(get(`${server.url}/next`), limits);
  while (server.sent.flat().length === 0) await sleep(5);
  waiting.abort();
  await givenUp;
  aborter.abort();
  await hanging;
  assert.equal((await next).status, 200);
  assert.deepEqual(
    server.sent.flat().map((request) => request.split(" ")[1]),
    ["/hang", "/next"],
  );
  const left = [
    assert.rejects(() => wire.look(get(`${server.url}/hang`), limits)),
    assert.rejects(() => wire.look(get(server.url), limits)),
  ];
  await wire.close();
  await Promise.all(left);
});
