import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";
import { openSession, post, toolCall, until } from "./support/clients.ts";
import { fakeControl } from "./support/fake-control.ts";
import { type GatedServer, startGatedServer } from "./support/gated-server.ts";
import { startTestRouter, type TestRouter } from "./support/router.ts";
import { controlOf } from "./support/several.ts";

const waitMs = 30_000;
/** Longer than any test waits: what has its answer by then did not wait for the upstream that hangs. */
const callMs = 120_000;
const meta = {
  "io.modelcontextprotocol/protocolVersion": "2026-07-28",
  "io.modelcontextprotocol/clientInfo": { name: "raw", version: "1" },
  "io.modelcontextprotocol/clientCapabilities": {},
};

describe("a session of /mcp with an upstream that hangs while it is begun", () => {
  let slow: GatedServer;
  let other: GatedServer;
  let router: TestRouter;
  let url: string;
  beforeEach(async () => {
    [slow, other] = [await startGatedServer("slow"), await startGatedServer("other")];
    const upstreams = { slow: fakeControl([slow], { callMs }), other: fakeControl([other], { callMs }) };
    router = await startTestRouter(controlOf(upstreams));
    url = `${router.url}/mcp`;
  });
  afterEach(async () => {
    slow.release();
    await router.close(0);
    for (const server of [slow, other]) await server.kill();
    assert.deepEqual(router.problems, []);
  });
  const list = { jsonrpc: "2.0", id: 9, method: "tools/list", params: {} };

  for (const step of ["initialize", "notifications/initialized"]) {
    test(`L1: keeps the tools of the others from nobody, and no call from its deadline (${step})`, async () => {
      slow.holds.add(step);
      const session = { "mcp-session-id": await openSession(url) };
      const patient = post(url, toolCall(5, "slow__first"), session);
      await until(() => slow.held === 1, waitMs);
      const [listed, called] = await Promise.all([
        post(url, list, session),
        post(url, toolCall(6, "slow__first"), { ...session, "mcpf-timeout-ms": "1000" }),
      ]);
      assert.equal(slow.held, 1, "it still hangs");
      assert.match(listed.text, /other__first/);
      assert.equal(called.body.error?.data?.["code"], "deadline", called.text);
      slow.release();
      if (step === "initialize") assert.match((await patient).text, /"slow"/, "who waits has the session that was begun meanwhile");
      else await patient;
    });
  }

  test("is there all the same once it does not hang any more, however few waited for it", async () => {
    slow.holds.add("notifications/initialized");
    const session = { "mcp-session-id": await openSession(url) };
    const late = await post(url, toolCall(5, "slow__first"), { ...session, "mcpf-timeout-ms": "200" });
    assert.equal(late.body.error?.data?.["code"], "deadline");
    slow.release();
    assert.match((await post(url, toolCall(6, "slow__first"), session)).text, /"slow"/);
    assert.equal(slow.heard.filter((method) => method.startsWith("tools/call")).length, 1);
  });

  test("R13: sends no call whose client of 2026-07-28 has left meanwhile", async () => {
    slow.holds.add("initialize");
    const call = (name: string, signal?: AbortSignal): Promise<Response> =>
      fetch(url, {
        method: "POST",
        headers: {
          "content-type": "application/json",
          accept: "application/json, text/event-stream",
          "mcp-protocol-version": "2026-07-28",
          "mcp-method": "tools/call",
          "mcp-name": name,
        },
        body: JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/call", params: { name, arguments: {}, _meta: meta } }),
        ...(signal === undefined ? {} : { signal }),
      });
    const leave = new AbortController();
    const gone = call("slow__write", leave.signal).catch(() => null);
    await until(() => slow.held === 1, waitMs);
    leave.abort();
    await gone;
    // What the router reads after the end of that connection: it knows of it then.
    for (let turns = 0; turns < 5; turns += 1) await fetch(`${router.url}/healthz`);
    const next = call("slow__read");
    for (let turns = 0; turns < 5; turns += 1) await fetch(`${router.url}/healthz`);
    slow.release();
    assert.match(await (await next).text(), /"slow"/);
    assert.deepEqual(
      slow.heard.filter((one) => one.startsWith("tools/call")),
      ["tools/call read"],
    );
  });
});
