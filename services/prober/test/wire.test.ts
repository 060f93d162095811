import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { openWire, type WireRequest } from "../src/probes/wire.ts";

function wireFor(t: TestContext, connections?: number) {
  const wire = openWire(connections);
  t.after(() => wire.close());
  return wire;
}
const get = (url: string, more: Partial<WireRequest> = {}): WireRequest => ({
  url,
  method: "GET",
  headers: {},
  fresh: false,
  signal: AbortSignal.timeout(5000),
  ...more,
});

/** A port whose packets are swallowed: the process behind it stands still, and its queue of connections is full. */
async function silentPort(t: TestContext): Promise<number> {
  const code = 'const s=require("node:net").createServer();s.listen({port:0,host:"127.0.0.1",backlog:1},()=>console.log(s.address().port))';
  const child = spawn(process.execPath, ["-e", code], { stdio: ["ignore", "pipe", "inherit"] });
  t.after(() => child.kill("SIGKILL"));
  const [first] = (await once(child.stdout, "data")) as [Buffer];
  const port = Number(first.toString("utf8"));
  child.kill("SIGSTOP");
  const sockets = Array.from({ length: 6 }, () => connect(port, "127.0.0.1").on("error", () => undefined));
  t.after(() => {
    for (const socket of sockets) socket.destroy();
  });
  await sleep(200);
  return port;
}

test("W4: a request that is given up ends at once, also where the network swallows the packets of its connection", async (t) => {
  const port = await silentPort(t);
  const wire = wireFor(t);
  for (const fresh of [true, false]) {
    for (const call of ["look", "send"] as const) {
      const startedMs = performance.now();
      const request = get(`http://127.0.0.1:${port}/`, { fresh, signal: AbortSignal.timeout(200) });
      await assert.rejects(() => (call === "look" ? wire.look(request, 1000) : wire.send(request)));
      const tookMs = performance.now() - startedMs;
      // Making the connection may take five seconds.
      assert.ok(tookMs < 3000, `${call} ${fresh ? "fresh" : "kept"}: ${tookMs} ms`);
    }
  }
});

test("one host is never given more connections than its limit, and they are used again", async (t) => {
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
    await Promise.all(Array.from({ length: 12 }, (_, index) => wire.look(get(`${url}/${index}`), 1000)));
  }
  assert.deepEqual([requests, sockets.size], [60, 4]);
});
