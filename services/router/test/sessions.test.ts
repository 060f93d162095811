import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";
import { ResourceUpdatedNotificationSchema } from "@modelcontextprotocol/sdk/types.js";
import { createMemoryDirectory } from "../src/mcp/directory.ts";
import { connectV1, connectV2, initializeBody, openSession, post, textOf, toolCall, until } from "./support/clients.ts";
import { type FakeControl, fakeControl } from "./support/fake-control.ts";
import { legibleIn } from "./support/legible.ts";
import { startMcpServer, type TestMcpServer } from "./support/mcp-server.ts";
import { startTestRouter, type TestRouter } from "./support/router.ts";
import { startScriptedServer, stream } from "./support/scripted-server.ts";

describe("a session", () => {
  let a: TestMcpServer;
  let b: TestMcpServer;
  let control: FakeControl;
  let router: TestRouter;
  const others: (() => Promise<void>)[] = [];
  beforeEach(async () => {
    a = await startMcpServer("a");
    b = await startMcpServer("b");
    control = fakeControl([a, b]);
    router = await startTestRouter(control);
  });
  afterEach(async () => {
    await router.close(0);
    for (const close of others.splice(0)) await close();
    await a.kill();
    await b.kill();
    assert.deepEqual(router.problems, []);
  });

  test("of a 1.x client initializes, lists and calls as it does directly", async () => {
    const routed = await connectV1(router.mcpUrl);
    const direct = await connectV1(a.url);
    assert.deepEqual(await routed.client.listTools(), await direct.client.listTools());
    assert.deepEqual(routed.client.getServerCapabilities(), direct.client.getServerCapabilities());
    assert.deepEqual(routed.client.getServerVersion(), direct.client.getServerVersion());
    assert.deepEqual(await routed.client.callTool({ name: "whoami" }), await direct.client.callTool({ name: "whoami" }));
    assert.deepEqual(await routed.client.callTool({ name: "fail" }), await direct.client.callTool({ name: "fail" }));
    await routed.client.close();
    await direct.client.close();
  });

  test("of a 2.x client in the session protocol works as it does directly", async () => {
    const routed = await connectV2(router.mcpUrl, "legacy");
    const direct = await connectV2(a.url, "legacy");
    assert.deepEqual(await routed.listTools(), await direct.listTools());
    assert.deepEqual(await routed.callTool({ name: "whoami" }), await direct.callTool({ name: "whoami" }));
    await a.kill();
    assert.equal(textOf(await routed.callTool({ name: "whoami" })), "b");
    await routed.close();
    await direct.close();
  });

  test("R2: has an id of the router, in visible ASCII, that hides the upstream's", async () => {
    const { client, transport } = await connectV1(router.mcpUrl);
    assert.match(transport.sessionId ?? "", /^mcpf1\.[A-Za-z0-9_-]+$/);
    const upstream = [...a.sessions.keys()][0] ?? "";
    assert.ok(upstream.length > 8, "the upstream has an id that could be shown");
    assert.ok(!legibleIn(transport.sessionId ?? "").includes(upstream));
    await client.close();
  });

  test("R3: goes on when its endpoint is killed, and keeps its id", async () => {
    const { client, transport } = await connectV1(router.mcpUrl);
    const before = transport.sessionId;
    assert.equal(textOf(await client.callTool({ name: "whoami" })), "a");
    await a.kill();
    assert.equal(textOf(await client.callTool({ name: "whoami" })), "b");
    assert.equal(transport.sessionId, before);
    await client.close();
  });

  test("R3: is introduced to the new endpoint as the client introduced itself, once, however many calls wait", async () => {
    const { client } = await connectV1(router.mcpUrl);
    await a.kill();
    control.move("b");
    const answers = await Promise.all(Array.from({ length: 20 }, () => client.callTool({ name: "whoami" })));
    assert.deepEqual(new Set(answers.map(textOf)), new Set(["b"]));
    assert.equal(b.sessions.size, 1);
    assert.deepEqual(b.seen.initialized, ["b"]);
    await client.close();
  });

  test("moves when the routes do, though the old endpoint lives", async () => {
    const { client } = await connectV1(router.mcpUrl);
    assert.equal(textOf(await client.callTool({ name: "whoami" })), "a");
    control.move("b");
    assert.equal(textOf(await client.callTool({ name: "whoami" })), "b");
    control.move("a");
    assert.equal(textOf(await client.callTool({ name: "whoami" })), "a");
    assert.equal(a.sessions.size, 1, "the first session at a is used again");
    await client.close();
  });

  test("R4: heals when the server forgot it, and the call that found out runs once", async () => {
    const { client } = await connectV1(router.mcpUrl);
    a.forget();
    assert.match(textOf(await client.callTool({ name: "write", arguments: { key: "once" } })), /a wrote once/);
    assert.deepEqual(a.writes, ["once"]);
    assert.deepEqual(b.writes, []);
    await client.close();
  });

  test("R4: heals after a restart that answers 400 instead of 404", async () => {
    const { client } = await connectV1(router.mcpUrl);
    a.forget();
    a.unknownStatus = 400;
    assert.match(textOf(await client.callTool({ name: "write", arguments: { key: "once" } })), /a wrote once/);
    assert.deepEqual(a.writes, ["once"]);
    await client.close();
  });

  test("R3: takes its log level and subscriptions along", async () => {
    const { client } = await connectV1(router.mcpUrl);
    await client.setLoggingLevel("warning");
    await client.subscribeResource({ uri: "file:///one" });
    await client.subscribeResource({ uri: "file:///two" });
    await client.unsubscribeResource({ uri: "file:///one" });
    await a.kill();
    await client.callTool({ name: "whoami" });
    assert.deepEqual(b.seen.levels, ["warning"]);
    assert.deepEqual(b.seen.subscriptions, ["file:///two"], "and not what it has ended");
    await client.close();
  });

  test("R3: goes on where a subscription, or its log level, is refused, and is told that the resource may have changed", async () => {
    const { client } = await connectV1(router.mcpUrl);
    const updated: string[] = [];
    client.setNotificationHandler(ResourceUpdatedNotificationSchema, ({ params }) => void updated.push(params.uri));
    await client.setLoggingLevel("warning");
    await client.subscribeResource({ uri: "job://42" });
    await client.subscribeResource({ uri: "file:///two" });
    for (const what of ["job://42", "warning"]) b.refuses.add(what);
    await a.kill();
    assert.equal(textOf(await client.callTool({ name: "whoami" })), "b");
    assert.deepEqual(b.seen.subscriptions, ["file:///two"]);
    await until(() => updated.length > 0);
    assert.deepEqual(updated, ["job://42"]);
    await client.unsubscribeResource({ uri: "job://42" });
    assert.equal(textOf(await client.callTool({ name: "whoami" })), "b");
    assert.deepEqual([b.seen.initialized.length, b.seen.deleted], [1, []], "one session is enough");
    await client.close();
  });

  test("R3: never moves to an endpoint that offers less than the client was promised", async () => {
    const less = await startMcpServer("less", { capabilities: "fewer" });
    others.push(() => less.kill());
    control = fakeControl([a, less, b]);
    const second = await startTestRouter(control);
    others.push(() => second.close(0));
    const { client } = await connectV1(second.mcpUrl);
    await a.kill();
    assert.equal(textOf(await client.callTool({ name: "whoami" })), "b");
    assert.deepEqual(
      control.told.filter(({ tool }) => tool === "whoami").map(({ endpoint, result }) => [endpoint, result.outcome]),
      [
        ["a", "hard"],
        ["less", "ineligible"],
        ["b", "ok"],
      ],
    );
    await until(() => less.seen.deleted.length === 1);
    await client.close();
  });

  test("R5: ends by DELETE: the upstream is told, and later requests get 404", async () => {
    const { client, transport } = await connectV1(router.mcpUrl);
    const id = transport.sessionId ?? "";
    await transport.terminateSession();
    assert.equal(a.seen.deleted.length, 1);
    const later = await post(router.mcpUrl, toolCall(2, "whoami"), { "mcp-session-id": id });
    assert.equal(later.status, 404);
    assert.match(String(later.body.error?.message), /initialize/);
    await client.close();
  });

  test("R5: that is ended while it is introduced to another endpoint is ended there too", async () => {
    const [old, next] = [await startScriptedServer("old"), await startScriptedServer("next")];
    const moving = fakeControl([old, next]);
    const own = await startTestRouter(moving);
    try {
      const session = { "mcp-session-id": await openSession(own.mcpUrl) };
      const isMoved = (): boolean => next.heard.includes("tools/call next-1");
      old.answer = async ({ method }) => {
        if (method === "DELETE") await until(isMoved);
        return false;
      };
      let isAsked = false;
      next.answer = async ({ method }) => {
        if (method !== "initialize") return false;
        isAsked = true;
        await until(() => old.heard.includes("DELETE old-1"));
        return false;
      };
      moving.move("next");
      const call = post(own.mcpUrl, toolCall(2, "write"), session);
      await until(() => isAsked);
      assert.equal((await fetch(own.mcpUrl, { method: "DELETE", headers: session })).status, 200);
      assert.equal((await call).status, 200);
      await until(() => next.heard.includes("DELETE next-1"));
      assert.equal((await post(own.mcpUrl, toolCall(3, "write"), session)).status, 404);
    } finally {
      await own.close(0);
      await old.kill();
      await next.kill();
    }
  });

  test("R2, R4: with a foreign, damaged or borrowed id gets 404", async () => {
    const id = await openSession(router.mcpUrl);
    const damaged = `${id.slice(0, -3)}AAA`;
    for (const bad of ["nonsense", "", damaged, "mcpf1.AAAA"]) {
      const answer = await post(router.mcpUrl, toolCall(1, "whoami"), { "mcp-session-id": bad });
      assert.equal(answer.status, 404, bad);
    }
    const other = await startTestRouter(control, { secret: "another key that is long enough" });
    others.push(() => other.close(0));
    assert.equal((await post(other.mcpUrl, toolCall(1, "whoami"), { "mcp-session-id": id })).status, 404);
  });

  test("R3: that is sticky says so when its endpoint is gone, and is over then", async () => {
    control.view = { ...control.view, sessions: "sticky" };
    const id = await openSession(router.mcpUrl);
    await a.kill();
    const answer = await post(router.mcpUrl, toolCall(1, "whoami"), { "mcp-session-id": id });
    assert.equal(answer.body.error?.code, 1006);
    assert.equal(b.sessions.size, 0);
    assert.equal((await post(router.mcpUrl, toolCall(2, "whoami"), { "mcp-session-id": id })).status, 404);
  });

  test("R2: is served by two router processes with one key, in turn, before and after a failover", async () => {
    const directory = createMemoryDirectory();
    const one = await startTestRouter(control, { directory });
    const two = await startTestRouter(control, { directory });
    others.push(
      () => one.close(0),
      () => two.close(0),
    );
    const id = await openSession(one.mcpUrl);
    const call = async (router: TestRouter): Promise<string> =>
      textOf((await post(router.mcpUrl, toolCall(1, "whoami"), { "mcp-session-id": id })).body.result);
    for (const router of [two, one, two]) assert.equal(await call(router), "a");
    assert.equal(a.sessions.size, 1);
    await a.kill();
    control.move("b");
    assert.deepEqual(await Promise.all([call(one), call(two), call(one), call(two)]), ["b", "b", "b", "b"]);
    for (const router of [two, one]) assert.equal(await call(router), "b");
    await until(() => b.sessions.size === 1);
    b.forget();
    assert.deepEqual(await Promise.all([call(two), call(one)]), ["b", "b"]);
    await until(() => b.sessions.size === 1);
    const ended = await fetch(one.mcpUrl, { method: "DELETE", headers: { "mcp-session-id": id } });
    assert.equal(ended.status, 200);
    assert.equal(b.sessions.size, 0);
    const later = await post(two.mcpUrl, toolCall(9, "whoami"), { "mcp-session-id": id });
    assert.notEqual(later.body.error, undefined, "the other process must not bring it back");
    assert.equal((await post(two.mcpUrl, toolCall(9, "whoami"), { "mcp-session-id": id })).status, 404);
    assert.equal(b.sessions.size, 0);
  });

  test("R3: takes along the log level that its client set last, at whichever router process", async () => {
    const directory = createMemoryDirectory();
    const [one, two] = [await startTestRouter(control, { directory }), await startTestRouter(control, { directory })];
    try {
      const session = { "mcp-session-id": await openSession(one.mcpUrl) };
      const set = (router: TestRouter, id: number, level: string) =>
        post(router.mcpUrl, { jsonrpc: "2.0", id, method: "logging/setLevel", params: { level } }, session);
      await set(one, 2, "info");
      await set(two, 3, "error");
      await a.kill();
      assert.ok((await post(one.mcpUrl, toolCall(4, "whoami"), session)).body.result);
      assert.deepEqual(b.seen.levels, ["error"]);
    } finally {
      await one.close(0);
      await two.close(0);
    }
  });

  test("without a directory in common is served by both processes all the same", async () => {
    const one = await startTestRouter(control);
    const two = await startTestRouter(control);
    others.push(
      () => one.close(0),
      () => two.close(0),
    );
    const id = await openSession(one.mcpUrl);
    await a.kill();
    control.move("b");
    for (const router of [one, two, one]) {
      const answer = await post(router.mcpUrl, toolCall(1, "whoami"), { "mcp-session-id": id });
      assert.equal(textOf(answer.body.result), "b");
    }
  });

  test("starts on another endpoint when the first is dead", async () => {
    await a.kill();
    const { client } = await connectV1(router.mcpUrl);
    assert.equal(textOf(await client.callTool({ name: "whoami" })), "b");
    await client.close();
  });

  test("R2: with an upstream that has no sessions gets an id, so that it can move to one that has", async () => {
    const stateless = await startMcpServer("stateless", { sessions: false });
    others.push(() => stateless.kill());
    const mixed = fakeControl([stateless, b]);
    const second = await startTestRouter(mixed);
    others.push(() => second.close(0));
    const { client, transport } = await connectV1(second.mcpUrl);
    assert.match(transport.sessionId ?? "", /^mcpf1/);
    assert.equal(textOf(await client.callTool({ name: "whoami" })), "stateless");
    await stateless.kill();
    assert.equal(textOf(await client.callTool({ name: "whoami" })), "b");
    await client.close();
  });

  test("configured stateless has no id, and every endpoint serves it", async () => {
    const stateless = await startMcpServer("stateless", { sessions: false });
    others.push(() => stateless.kill());
    const second = await startTestRouter(fakeControl([stateless, b], { sessions: "stateless" }));
    others.push(() => second.close(0));
    const { client, transport } = await connectV1(second.mcpUrl);
    assert.equal(transport.sessionId, undefined);
    assert.equal(textOf(await client.callTool({ name: "whoami" })), "stateless");
    await client.close();
  });

  test("keeps no connection where its server leaves the stream open by which it answered initialize", async () => {
    const server = await startScriptedServer("s");
    server.answer = (asked) => {
      const { method, message, response } = asked;
      if (method !== "initialize") return false;
      response.writeHead(200, { "content-type": "text/event-stream", "mcp-session-id": `s-${server.heard.length}` });
      const result = { protocolVersion: "2025-11-25", capabilities: { tools: {} }, serverInfo: { name: "s", version: "1" } };
      stream(asked, { id: message.id, result });
      return true;
    };
    const narrow = await startTestRouter(fakeControl([server]), { limits: { connectionsMax: 4 } });
    try {
      for (let count = 1; count <= 12; count++) {
        assert.ok((await post(narrow.mcpUrl, initializeBody)).body.result, `session ${count}`);
        if (count % 4 === 0) await until(() => server.connections <= 1);
      }
    } finally {
      await narrow.close(0);
      await server.kill();
    }
  });

  test("whose initialize is too large for an id is refused with a reason", async () => {
    const noise = Array.from({ length: 3000 }, () => Math.random().toString(36)).join("");
    const params = { ...initializeBody.params, clientInfo: { name: "x", version: "1", title: noise } };
    const answer = await post(router.mcpUrl, { ...initializeBody, params });
    assert.equal(answer.body.error?.code, -32602);
    assert.equal(answer.headers.get("mcp-session-id"), null);
  });

  test("R5: beyond the number that is held at once (sweep.test.ts) comes back by its id", async () => {
    const small = await startTestRouter(control, { limits: { sessionsMax: 2 } });
    others.push(() => small.close(0));
    // Without `initialized` no stream of theirs is open, and all are idle.
    const ids: string[] = [];
    for (let index = 0; index < 3; index++) ids.push((await post(small.mcpUrl, initializeBody)).headers.get("mcp-session-id") ?? "");
    assert.equal(small.sessionCount, 2);
    for (const id of ids) {
      const answer = await post(small.mcpUrl, toolCall(1, "whoami"), { "mcp-session-id": id });
      assert.equal(textOf(answer.body.result), "a");
    }
  });

  test("R6: sends the protocol version on as the client said it, else the negotiated one, and headers of the protocol that it does not know", async () => {
    const id = await openSession(router.mcpUrl);
    const versions = (): unknown[] => a.seen.headers.slice(-1).map((headers) => headers["mcp-protocol-version"]);
    await post(router.mcpUrl, toolCall(1, "whoami"), { "mcp-session-id": id });
    assert.deepEqual(versions(), ["2025-11-25"]);
    const said = { "mcp-session-id": id, "mcp-protocol-version": "2025-06-18", "mcp-param-greeting": "=?base64?SGVsbG8=?=" };
    await post(router.mcpUrl, toolCall(2, "whoami"), said);
    assert.deepEqual(versions(), ["2025-06-18"]);
    assert.equal(a.seen.headers.at(-1)?.["mcp-param-greeting"], "=?base64?SGVsbG8=?=");
    const invalid = await post(router.mcpUrl, toolCall(3, "whoami"), { "mcp-session-id": id, "mcp-protocol-version": "1999-01-01" });
    assert.equal(invalid.status, 400);
    assert.match(invalid.text, /[Uu]nsupported protocol version/);
  });

  test("R15: answers a ping itself, and not when it is over", async () => {
    const id = await openSession(router.mcpUrl);
    await a.kill();
    const ping = { jsonrpc: "2.0", id: 7, method: "ping" };
    assert.deepEqual((await post(router.mcpUrl, ping, { "mcp-session-id": id })).body, { jsonrpc: "2.0", id: 7, result: {} });
    await fetch(router.mcpUrl, { method: "DELETE", headers: { "mcp-session-id": id } });
    assert.equal((await post(router.mcpUrl, ping, { "mcp-session-id": id })).status, 404);
  });

  test("R22: that a server refuses to take over with 429 says that it sheds load, and until when, to its calls, messages and streams; nothing was sent", async () => {
    const s = await startScriptedServer("s");
    const first = await startScriptedServer("first");
    const own = fakeControl([s]);
    const begins = await startTestRouter(fakeControl([first]));
    const second = await startTestRouter(own);
    others.push(
      () => begins.close(0),
      () => second.close(0),
      () => first.kill(),
      () => s.kill(),
    );
    for (const refused of ["initialize", "notifications/initialized"]) {
      s.answer = ({ method, response }) => {
        if (method === refused) response.writeHead(429, { "retry-after": "7" }).end();
        return method === refused;
      };
      // Begun at a server that the second router does not have.
      const session = { "mcp-session-id": await openSession(begins.mcpUrl) };
      const before = own.told.length;
      const sent = await post(second.mcpUrl, toolCall(1, "write", { key: "k" }), session);
      const { operationId: _operation, ...data } = sent.body.error?.data ?? {};
      assert.deepEqual(
        [sent.status, data],
        [200, { code: "overloaded", upstream: "fake", retriable: true, retryAfterMs: 7000 }],
        sent.text,
      );
      assert.deepEqual(own.told[before]?.result, {
        outcome: "soft",
        httpStatus: 429,
        toolError: false,
        executed: "no",
        retryAfterMs: 7000,
      });
      const headers = { accept: "application/json, text/event-stream", ...session };
      const body = JSON.stringify({ jsonrpc: "2.0", method: "notifications/roots/list_changed" });
      const message = await fetch(second.mcpUrl, { method: "POST", headers: { ...headers, "content-type": "application/json" }, body });
      const stream = await fetch(second.mcpUrl, { headers });
      for (const answer of [message, stream])
        assert.deepEqual([answer.status, answer.headers.get("retry-after")], [429, "7"], await answer.text());
    }
    assert.ok(!s.heard.some((one) => /^(tools|notifications\/roots)/.test(one)), s.heard.join(", "));
  });
});
