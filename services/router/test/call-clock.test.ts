import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { patientMs } from "@mcp-failover/testkit";
import { openSession, post, toolCall, until } from "./support/clients.ts";
import { fakeControl } from "./support/fake-control.ts";
import { startTestRouter } from "./support/router.ts";
import { startScriptedServer, stream } from "./support/scripted-server.ts";

/** A router before a server that answers a call after a time, or never; and how to set the machine's clock. */
async function world(t: TestContext, answersAfterMs: number | null) {
  const server = createServer((request, response) => {
    request.resume();
    if (answersAfterMs === null) return;
    const text = JSON.stringify({ jsonrpc: "2.0", id: 7, result: { content: [] } });
    setTimeout(() => response.writeHead(200, { "content-type": "application/json" }).end(text), answersAfterMs);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  const router = await startTestRouter(fakeControl([{ name: "a", url }]));
  t.after(async () => {
    await router.close(0);
    server.closeAllConnections();
    server.close();
  });
  return {
    router,
    call: (timeoutMs: number) => post(router.mcpUrl, toolCall(7, "write"), { "mcpf-timeout-ms": String(timeoutMs) }),
    setClock: settable(t),
  };
}
/** Sets the machine's clock so much from what it is. */
function settable(t: TestContext): (ms: number) => void {
  const realMs = Date.now.bind(Date);
  let aheadMs = 0;
  t.mock.method(Date, "now", () => realMs() + aheadMs);
  return (ms) => {
    aheadMs = ms;
  };
}
const hourMs = 3_600_000;

test("C3: a call has its answer at its deadline, though the machine's clock is set back meanwhile", {
  timeout: patientMs(10_000),
}, async (t) => {
  const { call, setClock } = await world(t, null);
  const answer = call(1500);
  setTimeout(setClock, 200, -hourMs);
  assert.match((await answer).text, /outcome_unknown/);
});

test("C3: a call that is being answered is not ended because the machine's clock is set forward", async (t) => {
  const { call, setClock } = await world(t, 600);
  const answer = call(patientMs(5000));
  setTimeout(setClock, 200, hourMs);
  assert.match((await answer).text, /"result"/);
});

test("S3: a stop lets end what is in flight, though the machine's clock is set forward meanwhile", async (t) => {
  const { call, router, setClock } = await world(t, 600);
  const answer = call(patientMs(5000));
  await until(() => router.connections.front + router.connections.node > 0);
  await sleep(100);
  const closed = router.close(patientMs(5000));
  setClock(hourMs);
  assert.match((await answer).text, /"result"/);
  await closed;
});

const messages = {
  call: toolCall(7, "write"),
  notification: { jsonrpc: "2.0", method: "notifications/roots/list_changed" },
  stream: null,
};
for (const [what, message] of Object.entries(messages)) {
  test(`R2: a session that its server has lost is begun again for a ${what}, though the machine's clock is set forward meanwhile`, async (t) => {
    const server = await startScriptedServer("s");
    const router = await startTestRouter(fakeControl([server]));
    t.after(async () => {
      await router.close(0);
      await server.kill();
    });
    const session = await openSession(router.mcpUrl);
    await until(() => server.heard.some((one) => one.startsWith("GET")));
    const setClock = settable(t);
    server.answer = async ({ method, request, response, message: { id } }) => {
      if (method === "initialize") await sleep(50);
      if (request.headers["mcp-session-id"] === "s-1") {
        setClock(hourMs);
        const error = { code: -32001, message: "Session not found" };
        response.writeHead(404, { "content-type": "application/json" }).end(JSON.stringify({ jsonrpc: "2.0", id: id ?? null, error }));
        return true;
      }
      if (method === "GET") stream({ method, request, response, message: {} });
      return method === "GET";
    };
    if (message !== null) {
      const answer = await post(router.mcpUrl, message, { "mcp-session-id": session });
      assert.equal(answer.status, what === "call" ? 200 : 202, answer.text);
      assert.ok(!answer.text.includes("error"), answer.text);
      return;
    }
    const leave = new AbortController();
    const opened = await fetch(router.mcpUrl, {
      headers: { accept: "text/event-stream", "mcp-session-id": session },
      signal: leave.signal,
    });
    leave.abort();
    assert.equal(opened.status, 200);
  });
}

test("R8: a stream has its heartbeats, though the machine's clock is set back meanwhile", async (t) => {
  const server = await startScriptedServer("s");
  server.answer = (asked) => {
    if (asked.method === "GET") stream(asked);
    return asked.method === "GET";
  };
  const router = await startTestRouter(fakeControl([server]), { limits: { heartbeatMs: 100 } });
  const leave = new AbortController();
  t.after(async () => {
    leave.abort();
    await router.close(0);
    await server.kill();
  });
  const session = await openSession(router.mcpUrl);
  const setClock = settable(t);
  const opened = await fetch(router.mcpUrl, { headers: { accept: "text/event-stream", "mcp-session-id": session }, signal: leave.signal });
  let text = "";
  (async () => {
    const decoder = new TextDecoder();
    for await (const chunk of opened.body ?? []) text += decoder.decode(chunk);
  })().catch(() => undefined);
  await until(() => text.includes("alive"));
  setClock(-hourMs);
  text = "";
  await until(() => text.split("alive").length > 3);
});
