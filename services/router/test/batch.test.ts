import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";
import { initializeBody, post, toolCall } from "./support/clients.ts";
import { type FakeControl, fakeControl } from "./support/fake-control.ts";
import { startMcpServer, type TestMcpServer } from "./support/mcp-server.ts";
import { startTestRouter, type TestRouter } from "./support/router.ts";
import { controlOf } from "./support/several.ts";

type Answer = { id: unknown; result?: { content?: { text: string }[]; tools?: { name: string }[] }; error?: { code: number } };
const answersOf = (text: string): Answer[] =>
  [...text.matchAll(/^data: (\{.*)$/gm)].map(([, data]) => JSON.parse(data ?? "") as Answer).filter(({ id }) => id !== undefined);
const send = (url: URL | string, session: string, messages: unknown[]) =>
  post(url, JSON.stringify(messages), { "mcp-session-id": session });
const begin = async (url: URL | string, protocolVersion: string): Promise<string> => {
  const answer = await post(url, { ...initializeBody, params: { ...initializeBody.params, protocolVersion } });
  const id = answer.headers.get("mcp-session-id") ?? "";
  await post(url, { jsonrpc: "2.0", method: "notifications/initialized" }, { "mcp-session-id": id });
  return id;
};

describe("a batch", () => {
  let a: TestMcpServer;
  let b: TestMcpServer;
  let control: FakeControl;
  let router: TestRouter;
  beforeEach(async () => {
    a = await startMcpServer("a");
    b = await startMcpServer("b");
    control = fakeControl([a, b]);
    router = await startTestRouter(control);
  });
  afterEach(async () => {
    await router.close(0);
    await a.kill();
    await b.kill();
    assert.deepEqual(router.problems, []);
  });
  test("R18: of protocol 2025-03-26 is split: every request in it has its own answer, and the upstream gets single messages", async () => {
    const session = await begin(router.mcpUrl, "2025-03-26");
    const answered = await send(router.mcpUrl, session, [
      toolCall("who", "whoami"),
      { jsonrpc: "2.0", method: "notifications/roots/list_changed" },
      { jsonrpc: "2.0", id: "ping", method: "ping" },
      toolCall("one", "write", { key: "k" }),
      { jsonrpc: "2.0", id: "none", method: "no/such" },
    ]);
    assert.equal(answered.status, 200);
    const answers = new Map(answersOf(answered.text).map((answer) => [answer.id, answer]));
    assert.equal(answers.size, 4);
    assert.equal(answers.get("who")?.result?.content?.[0]?.text, "a");
    assert.match(String(answers.get("one")?.result?.content?.[0]?.text), /a wrote k/);
    assert.deepEqual(answers.get("ping")?.result, {});
    assert.equal(answers.get("none")?.error?.code, -32601);
    assert.deepEqual(a.writes, ["k"]);
    const operations = control.calls.filter(({ tool }) => tool !== null).map(({ operationId }) => operationId);
    assert.equal(new Set(operations).size, 2, "each call has an operation id of its own: legacy APIs get it as idempotency key");
    const notifications = await send(router.mcpUrl, session, [{ jsonrpc: "2.0", method: "notifications/roots/list_changed" }]);
    assert.equal(notifications.status, 202);
  });

  test("R18: has a policy for each of its calls: a dead endpoint's read moves, its write that may have run is not repeated", async () => {
    const session = await begin(router.mcpUrl, "2025-03-26");
    a.resetAfterWrite = true;
    const answered = await send(router.mcpUrl, session, [
      toolCall("write", "write", { key: "k" }),
      toolCall("read", "slow", { steps: 2, ms: 30 }),
    ]);
    const answers = new Map(answersOf(answered.text).map((answer) => [answer.id, answer]));
    assert.equal(answers.get("write")?.error?.code, 1001);
    assert.match(String(answers.get("read")?.result?.content?.[0]?.text), /is done/);
    assert.deepEqual([...a.writes, ...b.writes], ["k"]);
  });

  test("R18: is refused by every later protocol, when it is empty, and when it is too long", async () => {
    const later = await begin(router.mcpUrl, "2025-06-18");
    assert.equal((await send(router.mcpUrl, later, [toolCall(1, "whoami")])).status, 400);
    const session = await begin(router.mcpUrl, "2025-03-26");
    assert.equal((await send(router.mcpUrl, session, [])).status, 400);
    assert.equal((await send(router.mcpUrl, session, [toolCall(1, "write", { key: "x" }), initializeBody])).status, 400);
    assert.equal(
      (
        await send(
          router.mcpUrl,
          session,
          Array.from({ length: 101 }, (_, id) => toolCall(id, "write", { key: "x" })),
        )
      ).status,
      400,
    );
    assert.equal((await post(router.mcpUrl, "[1,", { "mcp-session-id": session })).body.error?.code, -32700);
    assert.deepEqual(a.writes, []);
  });
});

describe("a batch to /mcp", () => {
  let a: TestMcpServer;
  let b: TestMcpServer;
  let router: TestRouter;
  let url: string;
  beforeEach(async () => {
    [a, b] = await Promise.all([startMcpServer("A"), startMcpServer("B")]);
    router = await startTestRouter(
      controlOf({ a: fakeControl([{ name: "only", url: a.url }]), b: fakeControl([{ name: "only", url: b.url }]) }),
    );
    url = `${router.url}/mcp`;
  });
  afterEach(async () => {
    await router.close(0);
    for (const server of [a, b]) await server.kill();
    assert.deepEqual(router.problems, []);
  });

  test("R18: of protocol 2025-03-26 is split: every request in it has its own answer, from the upstream that it names", async () => {
    const session = await begin(url, "2025-03-26");
    const answered = await send(url, session, [
      toolCall("a", "a__whoami"),
      toolCall("b", "b__write", { key: "k" }),
      { jsonrpc: "2.0", id: "list", method: "tools/list" },
      { jsonrpc: "2.0", id: "ping", method: "ping" },
      { jsonrpc: "2.0", method: "notifications/roots/list_changed" },
      toolCall("nobody's", "c__whoami"),
      { jsonrpc: "2.0", id: "none", method: "no/such" },
    ]);
    assert.equal(answered.status, 200);
    const answers = new Map(answersOf(answered.text).map((answer) => [answer.id, answer]));
    assert.equal(answersOf(answered.text).length, 6);
    assert.equal(answers.get("a")?.result?.content?.[0]?.text, "A");
    assert.match(String(answers.get("b")?.result?.content?.[0]?.text), /B wrote k/);
    assert.ok(answers.get("list")?.result?.tools?.some(({ name }) => name === "b__write"));
    assert.deepEqual(answers.get("ping")?.result, {});
    assert.deepEqual([answers.get("nobody's")?.error?.code, answers.get("none")?.error?.code], [-32602, -32601]);
    assert.deepEqual([a.writes, b.writes], [[], ["k"]]);
    assert.equal((await send(url, session, [{ jsonrpc: "2.0", method: "notifications/roots/list_changed" }])).status, 202);
  });

  test("R18: is refused by every later protocol, without a session, when it is empty and when it begins one", async () => {
    const later = await begin(url, "2025-06-18");
    assert.equal((await send(url, later, [toolCall(1, "a__write", { key: "x" })])).status, 400);
    const session = await begin(url, "2025-03-26");
    assert.equal((await send(url, session, [])).status, 400);
    assert.equal((await send(url, session, [toolCall(1, "a__write", { key: "x" }), initializeBody])).status, 400);
    assert.equal((await post(url, JSON.stringify([toolCall(1, "a__write", { key: "x" })]))).status, 400);
    assert.equal((await post(url, "[1,", { "mcp-session-id": session })).body.error?.code, -32700);
    assert.deepEqual(a.writes, []);
  });
});
