import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { CreateMessageRequestSchema, LoggingMessageNotificationSchema } from "@modelcontextprotocol/sdk/types.js";
import { connectV1, connectV2, openSession, post, textOf, toolCall, until } from "./support/clients.ts";
import { startMcpServer } from "./support/mcp-server.ts";
import { StdioWorld, stdio } from "./support/stdio-world.ts";

describe("servers on standard input and output", () => {
  const world = new StdioWorld();

  test("R25: an SDK client initializes, calls, is told progress, answers the server and hears it, as over HTTP", async () => {
    await world.start([stdio("one", { env: { WORD: "given" } })]);
    const { client, transport } = await connectV1(world.url);
    client.setRequestHandler(
      CreateMessageRequestSchema,
      async () => ({ model: "m", role: "assistant", content: { type: "text", text: "4" } }) as never,
    );
    const logged: unknown[] = [];
    client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => void logged.push(params.data));
    assert.equal((await client.listTools()).tools.length, 10);
    const { env, word } = JSON.parse(textOf(await client.callTool({ name: "whoami", arguments: {} }))) as { env: string[]; word: string };
    assert.equal(word, "given");
    assert.deepEqual(
      env.filter((name) => !["PATH", "WORD", "__CF_USER_TEXT_ENCODING"].includes(name)),
      [],
      "nothing else of the environment",
    );
    const steps: number[] = [];
    await client.callTool({ name: "slow", arguments: { steps: 4 } }, undefined, { onprogress: ({ progress }) => steps.push(progress) });
    assert.deepEqual(steps, [1, 2, 3, 4]);
    assert.match(textOf(await client.callTool({ name: "ask", arguments: {} })), /"4"/);
    await client.callTool({ name: "shout", arguments: {} });
    await until(() => logged.includes("loud"));
    const session = transport.sessionId as string;
    await transport.terminateSession();
    assert.equal((await post(world.url, toolCall(1, "recall"), { "mcp-session-id": session })).status, 404);
  });

  test("R25: each session has a process of its own, and one stands by for the next", async () => {
    await world.start([stdio("one")]);
    await until(() => world.bridge.pids().length === 1);
    const [a, b] = [await connectV1(world.url), await connectV1(world.url)];
    await a.client.callTool({ name: "remember", arguments: { word: "a" } });
    await b.client.callTool({ name: "remember", arguments: { word: "b" } });
    assert.equal(textOf(await a.client.callTool({ name: "recall", arguments: {} })), "a");
    assert.equal(textOf(await b.client.callTool({ name: "recall", arguments: {} })), "b");
    await until(() => world.bridge.pids().length === 3);
    await a.transport.terminateSession();
    await until(() => world.bridge.pids().length === 2);
    await b.client.close();
  });

  test("R25: a program that is not allowed is never started, however the configuration names it", async () => {
    const http = await startMcpServer("spare");
    await world.start([stdio("one", { command: "sh" }), { name: "spare", url: http.url }]);
    const { client } = await connectV1(world.url);
    assert.equal(textOf(await client.callTool({ name: "whoami", arguments: {} })), "spare");
    assert.deepEqual(world.bridge.pids(), []);
    const refused = world.control.told.find(({ endpoint }) => endpoint === "one")?.result;
    assert.ok(refused?.outcome === "hard" && refused.executed === "no" && /MCPF_STDIO_ALLOW/.test(refused.message));
    await client.close();
    await http.kill();
  });

  test("R19: a process that dies before it took the call is proof, one that dies after it is none", async () => {
    await world.start([stdio("one", { env: { WRITES: world.writesFile } })]);
    const session = await openSession(world.url);
    const died = await post(world.url, toolCall(2, "die", { text: "once" }), { "mcp-session-id": session });
    assert.equal(died.body.error?.data?.["code"], "outcome_unknown");
    assert.equal(world.writes, "once\n");
    const told = world.control.told.at(-1)?.result;
    assert.ok(told?.outcome === "hard" && told.executed === "unknown");
    // The session is not known any more; it is introduced to a new process, and the next write runs once.
    const next = await post(world.url, toolCall(3, "write", { text: "twice" }), { "mcp-session-id": session });
    assert.equal(next.body.result?.content?.[0]?.text, "written");
    assert.equal(world.writes, "once\ntwice\n");
  });

  test("R25: a line over the limit ends the process and the call with an error that says so", async () => {
    await world.start([stdio("one")], { lineBytesMax: 100_000 });
    const session = await openSession(world.url);
    const long = await post(world.url, toolCall(2, "long", { chars: 200_000 }), { "mcp-session-id": session });
    assert.equal(long.body.error?.data?.["code"], "outcome_unknown");
    const told = world.control.told.at(-1)?.result;
    assert.ok(told?.outcome === "hard" && told.code === "malformed" && /longer than 100000 bytes/.test(told.message));
    assert.ok(world.lines.some(({ message }) => /line over the limit/.test(message)));
  });

  test("clients of the modern era share one process: ids of their own come back, whoever else uses the same", async () => {
    await world.start([stdio("one", { command: "modern" })]);
    const [a, b] = [await connectV2(world.url, "auto"), await connectV2(world.url, "auto")];
    const slow = (client: typeof a, word: string) => client.callTool({ name: "slow", arguments: { ms: 100, word } });
    const words = await Promise.all([slow(a, "a"), slow(b, "b"), slow(a, "c")]);
    assert.deepEqual(words.map(textOf), ["a", "b", "c"]);
    assert.equal(textOf(await a.callTool({ name: "whoami", arguments: {} })), textOf(await b.callTool({ name: "whoami", arguments: {} })));
    assert.ok(
      world.control.calls.every(({ method }) => method !== "initialize"),
      "no session was begun",
    );
    await a.close();
    await b.close();
    const old = await connectV2(world.url, "legacy");
    assert.equal(textOf(await old.callTool({ name: "slow", arguments: { ms: 1, word: "old" } })), "old");
    await old.close();
  });
});
