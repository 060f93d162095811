import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { watchIdle } from "../src/idle-connections.ts";

test("S4, R26: closes a connection that idles for too long, and none with a request on it, also after another was answered", async (t) => {
  const overs: (() => void)[] = [];
  const server = createServer({ keepAliveTimeout: 0 }, (request, response) => {
    const over = idle.begin(request.socket);
    response.once("close", over);
    overs.push(() => response.end("done"));
  });
  const idle = watchIdle(server, 30, 60_000);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const [busy, quiet, one] = [connect(port, "127.0.0.1"), connect(port, "127.0.0.1"), connect(port, "127.0.0.1")];
  t.after(() => {
    busy.destroy();
    one.destroy();
    server.closeAllConnections();
    server.close();
  });
  let came = "";
  busy.on("data", (chunk) => {
    came += chunk.toString();
  });
  const closed = once(quiet.resume(), "close");
  busy.write("GET / HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nhost: x\r\n\r\n");
  while (overs.length < 2) await sleep(5);
  one.write("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
  while (overs.length < 3) await sleep(5);
  overs[0]?.();
  await sleep(60);
  idle.sweep();
  await closed;
  overs[1]?.();
  while (came.split("done").length < 3) await sleep(5);
  assert.equal(busy.destroyed, false);
  overs[2]?.();
  assert.match(String((await once(one, "data"))[0]), /done/);
});
