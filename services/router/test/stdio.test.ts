import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, test } from "node:test";
import { tempDir } from "@mcp-failover/testkit";
import { CreateMessageRequestSchema, LoggingMessageNotificationSchema } from "@modelcontextprotocol/sdk/types.js";
import type { EndpointVia } from "../src/control/port.ts";
import { createStdioBridge, type StdioBridge } from "../src/stdio/bridge.ts";
import type { StdioLimits } from "../src/stdio/limits.ts";
import { probeAnswer } from "../src/stdio/probe-answer.ts";
import { startOf } from "../src/stdio/process-start.ts";
import { connectV1, connectV2, openSession, post, textOf, toolCall, until } from "./support/clients.ts";
import { type FakeControl, fakeControl } from "./support/fake-control.ts";
import { startMcpServer } from "./support/mcp-server.ts";
import { startTestRouter, type TestRouter } from "./support/router.ts";

const script = (name: string): string => join(import.meta.dirname, "support", name);
const allow = new Map<string, readonly [string, ...string[]]>([
  ["server", [process.execPath, script("stdio-server.ts")]],
  ["modern", [process.execPath, script("stdio-modern.ts")]],
]);
const dead = (pid: number): boolean => startOf(pid) === null;

interface Via {
  command?: string;
  args?: string[];
  env?: Record<string, string>;
  sessionsMax?: number;
}
function stdio(
  name: string,
  { command = "server", args = [], env = {}, sessionsMax }: Via = {},
): { name: string; url: string; via: EndpointVia } {
  return { name, url: `stdio://${name}/${command}`, via: { kind: "stdio", command, args, env, cwd: undefined, sessionsMax } };
}

describe("servers on standard input and output", () => {
  let dir: Awaited<ReturnType<typeof tempDir>>;
  let control: FakeControl;
  let router: TestRouter;
  let bridge: StdioBridge;
  const lines: { details: Record<string, unknown>; message: string }[] = [];

  const start = async (endpoints: Parameters<typeof fakeControl>[0], limits: Partial<StdioLimits> = {}): Promise<void> => {
    const log = (details: object, message: string): void => {
      lines.push({ details: details as Record<string, unknown>, message });
    };
    bridge = createStdioBridge({
      allow,
      baseEnv: { PATH: process.env["PATH"] ?? "" },
      log: { debug: log, info: log, warn: log, error: log },
      nowMs: () => Date.now(),
      limits: { stopMs: 300, ...limits },
    });
    control = fakeControl(endpoints);
    router = await startTestRouter(control, { bridges: { stdio: bridge } });
  };
  const writes = (): string => {
    try {
      return readFileSync(join(dir.path, "writes"), "utf8");
    } catch {
      return "";
    }
  };

  beforeEach(async () => {
    dir = await tempDir();
    lines.length = 0;
  });
  afterEach(async () => {
    const pids = bridge.pids();
    await router.close(0);
    assert.deepEqual(
      pids.filter((pid) => !dead(pid)),
      [],
      "no process outlives its router",
    );
    assert.deepEqual(router.problems, []);
    await dir.remove();
  });

  test("R25: an SDK client initializes, calls, is told progress, answers the server and hears it, as over HTTP", async () => {
    await start([stdio("one", { env: { WORD: "given" } })]);
    const { client, transport } = await connectV1(router.mcpUrl);
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
    assert.equal((await post(router.mcpUrl, toolCall(1, "recall"), { "mcp-session-id": session })).status, 404);
  });

  test("R25: each session has a process of its own, and one stands by for the next", async () => {
    await start([stdio("one")]);
    await until(() => bridge.pids().length === 1);
    const [a, b] = [await connectV1(router.mcpUrl), await connectV1(router.mcpUrl)];
    await a.client.callTool({ name: "remember", arguments: { word: "a" } });
    await b.client.callTool({ name: "remember", arguments: { word: "b" } });
    assert.equal(textOf(await a.client.callTool({ name: "recall", arguments: {} })), "a");
    assert.equal(textOf(await b.client.callTool({ name: "recall", arguments: {} })), "b");
    await until(() => bridge.pids().length === 3);
    await a.transport.terminateSession();
    await until(() => bridge.pids().length === 2);
    await b.client.close();
  });

  test("R25: a program that is not allowed is never started, however the configuration names it", async () => {
    const http = await startMcpServer("spare");
    await start([stdio("one", { command: "sh" }), { name: "spare", url: http.url }]);
    const { client } = await connectV1(router.mcpUrl);
    assert.equal(textOf(await client.callTool({ name: "whoami", arguments: {} })), "spare");
    assert.deepEqual(bridge.pids(), []);
    const refused = control.told.find(({ endpoint }) => endpoint === "one")?.result;
    assert.ok(refused?.outcome === "hard" && refused.executed === "no" && /MCPF_STDIO_ALLOW/.test(refused.message));
    await client.close();
    await http.kill();
  });

  test("R19: a process that dies before it took the call is proof, one that dies after it is none", async () => {
    await start([stdio("one", { env: { WRITES: join(dir.path, "writes") } })]);
    const session = await openSession(router.mcpUrl);
    const died = await post(router.mcpUrl, toolCall(2, "die", { text: "once" }), { "mcp-session-id": session });
    assert.equal(died.body.error?.data?.["code"], "outcome_unknown");
    assert.equal(writes(), "once\n");
    const told = control.told.at(-1)?.result;
    assert.ok(told?.outcome === "hard" && told.executed === "unknown");
    // The session is not known any more; it is introduced to a new process, and the next write runs once.
    const next = await post(router.mcpUrl, toolCall(3, "write", { text: "twice" }), { "mcp-session-id": session });
    assert.equal(next.body.result?.content?.[0]?.text, "written");
    assert.equal(writes(), "once\ntwice\n");
  });

  test("R25: a line over the limit ends the process and the call with an error that says so", async () => {
    await start([stdio("one")], { lineBytesMax: 100_000 });
    const session = await openSession(router.mcpUrl);
    const long = await post(router.mcpUrl, toolCall(2, "long", { chars: 200_000 }), { "mcp-session-id": session });
    assert.equal(long.body.error?.data?.["code"], "outcome_unknown");
    const told = control.told.at(-1)?.result;
    assert.ok(told?.outcome === "hard" && told.code === "malformed" && /longer than 100000 bytes/.test(told.message));
    assert.ok(lines.some(({ message }) => /line over the limit/.test(message)));
    router.problems.length = 0;
  });

  test("standard error and what is no protocol goes to the log, and disturbs nothing", async () => {
    await start([stdio("one")]);
    await openSession(router.mcpUrl);
    const said = lines.map(({ details }) => details["stderr"]);
    assert.ok(said.includes("a line on standard error") && said.includes("(on standard output) starting"));
  });

  test("a process that ends at its start rests longer each time, and calls are refused with proof meanwhile", async () => {
    await start([stdio("one", { args: ["crash"] })], { restMsMin: 40, spareAfterMs: 1 });
    await until(() => lines.filter(({ message }) => /ended by itself/.test(message)).length >= 3);
    const refused = await post(router.mcpUrl, { jsonrpc: "2.0", id: 1, method: "initialize", params: {} });
    assert.equal(refused.body.error?.data?.["code"], "no_endpoint");
    const { body, status } = (await probeAnswer("/probe/fake/one", control, bridge)) ?? { body: "", status: 0 };
    assert.equal(status, 503);
    assert.match(body, /rests before|does not answer|ended/);
  });

  test("probes are answered by a process itself, and by nothing that is none of this router", async () => {
    await start([stdio("one")]);
    assert.equal((await probeAnswer("/probe/fake/one", control, bridge))?.status, 200);
    for (const path of ["/probe/fake/two", "/probe/nobody/one", "/probe/fake", "/probe/fake/one/more", "/healthz"]) {
      assert.equal(await probeAnswer(path, control, bridge), null, path);
    }
    const [pid] = bridge.pids();
    process.kill(-(pid as number), "SIGSTOP");
    try {
      assert.equal((await bridge.probe("stdio://one/server", 200))?.ok, false);
    } finally {
      process.kill(-(pid as number), "SIGCONT");
    }
  });

  test("a hung process is told from one that thinks: a look answers only while the process reads", async () => {
    await start([stdio("one")]);
    const session = await openSession(router.mcpUrl);
    assert.equal(await bridge.look("stdio://one/server", 500), "unclear");
    const slow = post(router.mcpUrl, toolCall(2, "slow", { steps: 20 }), { "mcp-session-id": session });
    await until(() => control.calls.some(({ tool }) => tool === "slow"));
    assert.equal(await bridge.look("stdio://one/server", 2000), "answers");
    await slow;
    const muted = post(router.mcpUrl, toolCall(3, "mute"), { "mcp-session-id": session, "mcpf-timeout-ms": "1500" });
    await new Promise((resolve) => setTimeout(resolve, 200));
    assert.equal(await bridge.look("stdio://one/server", 300), "silent");
    assert.equal((await muted).body.error?.data?.["code"], "outcome_unknown");
  });

  test("a session that rests gives its process to a new one, and comes back by itself", async () => {
    await start([stdio("one", { sessionsMax: 1 })], { roomIdleMs: 0 });
    const first = await openSession(router.mcpUrl);
    await new Promise((resolve) => setTimeout(resolve, 1700)); // its stream, opened ahead, is given up when no client comes for it
    const second = await openSession(router.mcpUrl);
    const answer = await post(router.mcpUrl, toolCall(2, "whoami"), { "mcp-session-id": second });
    assert.ok(answer.body.result);
    await new Promise((resolve) => setTimeout(resolve, 1700));
    assert.ok((await post(router.mcpUrl, toolCall(2, "whoami"), { "mcp-session-id": first })).body.result);
  });

  test("a process that ignores the end of its input and SIGTERM is killed, and a new configuration drops no call", async () => {
    await start([stdio("one", { args: ["stubborn"] })]);
    const session = await openSession(router.mcpUrl);
    const slow = post(router.mcpUrl, toolCall(2, "slow", { steps: 20 }), { "mcp-session-id": session });
    await until(() => control.calls.some(({ tool }) => tool === "slow"));
    const old = bridge.pids();
    bridge.configure([]);
    assert.equal((await slow).body.result?.content?.[0]?.text, "done");
    await until(() => old.every(dead));
  });

  test("clients of the modern era share one process: ids of their own come back, whoever else uses the same", async () => {
    await start([stdio("one", { command: "modern" })]);
    const [a, b] = [await connectV2(router.mcpUrl, "auto"), await connectV2(router.mcpUrl, "auto")];
    const slow = (client: typeof a, word: string) => client.callTool({ name: "slow", arguments: { ms: 100, word } });
    const words = await Promise.all([slow(a, "a"), slow(b, "b"), slow(a, "c")]);
    assert.deepEqual(words.map(textOf), ["a", "b", "c"]);
    assert.equal(textOf(await a.callTool({ name: "whoami", arguments: {} })), textOf(await b.callTool({ name: "whoami", arguments: {} })));
    assert.ok(
      control.calls.every(({ method }) => method !== "initialize"),
      "no session was begun",
    );
    await a.close();
    await b.close();
    const old = await connectV2(router.mcpUrl, "legacy");
    assert.equal(textOf(await old.callTool({ name: "slow", arguments: { ms: 1, word: "old" } })), "old");
    await old.close();
  });
});
