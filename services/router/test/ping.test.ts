import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";
import { connectV1, connectV2, openSession, post, textOf } from "./support/clients.ts";
import { type FakeControl, fakeControl } from "./support/fake-control.ts";
import { startTestRouter, type TestRouter } from "./support/router.ts";
import { type Scripted, type ScriptedServer, startScriptedServer, stream } from "./support/scripted-server.ts";
import { controlOf } from "./support/several.ts";

describe("a server that pings in the midst of a call", () => {
  let server: ScriptedServer;
  let control: FakeControl;
  let router: TestRouter;
  /** What came as an answer to the server, in order. */
  let answers: Scripted["message"][];

  beforeEach(async () => {
    server = await startScriptedServer("s");
    answers = [];
    let open: Scripted | null = null;
    server.answer = (asked) => {
      if (asked.method === "answer") answers.push(asked.message);
      if (asked.method === "answer" && open !== null) {
        stream(open, { id: open.message.id, result: { content: [{ type: "text", text: "s" }] } });
        open.response.end();
        open = null;
      }
      if (asked.method !== "tools/call") return false;
      open = asked;
      stream(asked, { id: "ping-1", method: "ping" });
      return true;
    };
    control = fakeControl([server]);
    router = await startTestRouter(controlOf({ fake: control }));
  });
  afterEach(async () => {
    await router.close(0);
    await server.kill();
    assert.deepEqual(router.problems, []);
  });

  for (const path of ["/mcp/fake", "/mcp"]) {
    test(`R15: has its answer from the client of a session with ${path}, as without a router`, async () => {
      const { client } = await connectV1(`${router.url}${path}`);
      const name = path === "/mcp" ? "fake__whoami" : "whoami";
      assert.equal(textOf(await client.callTool({ name, arguments: {} })), "s");
      await client.close();
      assert.deepEqual(answers, [{ jsonrpc: "2.0", id: "ping-1", result: {} }]);
    });
  }

  test("R15: has its answer from the router where the client of /mcp cannot be asked, and the call goes on", async () => {
    const client = await connectV2(`${router.url}/mcp`, "auto");
    assert.equal(client.getNegotiatedProtocolVersion(), "2026-07-28");
    assert.equal(textOf(await client.callTool({ name: "fake__whoami", arguments: {} })), "s");
    await client.close();
    assert.deepEqual(answers, [{ jsonrpc: "2.0", id: "ping-1", result: {} }]);
  });

  test("R15: and a client of /mcp that pings has its answer with every server dead", async () => {
    const url = `${router.url}/mcp`;
    const session = await openSession(url);
    await server.kill();
    const ping = { jsonrpc: "2.0", id: 7, method: "ping" };
    assert.deepEqual((await post(url, ping, { "mcp-session-id": session })).body, { jsonrpc: "2.0", id: 7, result: {} });
  });
});
