import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type RequestListener, type Server } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { type AddressInfo, connect, type Socket } from "node:net";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { connect as connectTls } from "node:tls";
import { eventually, patientMs, selfSigned } from "@mcp-failover/testkit";
import { standBefore } from "../src/front/front.ts";
import { watchIdle } from "../src/idle-connections.ts";

/** More than the system holds of one connection. */
const body = Buffer.alloc(48 * 1024 * 1024, "x");
const stalledMs = patientMs(500);
const request = "POST /mcp/any HTTP/1.1\r\nhost: any\r\ncontent-length: 2\r\n\r\nhi";

type Reader = "front" | "node";

/** A server that answers with more than a connection holds, and a client that has asked and reads nothing yet. */
async function world(t: TestContext, reader: Reader, isTls: boolean): Promise<{ socket: Socket; over: () => boolean }> {
  let isOver = false;
  const serve: RequestListener = (incoming, response) => {
    response.once("close", idle.begin(incoming.socket));
    response.once("close", () => {
      isOver = true;
    });
    response.end(body);
  };
  const files = selfSigned({ untilMs: Date.now() + 86_400_000, name: "localhost" });
  const server: Server = isTls ? createTlsServer({ keepAliveTimeout: 0, ...files }, serve) : createServer({ keepAliveTimeout: 0 }, serve);
  const idle = watchIdle(server, 60_000, stalledMs);
  const front =
    reader === "node"
      ? null
      : standBefore(server, {
          idleMs: 60_000,
          stalledMs,
          onTrouble: () => undefined,
          over: () => undefined,
          serve: (_, response) => response.end(body),
        });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const sweeping = setInterval(() => {
    idle.sweep();
    front?.sweep();
  }, 20);
  t.after(() => {
    clearInterval(sweeping);
    server.closeAllConnections();
    front?.closeAll();
    server.close();
  });
  const socket = isTls ? connectTls({ port, host: "127.0.0.1", rejectUnauthorized: false }) : connect(port, "127.0.0.1");
  t.after(() => socket.destroy());
  socket.on("error", () => undefined);
  await once(socket, isTls ? "secureConnect" : "connect");
  socket.pause();
  socket.write(request);
  return { socket, over: () => (front === null ? isOver : front.count === 0) };
}

for (const reader of ["front", "node"] as const)
  for (const isTls of [false, true]) {
    const by = `${reader}${isTls ? ", TLS" : ""}`;

    test(`S4: a client that asks and reads nothing is hung up on, and what waits for it is gone (${by})`, async (t) => {
      const { over } = await world(t, reader, isTls);
      await sleep(stalledMs / 2);
      assert.equal(over(), false, "not at once");
      await eventually(over, { withinMs: 10 * stalledMs });
    });

    test(`S4: a client that reads slowly gets everything, however long that takes (${by})`, async (t) => {
      const { socket } = await world(t, reader, isTls);
      let bytes = 0;
      const begunMs = performance.now();
      socket.on("data", (chunk: Buffer) => {
        bytes += chunk.length;
        // So that it takes several times as long as a client may stand still.
        const aheadMs = (bytes / body.length) * 4 * stalledMs - (performance.now() - begunMs);
        if (aheadMs < 5) return;
        socket.pause();
        setTimeout(() => socket.resume(), aheadMs);
      });
      socket.resume();
      await eventually(() => bytes > body.length, { withinMs: 40 * stalledMs });
      assert.ok(performance.now() - begunMs > 2 * stalledMs);
    });
  }
