import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, get } from "node:http";
import type { AddressInfo } from "node:net";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { TcpProxy } from "../src/proxy.ts";
import { dial, echo, echoMs, endOf, freePort, listen, proxied, until } from "./sockets.ts";

async function world(t: TestContext): Promise<TcpProxy> {
  const port = await freePort();
  await listen(t, port, echo);
  const proxy = await proxied(t, port);
  await until(() => proxy.view().upstream === "accepting");
  return proxy;
}

test("P1: in a blackhole nothing passes and no connection ends, a new one is taken too, and afterwards all that was sent arrives", async (t) => {
  const proxy = await world(t);
  const old = dial(t, proxy);
  await once(old, "connect");
  await echoMs(old);
  proxy.setFault({ kind: "blackhole", ttlMs: 10_000 });
  const heard: string[] = [];
  for (const socket of [old, dial(t, proxy)]) {
    socket.on("data", (chunk: Buffer) => heard.push(chunk.toString()));
    socket.on("close", () => heard.push("closed"));
    if (socket.connecting) await once(socket, "connect");
    socket.write("hello");
  }
  await sleep(300);
  assert.deepEqual(heard, []);
  proxy.clearFault();
  await until(() => heard.length === 2);
  assert.deepEqual(heard, ["hello", "hello"]);
});

test("an answer that is under way when a blackhole begins is held back, and arrives after it", async (t) => {
  const proxy = await world(t);
  const socket = dial(t, proxy);
  await once(socket, "connect");
  proxy.setFault({ latencyMs: 5000, ttlMs: 60_000 });
  const heard: string[] = [];
  socket.on("data", (chunk: Buffer) => heard.push(chunk.toString()));
  socket.write("x");
  await sleep(100);
  proxy.setFault({ kind: "blackhole", ttlMs: 60_000 });
  await sleep(250);
  assert.deepEqual(heard, []);
  proxy.setFault({ kind: "blackhole", ttlMs: 100 });
  await until(() => heard.length === 1);
});

test("reset: open connections are reset, and a new one as soon as it is there; at the lease's end they work again", async (t) => {
  const proxy = await world(t);
  const old = dial(t, proxy);
  await once(old, "connect");
  await echoMs(old);
  const end = endOf(old);
  proxy.setFault({ kind: "reset", ttlMs: 60_000 });
  assert.equal(await end, "ECONNRESET");
  assert.equal(await endOf(dial(t, proxy)), "ECONNRESET");
  proxy.setFault({ kind: "reset", ttlMs: 100 });
  await until(() => proxy.view().fault === null);
  const again = dial(t, proxy);
  await once(again, "connect");
  await echoMs(again);
});

test("refuse: the port is closed and open connections end in order; cleared, it is open again", async (t) => {
  const proxy = await world(t);
  const old = dial(t, proxy);
  await once(old, "connect");
  await echoMs(old);
  const end = endOf(old);
  old.once("end", () => old.end());
  proxy.setFault({ kind: "refuse", ttlMs: 10_000 });
  assert.equal(await end, "none");
  assert.equal(await endOf(dial(t, proxy)), "ECONNREFUSED");
  await sleep(150);
  assert.equal(await endOf(dial(t, proxy)), "ECONNREFUSED", "that the upstream accepts changes nothing");
  proxy.clearFault();
  await until(() => proxy.view().upstream === "accepting");
  const again = dial(t, proxy);
  await once(again, "connect");
  await echoMs(again);
});

test("status: each request is answered with it, on a kept connection too, none reaches the upstream, and a large body does not lose the answer", async (t) => {
  let requests = 0;
  const server = createServer((request, response) => {
    requests += 1;
    request.resume().on("end", () => response.end("fine"));
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const proxy = await proxied(t, (server.address() as AddressInfo).port);
  await until(() => proxy.view().upstream === "accepting");
  const url = `http://127.0.0.1:${proxy.listenPort}/`;
  assert.equal(await (await fetch(url)).text(), "fine");
  proxy.setFault({ kind: "status", status: 503, ttlMs: 10_000 });
  for (let i = 0; i < 3; i += 1) {
    const answer = await fetch(url);
    assert.deepEqual([answer.status, await answer.text()], [503, "fault proxy: 503\n"]);
  }
  const large = await fetch(url, { method: "POST", body: Buffer.alloc(4 * 1024 * 1024) });
  assert.equal(large.status, 503);
  await large.text();
  assert.equal(requests, 1);
  proxy.clearFault();
  const [answer] = await once(get(url, { agent: false }), "response");
  assert.equal(answer.statusCode, 200);
  answer.resume();
});

test("a status that is no error, and a lease that is none, are refused", async (t) => {
  const proxy = await world(t);
  assert.throws(() => proxy.setFault({ kind: "status", status: 200, ttlMs: 1000 }), RangeError);
  assert.throws(() => proxy.setFault({ kind: "reset", ttlMs: 0 }), RangeError);
});
