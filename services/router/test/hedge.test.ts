import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { type TestContext, test } from "node:test";
import { eventually } from "@mcp-failover/testkit";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import type { RouterControl } from "../src/control/port.ts";
import { type Fixture, start } from "./control/fixture.ts";
import { post, toolCall } from "./support/clients.ts";
import type { FakeControl } from "./support/fake-control.ts";
import { startMcpServer, type TestMcpServer } from "./support/mcp-server.ts";
import { startTestRouter } from "./support/router.ts";

const until = (what: string, holds: () => boolean) => eventually(holds, { what, withinMs: 30_000, everyMs: 10 });
/** Longer than any history of fast calls lets a read wait, shorter than the test. */
const slowMs = 15_000;

interface World {
  readonly fixture: Fixture;
  readonly primary: TestMcpServer;
  readonly secondary: TestMcpServer;
  call(tool: string, args?: Record<string, unknown>): Promise<string>;
}

/** A control of two healthy endpoints whose tool `whoami` is trusted to be read-only. */
async function pair(t: TestContext, primaryUrl: string, secondaryUrl: string) {
  const fixture = await start(t, {
    yaml: `
upstreams:
  fake:
    kind: mcp
    trusted: true
    endpoints:
      - { name: primary, url: "${primaryUrl}", tier: 0 }
      - { name: secondary, url: "${secondaryUrl}", tier: 1 }
    tools:
      whoami: { read_only: true }
`,
  });
  for (const name of ["primary", "secondary"]) await fixture.health("fake", name, { status: "healthy" });
  return fixture;
}

async function world(t: TestContext, options: { json: boolean }): Promise<World> {
  const primary = await startMcpServer("primary", options);
  const secondary = await startMcpServer("secondary", options);
  const fixture = await pair(t, primary.url, secondary.url);
  const router = await startTestRouter(fixture.control as RouterControl as FakeControl);
  const client = new Client({ name: "agent", version: "1" });
  await client.connect(new StreamableHTTPClientTransport(router.mcpUrl) as never);
  t.after(async () => {
    await client.close();
    await router.close(1000);
    await primary.kill();
    await secondary.kill();
  });
  return {
    fixture,
    primary,
    secondary,
    async call(name, args = {}) {
      const result = (await client.callTool({ name, arguments: args })) as { content: { text: string }[] };
      return result.content[0]?.text ?? "";
    },
  };
}

for (const json of [false, true]) {
  test(`R19: a read that is late at a slow server is answered by the other one and cancelled at the first (${json ? "JSON" : "SSE"} answers)`, async (t) => {
    const { fixture, primary, secondary, call } = await world(t, { json });
    for (let index = 0; index < 25; index += 1) assert.ok(await call("whoami"));
    primary.lagMs = slowMs;
    assert.equal(await call("whoami"), "secondary");
    await until("the slow server was told that its answer is not wanted", () => primary.seen.cancelled.length === 1);
    const hedges = () =>
      fixture.traffic.flatMap(({ endpoints }) => endpoints.filter(({ endpoint, hedgeWon = 0 }) => endpoint === "primary" && hedgeWon > 0));
    await until("it is said in what the router observed", () => hedges().length > 0);
    primary.lagMs = 0;
    assert.equal(await call("whoami"), "primary", "the session is where it was");
    assert.equal(secondary.writes.length, 0);
  });
}

test("R19: a write is waited for at its own server however late it is: it runs once, and nowhere else", async (t) => {
  const { primary, secondary, call } = await world(t, { json: false });
  for (let index = 0; index < 25; index += 1) await call("write", { key: `warm ${index}` });
  primary.lagMs = 1500;
  assert.match(await call("write", { key: "late" }), /^primary wrote late/);
  assert.equal(primary.writes.filter((key) => key === "late").length, 1);
  assert.deepEqual(secondary.writes, []);
});

test("R19: a late GET of a plain HTTP API is answered by the other endpoint; a POST is not sent twice", async (t) => {
  const seen: string[] = [];
  let lagMs = 0;
  const serve = (name: string, lag: () => number) =>
    createServer((request, response) => {
      seen.push(`${name} ${request.method}`);
      request.resume();
      const timer = setTimeout(() => response.writeHead(200, { "content-type": "text/plain" }).end(name), lag());
      response.once("close", () => clearTimeout(timer));
    }).listen(0, "127.0.0.1");
  const servers = [serve("primary", () => lagMs), serve("secondary", () => 0)];
  await Promise.all(servers.map((server) => new Promise((resolve) => server.once("listening", resolve))));
  const [primaryUrl = "", secondaryUrl = ""] = servers.map((server) => `http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  const fixture = await start(t, {
    yaml: `
upstreams:
  fake:
    kind: http
    endpoints:
      - { name: primary, url: "${primaryUrl}", tier: 0 }
      - { name: secondary, url: "${secondaryUrl}", tier: 1 }
`,
  });
  for (const name of ["primary", "secondary"]) await fixture.health("fake", name, { status: "healthy" });
  const router = await startTestRouter(fixture.control as RouterControl as FakeControl);
  t.after(async () => {
    await router.close(1000);
    for (const server of servers) {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    }
  });
  const ask = async (method: string) =>
    (await fetch(`${router.url}/http/fake/thing`, { method, body: method === "POST" ? "x" : null })).text();
  for (let index = 0; index < 25; index += 1) assert.ok(await ask("GET"));
  lagMs = slowMs;
  assert.equal(await ask("GET"), "secondary");
  lagMs = 1500;
  seen.length = 0;
  assert.equal(await ask("POST"), "primary");
  // A look at a server that is silent is no call.
  assert.deepEqual(
    seen.filter((line) => !line.endsWith("OPTIONS")),
    ["primary POST"],
  );
});

test("R14: what goes on with a call is not made twice, and a second attempt that asks the user does not take the race", async (t) => {
  const seen: string[] = [];
  const held: (() => void)[] = [];
  const question = { resultType: "input_required", inputRequests: {}, requestState: "of b" };
  const serve = (name: string) =>
    createServer((request, response) => {
      let body = "";
      request.setEncoding("utf8").on("data", (chunk: string) => (body += chunk));
      request.on("end", () => {
        if (body === "") return response.end();
        const { id, method, params } = JSON.parse(body) as { id: number; method: string; params: Record<string, unknown> };
        const say = (result: object): void => {
          response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify({ jsonrpc: "2.0", id, result }));
        };
        const answer = () => say({ resultType: "complete", content: [{ type: "text", text: name }] });
        if (method !== "tools/call") return say({ supportedVersions: ["2026-07-28"], capabilities: { tools: {} }, serverInfo: { name } });
        const kind = "requestState" in params ? "goes on" : JSON.stringify(params["arguments"]);
        seen.push(`${name} ${kind}`);
        if (kind === "{}") return answer();
        if (name === "secondary") return say(question);
        held.push(answer);
      });
    }).listen(0, "127.0.0.1");
  const servers = [serve("primary"), serve("secondary")];
  await Promise.all(servers.map((server) => new Promise((resolve) => server.once("listening", resolve))));
  const [primaryUrl = "", secondaryUrl = ""] = servers.map((server) => `http://127.0.0.1:${(server.address() as AddressInfo).port}/mcp`);
  const fixture = await pair(t, primaryUrl, secondaryUrl);
  const router = await startTestRouter(fixture.control as RouterControl as FakeControl);
  t.after(async () => {
    await router.close(0);
    for (const server of servers) {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    }
  });
  const call = async (params: object): Promise<string> => {
    const _meta = {
      "io.modelcontextprotocol/protocolVersion": "2026-07-28",
      "io.modelcontextprotocol/clientInfo": { name: "raw", version: "1" },
      "io.modelcontextprotocol/clientCapabilities": {},
    };
    const message = toolCall(1, "whoami") as { params: object };
    const headers = { "mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": "whoami" };
    return (await post(router.mcpUrl, { ...message, params: { ...message.params, ...params, _meta } }, headers)).text;
  };
  const warm = async (): Promise<void> => {
    for (let index = 0; index < 25; index += 1) assert.match(await call({}), /complete/);
  };
  await warm();
  const late = call({ arguments: { late: true } });
  await until("the second server was asked too", () => seen.includes('secondary {"late":true}'));
  // Its question is read, if it is, before the answer of the first.
  await new Promise((resolve) => setTimeout(resolve, 100));
  held.shift()?.();
  assert.match(await late, /primary/);

  await warm();
  const goesOn = call({ requestState: "of primary", inputResponses: {} });
  await until("the first server was asked", () => seen.includes("primary goes on"));
  // Longer than the read before needed to be late.
  await new Promise((resolve) => setTimeout(resolve, 1000));
  held.shift()?.();
  assert.match(await goesOn, /primary/);
  assert.ok(!seen.includes("secondary goes on"), seen.join("\n"));
  assert.deepEqual(router.problems, []);
});
