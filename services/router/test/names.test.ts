// First: it is read once.
import "@mcp-failover/service-kit/threads";
import assert from "node:assert/strict";
import dns from "node:dns";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { LookUp } from "@mcp-failover/service-kit";
import { legacyAgent } from "../src/control/legacy.ts";
import type { EndpointView } from "../src/control/port.ts";
import { answers, reaches } from "../src/control/reach.ts";
import { createUpstreamClient } from "../src/upstream-client.ts";

const viewOf = (name: string, url: string): EndpointView => ({ name, url, role: "write", headers: {} });

test("an endpoint whose name server is silent takes one place for names, however many wait for it, and a hundred of them leave some: another one is reached", async (t) => {
  // As the system's resolver with the router's threads: what finds all places taken waits until one is free.
  const placesMax = 32;
  let taken = 0;
  let silent = 0;
  const resolve = (name: string, options: { all?: boolean }, tell: Parameters<LookUp>[2]): void => {
    if (taken === placesMax) return void setTimeout(resolve, 5, name, options, tell).unref();
    if (name.startsWith("silent")) {
      silent += 1;
      taken += 1;
    } else if (options.all === true) tell(null, [{ address: "127.0.0.1", family: 4 }]);
    else tell(null, "127.0.0.1", 4);
  };
  t.mock.method(dns, "lookup", resolve);
  const server = createServer((_, response) => response.end("here")).listen(0, "127.0.0.1");
  await new Promise((done) => server.once("listening", done));
  const { port } = server.address() as AddressInfo;
  const client = createUpstreamClient({ connectionsMax: 100, headerBytesMax: 65_536, idleMs: 4000 });
  const agent = legacyAgent(1000);
  t.after(async () => {
    await client.close();
    await agent.destroy();
    server.closeAllConnections();
    server.close();
  });
  const send = (url: string) =>
    client.send({ endpoint: viewOf("any", url), method: "GET", headers: {}, body: null, connectMs: 1000, lane: "call" });
  const inVain = Array.from({ length: 10 }, (_, index) => send(`http${index % 2 === 0 ? "" : "s"}://silent.example:1/`));
  const looks = [reaches("http://silent.example:1/", 1000), answers("http://silent.example:1/", 1000)];
  const served = agent.request({ origin: "http://silent.example:1", path: "/", method: "GET" });
  await sleep(20);
  assert.equal(silent, 1);
  const there = `http://there.example:${port}/`;
  assert.equal((await send(there)).status, 200);
  assert.equal(await reaches(there, 1000), "listens");
  assert.equal(await answers(there, 1000), "answers");
  assert.equal((await agent.request({ origin: there.slice(0, -1), path: "/", method: "GET" })).statusCode, 200);
  const many = Array.from({ length: 100 }, (_, index) => send(`http://silent${index}.example:1/`));
  await sleep(20);
  assert.ok(silent > 1 && silent < placesMax, `${silent} of ${placesMax} places are taken`);
  assert.equal(await reaches(there, 1000), "listens");
  assert.equal(await answers(there, 1000), "answers");
  assert.equal((await agent.request({ origin: there.slice(0, -1), path: "/", method: "GET" })).statusCode, 200);
  for (const one of [...inVain, ...many, served]) await assert.rejects(one);
  assert.deepEqual(await Promise.all(looks), ["silent", "silent"]);
});
