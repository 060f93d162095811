import assert from "node:assert/strict";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { createServer, request, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { until } from "../harness/wait.ts";
import { type RouterWorld, routerWorld } from "./router-world.ts";

let world: RouterWorld;
let router: Awaited<ReturnType<RouterWorld["startRouter"]>>;
let upstream: Server;

const upstreams = (spares: number) => {
  const url = `http://127.0.0.1:${(upstream.address() as AddressInfo).port}`;
  const spare = Array.from({ length: spares }, (_, index) => ({ name: `spare-${index}`, url: `${url}/spare-${index}`, tier: 1 }));
  return {
    upstreams: {
      echo: { kind: "http", endpoints: [{ name: "primary", url: `${url}/`, tier: 0 }, ...spare] },
      tools: { kind: "mcp", endpoints: [{ name: "primary", url: `${url}/mcp`, tier: 0 }] },
    },
  };
};
const initialize = JSON.stringify({
  jsonrpc: "2.0",
  id: 1,
  method: "initialize",
  params: { protocolVersion: "2025-11-25", capabilities: {}, clientInfo: { name: "test", version: "1" } },
});
const initialized = JSON.stringify({
  jsonrpc: "2.0",
  id: 1,
  result: { protocolVersion: "2025-11-25", capabilities: { tools: {} }, serverInfo: { name: "test", version: "1" } },
});

before(async () => {
  upstream = createServer((incoming, response) => {
    incoming.resume();
    // In flight for a moment, so that a stop has something to wait for.
    const isMcp = incoming.url === "/mcp";
    if (isMcp) response.setHeader("content-type", "application/json");
    setTimeout(() => response.end(isMcp ? initialized : "here"), 5);
  }).listen(0, "127.0.0.1");
  await once(upstream, "listening");
  world = await routerWorld();
  await world.configure(upstreams(0));
  router = await world.startRouter("router", { MCPF_ROUTER_WORKERS: "2" });
  await until(() => workersOf(router.pid).length === 2, 15_000);
  for (const path of paths) await until(async () => (await call(path)) === "200", 15_000);
});
after(async () => {
  await world?.stop();
  upstream?.closeAllConnections();
  upstream?.close();
});

function workersOf(parent: number): number[] {
  return readdirSync("/proc").flatMap((name) => {
    if (!/^\d+$/.test(name)) return [];
    try {
      const stat = readFileSync(`/proc/${name}/stat`, "utf8");
      return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]) === parent ? [Number(name)] : [];
    } catch {
      // It ended meanwhile.
      return [];
    }
  });
}

const headers = { "content-type": "application/json", accept: "application/json, text/event-stream" };
/** What the strict front reads, and what node:http does. */
const paths = ["/mcp/tools", "/http/echo/x"];

/** One call on a connection of its own: its status, or how it failed. */
function call(path = "/http/echo/x"): Promise<string> {
  return new Promise((resolve) => {
    const sent = request(`${world.url}${path}`, { method: "POST", agent: false, timeout: 5000, headers }, (response) => {
      response.on("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
      response.on("end", () => resolve(String(response.statusCode))).resume();
    });
    sent.on("timeout", () => sent.destroy(new Error("no answer")));
    sent.on("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
    sent.end(initialize);
  });
}

/** Calls all the time, four at once, each on a new connection, while something is done. */
async function callsDuring(work: () => Promise<void>): Promise<Map<string, number>> {
  const seen = new Map<string, number>();
  let over = false;
  const client = async (path = ""): Promise<void> => {
    while (!over) {
      const outcome = await call(path);
      seen.set(outcome, (seen.get(outcome) ?? 0) + 1);
      await sleep(2);
    }
  };
  const clients = Array.from({ length: 4 }, (_, index) => client(paths[index % paths.length]));
  try {
    await work();
  } finally {
    over = true;
    await Promise.all(clients);
  }
  return seen;
}

test("K1, K4: while both workers are replaced by new ones, every call on a new connection is answered: none is refused, none reset", async () => {
  const old = workersOf(router.pid);
  const seen = await callsDuring(async () => {
    router.kill("SIGHUP");
    await until(() => workersOf(router.pid).length === 2 && workersOf(router.pid).every((pid) => !old.includes(pid)), 20_000);
  });
  assert.deepEqual([...seen.keys()], ["200"], `${JSON.stringify([...seen])}\n${router.output()}`);
});

test("a configuration that changes under calls drops none", async () => {
  const seen = await callsDuring(async () => {
    for (let change = 1; change <= 5; change += 1) {
      await world.configure(upstreams(change % 3));
      await sleep(200);
    }
  });
  assert.deepEqual([...seen.keys()], ["200"], JSON.stringify([...seen]));
});

test("K1, K2: a worker that is killed is started again, and no connection is refused meanwhile", async () => {
  const [victim] = workersOf(router.pid);
  const seen = await callsDuring(async () => {
    process.kill(victim as number, "SIGKILL");
    await until(() => workersOf(router.pid).length === 2 && !workersOf(router.pid).includes(victim as number), 20_000);
    await sleep(300);
  });
  // What it had taken dies with it, also what was just being handed to it; the rest goes to the other one.
  assert.equal(seen.get("ECONNREFUSED"), undefined, `${JSON.stringify([...seen])}\n${router.output()}`);
  assert.ok((seen.get("200") ?? 0) > 0);
});

test("K5: a worker that hangs is killed and replaced, and the other one serves meanwhile", async () => {
  const [victim, other] = workersOf(router.pid) as [number, number];
  process.kill(victim, "SIGSTOP");
  await until(() => workersOf(router.pid).length === 2 && !workersOf(router.pid).includes(victim), 60_000);
  assert.ok(workersOf(router.pid).includes(other), router.output());
  for (const path of paths) assert.equal(await call(path), "200");
});

test("K3: SIGTERM ends parent and workers in good order", async () => {
  const workers = workersOf(router.pid);
  assert.equal(await router.stop(), 0);
  for (const pid of workers) assert.throws(() => process.kill(pid, 0), { code: "ESRCH" });
});
