import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";
import { createMemoryDirectory } from "../src/mcp/directory.ts";
import { initializeBody, post, toolCall, until } from "./support/clients.ts";
import { fakeControl } from "./support/fake-control.ts";
import { startTestFleet, type TestFleet } from "./support/fleet.ts";
import { startMcpServer, type TestMcpServer } from "./support/mcp-server.ts";
import { startTestRouter, type TestRouter } from "./support/router.ts";
import { type Scripted, type ScriptedServer, startScriptedServer, stream } from "./support/scripted-server.ts";
import { controlOf } from "./support/several.ts";

const waitMs = 30_000;

describe("a call to /mcp in one router process, and what its client says through another one", () => {
  let a: TestMcpServer;
  let b: TestMcpServer;
  let one: TestRouter;
  let two: TestRouter;
  let session: Record<string, string>;
  const leave = new Set<AbortController>();

  beforeEach(async () => {
    [a, b] = await Promise.all([startMcpServer("A"), startMcpServer("B")]);
    // A call that reached its deadline would be cancelled without its client.
    const only = ({ url }: TestMcpServer) => fakeControl([{ name: "only", url }], { callMs: 10 * waitMs });
    const upstreams = { a: only(a), b_2: only(b) };
    const directory = createMemoryDirectory();
    one = await startTestRouter(controlOf(upstreams), { directory });
    two = await startTestRouter(controlOf(upstreams), { directory });
    const params = { ...initializeBody.params, capabilities: { elicitation: {}, sampling: {} } };
    const begun = await post(`${one.url}/mcp`, { ...initializeBody, params });
    session = { "mcp-session-id": begun.headers.get("mcp-session-id") ?? "" };
    await post(`${one.url}/mcp`, { jsonrpc: "2.0", method: "notifications/initialized" }, session);
  });
  afterEach(async () => {
    for (const one of leave) one.abort();
    leave.clear();
    for (const router of [one, two]) await router.close(0);
    for (const server of [a, b]) await server.kill();
    assert.deepEqual([...one.problems, ...two.problems], []);
  });

  /** Returns at once; what the client has heard of the call is in `text`. */
  const call = (name: string, args: object = {}): { text: string; over: Promise<void> } => {
    const abort = new AbortController();
    leave.add(abort);
    const read = async (): Promise<void> => {
      const response = await fetch(`${one.url}/mcp`, {
        method: "POST",
        headers: { "content-type": "application/json", accept: "application/json, text/event-stream", ...session },
        body: JSON.stringify(toolCall(9, name, args)),
        signal: abort.signal,
      });
      const decoder = new TextDecoder();
      for await (const chunk of response.body ?? []) heard.text += decoder.decode(chunk, { stream: true });
    };
    const heard = { text: "", over: Promise.resolve() };
    heard.over = read().catch((error: unknown) => {
      if (!abort.signal.aborted) throw error;
    });
    return heard;
  };
  const saidThroughTwo = (message: object) => post(`${two.url}/mcp`, { jsonrpc: "2.0", ...message }, session);

  test("R11, R14: an answer to what a server has asked reaches it", async () => {
    const heard = call("a__elicit");
    await until(() => heard.text.includes("elicitation/create"), waitMs);
    const asked = JSON.parse(/^data: (\{.*elicitation\/create.*)$/m.exec(heard.text)?.[1] ?? "{}") as { id: string };
    assert.match(asked.id, /^mcpa\.a\./);
    assert.equal((await saidThroughTwo({ id: asked.id, result: { action: "decline" } })).status, 202);
    await heard.over;
    assert.match(heard.text, /A heard decline/);
    assert.deepEqual([a.seen.initialized.length, b.seen.initialized.length], [1, 0], "in the session that there was");
  });

  test("R13: a cancellation reaches the server where the call runs, and none is begun for it", async () => {
    a.lagMs = 10 * waitMs;
    call("a__write", { key: "k" });
    await until(() => a.writes.length === 1, waitMs);
    assert.equal((await saidThroughTwo({ method: "notifications/cancelled", params: { requestId: 9 } })).status, 202);
    await until(() => a.seen.cancelled.length === 1, waitMs);
    assert.deepEqual([a.seen.initialized.length, b.seen.initialized.length], [1, 0]);
  });

  test("what all servers are to hear reaches those that have a session, and begins none", async () => {
    const heard = call("a__whoami");
    await heard.over;
    const posts = (): number => a.seen.headers.filter((headers) => headers[":method"] === "POST").length;
    const before = posts();
    assert.equal((await saidThroughTwo({ method: "notifications/roots/list_changed" })).status, 202);
    await until(() => posts() === before + 1, waitMs);
    assert.deepEqual([a.seen.initialized.length, b.seen.initialized.length], [1, 0]);
  });
});

describe("a session with /mcp that two router processes serve at once", () => {
  let a: ScriptedServer;
  let b: ScriptedServer;
  let fleet: TestFleet;
  let one: TestRouter;
  let two: TestRouter;
  let session: Record<string, string>;

  beforeEach(async () => {
    [a, b] = await Promise.all([startScriptedServer("a"), startScriptedServer("b")]);
    const only = ({ url }: ScriptedServer) => fakeControl([{ name: "only", url }]);
    const upstreams = { a: only(a), b: only(b) };
    fleet = await startTestFleet(() => controlOf(upstreams));
    ({ one, two } = fleet);
    session = { "mcp-session-id": (await post(`${one.url}/mcp`, initializeBody)).headers.get("mcp-session-id") ?? "" };
  });
  afterEach(async () => {
    await fleet.close();
    for (const server of [a, b]) await server.kill();
    assert.deepEqual([...one.problems, ...two.problems], []);
  });
  const ask = (router: TestRouter, id: number, method: string, params: object = {}) =>
    post(`${router.url}/mcp`, { jsonrpc: "2.0", id, method, params }, session);
  const heard = (server: ScriptedServer, method: string): string[] =>
    server.heard.filter((one) => one.startsWith(`${method} `)).map((one) => one.slice(method.length + 1));
  const both = (server: ScriptedServer, method: string): void => {
    server.answer = async (asked) => {
      if (asked.method === method) await until(() => heard(server, method).length === 2);
      return false;
    };
  };

  test("I1: is one session with each upstream, though both begin it; the other one is ended, and with it nothing stays behind", async () => {
    both(a, "initialize");
    await Promise.all([ask(one, 1, "tools/list"), ask(two, 2, "prompts/list")]);
    await until(() => heard(a, "DELETE").length === 1);
    await Promise.all([post(`${one.url}/mcp`, toolCall(3, "a__x"), session), post(`${two.url}/mcp`, toolCall(4, "a__x"), session)]);
    const [used, again] = heard(a, "tools/call");
    assert.equal(used, again);
    assert.notEqual(used, heard(a, "DELETE")[0]);
    await fetch(`${two.url}/mcp`, { method: "DELETE", headers: session });
    assert.deepEqual(heard(a, "DELETE").sort(), ["a-1", "a-2"]);
  });

  test("I1: that is ended while one of them begins with an upstream leaves nothing there", async () => {
    let isEnded = false;
    a.answer = async ({ method }) => {
      if (method === "initialize") await until(() => isEnded);
      return false;
    };
    const call = post(`${one.url}/mcp`, toolCall(3, "a__x"), session);
    await until(() => heard(a, "initialize").length === 1);
    assert.equal((await fetch(`${two.url}/mcp`, { method: "DELETE", headers: session })).status, 200);
    isEnded = true;
    assert.ok((await call).body.error);
    await until(() => heard(a, "DELETE").length === 1);
    assert.deepEqual(heard(a, "tools/call"), []);
  });

  for (const where of ["one", "two"] as const) {
    test(`is over with its DELETE: its stream at process one ends, and nothing is begun for it any more (DELETE at ${where})`, async () => {
      assert.ok((await post(`${one.url}/mcp`, toolCall(3, "a__x"), session)).body.result);
      let upstream: Scripted | null = null;
      a.answer = (asked) => {
        // As servers do, it ends the stream with its session.
        if (asked.method === "DELETE") upstream?.response.end();
        if (asked.method !== "GET") return false;
        upstream = asked;
        stream(asked);
        return true;
      };
      const leave = new AbortController();
      const own = await fetch(`${one.url}/mcp`, { headers: { accept: "text/event-stream", ...session }, signal: leave.signal });
      let isOver = false;
      const reading = own.text().then(
        () => {
          isOver = true;
        },
        () => undefined,
      );
      await until(() => heard(a, "GET").length > 0);
      await fetch(`${{ one, two }[where].url}/mcp`, { method: "DELETE", headers: session });
      await until(() => isOver || heard(a, "initialize").length > 1);
      leave.abort();
      await reading;
      assert.equal(heard(a, "initialize").length, 1, a.heard.join(", "));
    });
  }

  test("has the log level that its client set at the other one, and an upstream that hangs keeps the client from setting it no longer than a moment", async () => {
    assert.ok((await post(`${one.url}/mcp`, toolCall(3, "a__x"), session)).body.result);
    let go = (): void => undefined;
    const hangs = new Promise<void>((resolve) => {
      go = resolve;
    });
    a.answer = async ({ method }) => {
      if (method === "logging/setLevel") await hangs;
      return false;
    };
    const begunMs = Date.now();
    assert.deepEqual((await ask(two, 4, "logging/setLevel", { level: "error" })).body.result, {});
    assert.ok(Date.now() - begunMs < 8000);
    assert.equal(heard(a, "logging/setLevel").length, 1, "also one that the other process has begun with");
    go();
    assert.ok((await post(`${one.url}/mcp`, toolCall(5, "b__x"), session)).body.result);
    assert.equal(heard(b, "logging/setLevel").length, 1);
  });
});
