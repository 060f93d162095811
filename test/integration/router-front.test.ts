import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type Server } from "node:http";
import { type AddressInfo, connect, type Socket } from "node:net";
import { after, before, test } from "node:test";
import { freePort } from "@mcp-failover/testkit";
import { until } from "../harness/wait.ts";
import { type RouterWorld, routerWorld } from "./router-world.ts";

let world: RouterWorld;
let upstream: Server;
const sockets: Socket[] = [];

before(async () => {
  upstream = createServer((incoming, response) => {
    incoming.resume();
    const result = { protocolVersion: "2025-11-25", capabilities: { tools: {} }, serverInfo: { name: "test", version: "1" } };
    response.setHeader("content-type", "application/json").end(JSON.stringify({ jsonrpc: "2.0", id: 1, result }));
  }).listen(0, "127.0.0.1");
  await once(upstream, "listening");
  const url = `http://127.0.0.1:${(upstream.address() as AddressInfo).port}/mcp`;
  world = await routerWorld();
  await world.configure({ upstreams: { tools: { kind: "mcp", endpoints: [{ name: "primary", url, tier: 0 }] } } });
});
after(async () => {
  for (const socket of sockets) socket.destroy();
  await world?.stop();
  upstream?.closeAllConnections();
  upstream?.close();
});

/** A connection that stays, and all that came on it. */
function dial(port: number): { say: (text: string) => void; came: () => string } {
  const socket = connect(port, "127.0.0.1").setEncoding("latin1");
  let came = "";
  socket.on("data", (part) => {
    came += part;
  });
  socket.on("error", () => undefined);
  sockets.push(socket);
  return { say: (text) => void socket.write(text), came: () => came };
}
const params = { protocolVersion: "2025-11-25", capabilities: {}, clientInfo: { name: "test", version: "1" } };
const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method: "initialize", params });
const plain = [
  "POST /mcp/tools HTTP/1.1",
  "host: localhost",
  "content-type: application/json",
  "accept: application/json, text/event-stream",
  `content-length: ${body.length}`,
  "",
  body,
].join("\r\n");
const chunked = plain
  .replace(/content-length: \d+/, "transfer-encoding: chunked")
  .replace(body, `${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`);

/** The connections of one reader, as `/metrics` tells. The one that asks is among those of node:http. */
async function connectionsOf(port: number, reader: "front" | "node"): Promise<number> {
  const page = await (await fetch(`http://127.0.0.1:${port}/metrics`, { headers: { connection: "close" } })).text();
  return Number(new RegExp(`^mcpf_router_connections\\{reader="${reader}"\\} (\\d+)$`, "m").exec(page)?.[1]);
}
const answers = (came: string): number => came.split("HTTP/1.1 200 OK").length - 1;

test("small plain calls are read by the strict front without anybody asking for it, and what is unusual makes a connection node:http's", async () => {
  const port = Number(new URL(world.url).port);
  await world.startRouter("router-on");
  const line = dial(port);
  line.say(plain);
  await until(() => answers(line.came()) === 1, 15_000, line.came);
  assert.equal(await connectionsOf(port, "front"), 1);
  line.say(chunked);
  await until(() => answers(line.came()) === 2, 15_000, line.came);
  assert.equal(await connectionsOf(port, "front"), 0);
  assert.ok((await connectionsOf(port, "node")) >= 1);
});

test("with MCPF_ROUTER_FRONT=off every request is read by node:http", async () => {
  const port = await freePort();
  await world.startRouter("router-off", { MCPF_ROUTER_FRONT: "off", MCPF_ROUTER_PORT: String(port) });
  const line = dial(port);
  line.say(plain);
  await until(() => answers(line.came()) === 1, 15_000, line.came);
  assert.equal(await connectionsOf(port, "front"), 0);
  assert.ok((await connectionsOf(port, "node")) >= 1);
});
