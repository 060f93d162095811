import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";
import { initializeBody, post, toolCall } from "./support/clients.ts";
import { type FakeControl, fakeControl } from "./support/fake-control.ts";
import { startMcpServer, type TestMcpServer } from "./support/mcp-server.ts";
import { startTestRouter, type TestRouter } from "./support/router.ts";

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
  const begin = async (protocolVersion: string): Promise<string> => {
    const answer = await post(router.mcpUrl, { ...initializeBody, params: { ...initializeBody.params, protocolVersion } });
    const id = answer.headers.get("mcp-session-id") ?? "";
    await post(router.mcpUrl, { jsonrpc: "2.0", method: "notifications/initialized" }, { "mcp-session-id": id });
    return id;
  };
  const send = (session: string, messages: unknown[]) => post(router.mcpUrl, JSON.stringify(messages), { "mcp-session-id": session });
  type Answer = { id: unknown; result?: { content?: { text: string }[] }; error?: { code: number } };
  const answersOf = (text: string): Answer[] =>
    [...text.matchAll(/^data: (\{.*)$/gm)].map(([, data]) => JSON.parse(data ?? "") as Answer).filter(({ id }) => id !== undefined);

  test("R18: of protocol 2025-03-26 is split: every request in it has its own answer, and the upstream gets single messages", async () => {
    const session = await begin("2025-03-26");
    const answered = await send(session, [
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
    const notifications = await send(session, [{ jsonrpc: "2.0", method: "notifications/roots/list_changed" }]);
    assert.equal(notifications.status, 202);
  });

  test("R18: has a policy for each of its calls: a dead endpoint's read moves, its write that may have run is not repeated", async () => {
    const session = await begin("2025-03-26");
    a.resetAfterWrite = true;
    const answered = await send(session, [toolCall("write", "write", { key: "k" }), toolCall("read", "slow", { steps: 2, ms: 30 })]);
    const answers = new Map(answersOf(answered.text).map((answer) => [answer.id, answer]));
    assert.equal(answers.get("write")?.error?.code, 1001);
    assert.match(String(answers.get("read")?.result?.content?.[0]?.text), /is done/);
    assert.deepEqual([...a.writes, ...b.writes], ["k"]);
  });

  test("R18: is refused by every later protocol, when it is empty, and when it is too long", async () => {
    const later = await begin("2025-06-18");
    assert.equal((await send(later, [toolCall(1, "whoami")])).status, 400);
    const session = await begin("2025-03-26");
    assert.equal((await send(session, [])).status, 400);
    assert.equal((await send(session, [toolCall(1, "write", { key: "x" }), initializeBody])).status, 400);
    assert.equal(
      (
        await send(
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
