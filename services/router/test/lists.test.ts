import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";
import { endpointTag } from "../src/mcp/cursor.ts";
import { openSession, post, toolCall, until } from "./support/clients.ts";
import { type FakeControl, fakeControl } from "./support/fake-control.ts";
import { type ListServer, startListServer } from "./support/list-server.ts";
import { startTestRouter, type TestRouter } from "./support/router.ts";

const plain = { type: "object", properties: {} };
const other = { type: "object", properties: { n: { type: "number" } }, required: ["n"] };

describe("lists of several endpoints", () => {
  let a: ListServer;
  let b: ListServer;
  let control: FakeControl;
  let router: TestRouter;
  const warned: string[] = [];
  const begin = async (of: Readonly<Record<string, object>>): Promise<string> => {
    a = await startListServer("a", { same: plain, changed: plain, gone: plain }, 3);
    b = await startListServer("b", of, 3);
    control = fakeControl([a, b]);
    for (const tool of ["same", "changed", "gone"]) control.readOnly.add(tool);
    router = await startTestRouter(control, { log: (_, message) => warned.push(message) });
    return openSession(router.mcpUrl);
  };
  beforeEach(() => void warned.splice(0));
  afterEach(async () => {
    await router.close(0);
    await a.kill();
    await b.kill();
    assert.deepEqual(router.problems, []);
  });
  const ask = (session: string, method: string, params: object = {}) =>
    post(router.mcpUrl, { jsonrpc: "2.0", id: 1, method, params }, { "mcp-session-id": session });
  const call = async (session: string, tool: string): Promise<string | undefined> => {
    const answer = await post(router.mcpUrl, toolCall(1, tool), { "mcp-session-id": session });
    return answer.body.result?.content?.[0]?.text ?? String(answer.body.error?.code);
  };

  test("R16: a cursor goes back to the endpoint that gave it, as that one wrote it", async () => {
    const session = await begin({ same: plain });
    const first = await ask(session, "resources/list");
    const cursor = String(first.body.result?.["nextCursor"]);
    assert.notEqual(cursor, "1");
    const second = await ask(session, "resources/list", { cursor });
    assert.deepEqual(second.body.result?.["resources"], [{ uri: "test://a/1", name: "1" }]);
    assert.deepEqual(
      a.seen.filter((method) => method.startsWith("resources")),
      ["resources/list", "resources/list 1"],
    );
    const last = await ask(session, "resources/list", { cursor: second.body.result?.["nextCursor"] });
    assert.equal(last.body.result?.["nextCursor"], undefined);
  });

  test("R16: a cursor chooses the endpoint of a list alone, whatever else carries one", async () => {
    const session = await begin({ same: plain });
    const params = { name: "same", arguments: {}, cursor: `mcpf.${endpointTag("b")}.1` };
    await ask(session, "tools/call", params);
    assert.equal(control.calls.find(({ tool }) => tool === "same")?.sessionEndpoint, "a");
    assert.deepEqual(
      control.told.filter(({ tool }) => tool === "same").map(({ endpoint }) => endpoint),
      ["a"],
    );
  });

  test("C1: an error of the router's own gives back what the control keeps for a call", async () => {
    const session = await begin({ same: plain });
    control.learnTools = () => {
      throw new Error("of a test");
    };
    await ask(session, "tools/list").catch(() => undefined);
    await until(() => router.problems.length === 1);
    router.problems.pop();
    assert.deepEqual(control.told.find(({ method }) => method === "tools/list")?.result, { outcome: "aborted" });
    assert.ok(control.ended.includes("error"));
  });

  test("R16: before one endpoint alone a cursor that another router behind it has named goes back as it came", async () => {
    await begin({ same: plain });
    const alone = await startTestRouter(fakeControl([a]));
    try {
      const session = await openSession(alone.mcpUrl);
      const cursor = `mcpf.${endpointTag("of the other router")}.1`;
      const message = { jsonrpc: "2.0", id: 1, method: "resources/list", params: { cursor } };
      const answer = await post(alone.mcpUrl, message, { "mcp-session-id": session });
      assert.equal(answer.body.error, undefined);
      assert.ok(a.seen.includes(`resources/list ${cursor}`), a.seen.join(", "));
    } finally {
      await alone.close(0);
    }
  });

  test("R16: a cursor of an endpoint that is gone is refused with -32602, and never given to another one", async () => {
    const session = await begin({ same: plain });
    const cursor = (await ask(session, "resources/list")).body.result?.["nextCursor"];
    await a.kill();
    const refused = await ask(session, "resources/list", { cursor });
    assert.deepEqual([refused.status, refused.body.error?.code], [200, -32602]);
    assert.ok(
      b.seen.every((method) => !method.includes(" ")),
      b.seen.join(", "),
    );
    assert.deepEqual((await ask(session, "resources/list")).body.result?.["resources"], [{ uri: "test://b/0", name: "0" }]);
  });

  test("R16: an endpoint whose tool differs does not stand in for the active one, and the operator is told", async () => {
    const session = await begin({ same: plain, changed: other });
    await ask(session, "tools/list");
    await a.kill();
    assert.equal(await call(session, "same"), "b ran same");
    assert.equal(await call(session, "changed"), "1002");
    assert.equal(await call(session, "gone"), "1002");
    assert.deepEqual(
      b.seen.filter((method) => method === "tools/list" || method === "tools/call"),
      ["tools/list", "tools/call"],
    );
    assert.ok(warned.some((message) => /different tools/.test(message)));
    // Where the fleet has moved to it, it is what the upstream is now.
    control.move("b");
    assert.equal(await call(session, "changed"), "b ran changed");
  });

  for (const [of, isTold] of [
    [{ same: plain, changed: other }, true],
    [{ same: plain, changed: plain, gone: plain }, false],
  ] as const) {
    test(`R16: after a switch the client hears list_changed ${isTold ? "where the list has changed" : "only where it has"}`, async () => {
      const session = await begin(of);
      await ask(session, "tools/list");
      const abort = new AbortController();
      const stream = await fetch(router.mcpUrl, {
        headers: { accept: "text/event-stream", "mcp-session-id": session },
        signal: abort.signal,
      });
      let text = "";
      const decoder = new TextDecoder();
      const reading = (async () => {
        for await (const chunk of stream.body ?? []) text += decoder.decode(chunk, { stream: true });
      })().catch(() => undefined);
      control.move("b");
      assert.equal(await call(session, "same"), "b ran same");
      if (isTold) await until(() => text.includes("notifications/tools/list_changed"));
      else await new Promise((resolve) => setTimeout(resolve, 300));
      assert.equal(text.split("list_changed").length - 1, isTold ? 1 : 0);
      abort.abort();
      await reading;
    });
  }

  test("R17: what is asked of a task goes to the endpoint that runs it, and gets an explicit error once that is gone", async () => {
    const session = await begin({ same: plain, job: plain });
    const made = await post(router.mcpUrl, toolCall(1, "job"), { "mcp-session-id": session });
    assert.deepEqual(made.body.result?.["task"], { taskId: "task-of-a", status: "working" });
    assert.equal((await ask(session, "tasks/get", { taskId: "task-of-a" })).body.result?.["by"], "a");
    await a.kill();
    control.move("b");
    const lost = await ask(session, "tasks/get", { taskId: "task-of-a" });
    assert.equal(lost.body.error?.code, 1001);
    assert.match(String(lost.body.error?.message), /runs on a/);
    assert.ok(
      b.seen.every((method) => !method.startsWith("tasks/") && method !== "tools/call"),
      b.seen.join(", "),
    );
    // What nobody here has seen begin is the active endpoint's business.
    assert.equal((await ask(session, "tasks/get", { taskId: "unknown" })).body.result?.["by"], "b");
  });

  test("R17: without a session too: a task of 2026-07-28 is asked for, cancelled and given input where it runs, or nowhere", async () => {
    await begin({ same: plain, job: plain });
    const _meta = {
      "io.modelcontextprotocol/protocolVersion": "2026-07-28",
      "io.modelcontextprotocol/clientInfo": { name: "agent", version: "1" },
      "io.modelcontextprotocol/clientCapabilities": { extensions: { "io.modelcontextprotocol/tasks": {} } },
    };
    const say = (method: string, params: Readonly<Record<string, unknown>>) => {
      const named = { "mcp-protocol-version": "2026-07-28", "mcp-method": method, "mcp-name": String(params["name"] ?? params["taskId"]) };
      return post(router.mcpUrl, { jsonrpc: "2.0", id: 1, method, params: { ...params, _meta } }, named);
    };
    const made = await say("tools/call", { name: "job", arguments: {} });
    assert.deepEqual(made.body.result, { resultType: "task", taskId: "task-of-a", status: "working" } as never);
    control.move("b");
    a.seen.splice(0);
    assert.equal((await say("tasks/get", { taskId: "task-of-a" })).body.result?.["by"], "a", "the routes have moved on, the task has not");
    for (const method of ["tasks/update", "tasks/cancel"]) await say(method, { taskId: "task-of-a" });
    assert.deepEqual(
      a.seen.filter((method) => method.startsWith("tasks/")),
      ["tasks/get", "tasks/update", "tasks/cancel"],
    );
    await a.kill();
    const lost = await say("tasks/get", { taskId: "task-of-a" });
    assert.match(String(lost.body.error?.message), /runs on a/);
    assert.ok(
      b.seen.every((method) => !method.startsWith("tasks/") && method !== "tools/call"),
      b.seen.join(", "),
    );
  });
});
