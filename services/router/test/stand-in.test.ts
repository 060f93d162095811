import assert from "node:assert/strict";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, describe, test } from "node:test";
import { start } from "./control/fixture.ts";
import { connectV1, connectV2, initializeBody, post, textOf, toolCall, until } from "./support/clients.ts";
import { type FakeControl, fakeControl } from "./support/fake-control.ts";
import { startMcpServer, type TestMcpServer } from "./support/mcp-server.ts";
import { startModernServer } from "./support/modern-server.ts";
import { startTestRouter, type TestRouter } from "./support/router.ts";

/** What a request may take: the server is given 1.5 s, and the machine that runs the tests may be busy. */
const beginMs = 2500;
/** Only what the stand-in does not answer gets so far. */
const callMs = 6000;

describe("an agent that begins while a server hangs", () => {
  let hung: Server;
  let a: TestMcpServer;
  let b: TestMcpServer;
  let control: FakeControl;
  let router: TestRouter;
  let others: (() => Promise<unknown>)[] = [];
  const startWith = async (url: string, options: Parameters<typeof fakeControl>[1] = {}): Promise<void> => {
    const hangs = { name: "hangs", url: `http://127.0.0.1:${(hung.address() as AddressInfo).port}/mcp` };
    control = fakeControl([hangs, { name: "a", url }, b], { callMs, ...options });
    control.face = { tools: ["whoami"], inForce: true };
    router = await startTestRouter(control);
  };
  beforeEach(async () => {
    // It takes everything and says nothing.
    hung = createServer((request) => request.resume());
    await new Promise<void>((resolve) => hung.listen(0, "127.0.0.1", resolve));
    [a, b] = await Promise.all([startMcpServer("a"), startMcpServer("b")]);
    await startWith(a.url);
  });
  afterEach(async () => {
    hung.closeAllConnections();
    hung.close();
    await router.close(0);
    for (const end of [a.kill, b.kill, ...others]) await end();
    others = [];
    assert.deepEqual(router.problems, []);
  });
  const timed = async <T>(what: () => Promise<T>): Promise<{ tookMs: number; got: T }> => {
    const startedAtMs = performance.now();
    const got = await what();
    return { tookMs: performance.now() - startedAtMs, got };
  };
  const begin = async (): Promise<string> => (await post(router.mcpUrl, initializeBody)).headers.get("mcp-session-id") ?? "";
  const within = (tookMs: number, turns = 1): void => assert.ok(tookMs < turns * beginMs, `it took ${Math.round(tookMs)} ms`);

  test("F4: begins, lists and calls within 2 s a request, and the server is told no failure, while a rollback has all of its legacy tools", async () => {
    control.implementation = "legacy";
    control.legacy = async () => ({ content: [{ type: "text", text: "from legacy" }] });
    const { tookMs, got } = await timed(() => connectV1(router.mcpUrl));
    within(tookMs);
    const listed = await timed(() => got.client.listTools());
    within(listed.tookMs);
    assert.deepEqual(
      listed.got.tools.map(({ name }) => name),
      ["whoami"],
    );
    assert.equal(textOf(await got.client.callTool({ name: "whoami" })), "from legacy");
    assert.deepEqual(
      control.told.filter(({ endpoint }) => endpoint === "hangs").map(({ method, result }) => [method, result.outcome]),
      [
        ["initialize", "cancelled"],
        ["tools/list", "cancelled"],
      ],
    );
    await got.client.close();
  });

  test("F4: does so by what the fleet has decided of that agent, with fallback off, and others wait for the server", async (t) => {
    const { port } = hung.address() as AddressInfo;
    const fixture = await start(t, {
      yaml: `
upstreams:
  fake:
    kind: mcp
    endpoints: [{ name: hangs, url: "http://127.0.0.1:${port}/mcp", tier: 0 }]
    tools: { whoami: { read_only: true, legacy: { url: "http://127.0.0.1:9/whoami" } }, write: {} }
fallback: { enabled: false }
`,
      callLegacy: async () => ({ content: [{ type: "text", text: "from legacy" }] }),
    });
    const real = await startTestRouter(fixture.control);
    others.push(() => real.close(0));
    await fixture.rollback("agent", "agent-v1", 0, 1);
    const { tookMs, got } = await timed(() => connectV1(real.mcpUrl));
    within(tookMs);
    assert.deepEqual(
      (await got.client.listTools()).tools.map(({ name }) => name),
      ["whoami"],
    );
    assert.equal(textOf(await got.client.callTool({ name: "whoami" })), "from legacy");
    await got.client.close();
    const other = await timed(() => post(real.mcpUrl, initializeBody, { "mcpf-agent": "other", "mcpf-timeout-ms": "2500" }));
    assert.ok(other.tookMs > 2000 && other.got.body.error !== undefined, `it took ${Math.round(other.tookMs)} ms`);
  });

  test("F1, F4: waits for its server as long as ever where a rollback leaves a tool to MCP", async () => {
    control.face = { tools: ["whoami"], inForce: false };
    control.view = { ...control.view, callMs: 2500 };
    const { tookMs } = await timed(() => post(router.mcpUrl, initializeBody, { "mcpf-timeout-ms": "2500" }));
    assert.ok(tookMs > 2200, `it took ${Math.round(tookMs)} ms`);
    assert.equal(control.told[0]?.result.outcome, "hard");
  });

  test("F4: gets the answer of a server that gives one, rolled back or not", async () => {
    control.active = "a";
    const { client } = await connectV1(router.mcpUrl);
    assert.equal(client.getServerVersion()?.name, "a");
    assert.ok((await client.listTools()).tools.length > 1);
    await client.close();
  });

  test("F1: of 2026-07-28 is told what a server said last, with legacy tools alone, and where none has that it may begin by a session", async () => {
    const modern = await startModernServer("modern");
    others.push(modern.kill);
    await router.close(0);
    await startWith(modern.url);
    control.implementation = "legacy";
    control.legacy = async () => ({ content: [{ type: "text", text: "from legacy" }] });
    const unknown = await timed(() => connectV2(router.mcpUrl, "auto"));
    within(unknown.tookMs, 2);
    assert.equal(unknown.got.getNegotiatedProtocolVersion(), "2025-11-25");
    assert.equal(textOf(await unknown.got.callTool({ name: "whoami" })), "from legacy");
    await unknown.got.close();

    control.active = "a";
    await (await connectV2(router.mcpUrl, "auto")).close();
    control.active = "hangs";
    const known = await timed(() => connectV2(router.mcpUrl, "auto"));
    within(known.tookMs);
    assert.equal(known.got.getNegotiatedProtocolVersion(), "2026-07-28");
    assert.deepEqual(known.got.getServerCapabilities(), { tools: {} });
    assert.deepEqual(
      (await known.got.listTools()).tools.map(({ name }) => name),
      ["whoami"],
    );
    assert.equal(textOf(await known.got.callTool({ name: "whoami" })), "from legacy");
    await known.got.close();
  });

  test("R4: with a sticky session begins too; the first server that takes the session keeps it, and it is over when that is gone", async () => {
    control.view = { ...control.view, sessions: "sticky" };
    const { tookMs, got: id } = await timed(begin);
    within(tookMs);
    const session = { "mcp-session-id": id };
    const who = async (index: number) => post(router.mcpUrl, toolCall(index, "whoami"), session);
    // Each of the first requests is sent to another endpoint.
    const { begin: beginCall } = control;
    let turn = 0;
    control.begin = (call) => {
      turn += 1;
      control.active = call.sessionEndpoint ?? (turn % 2 === 0 ? "a" : "b");
      return beginCall(call);
    };
    const first = await Promise.all([who(1), who(2)]);
    const names = first.map((answer) => textOf(answer.body.result));
    assert.equal(new Set(names).size, 1, `one server serves both: ${names}`);
    const [home, other] = names[0] === "a" ? [a, b] : [b, a];
    assert.equal(textOf((await who(3)).body.result), home.name);
    await until(() => other.sessions.size === 0);
    home.forget();
    assert.equal((await who(4)).body.error?.code, 1006);
    assert.equal((await who(5)).status, 404);
  });
});
