import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { patientMs } from "@mcp-failover/testkit";
import { post, toolCall, until } from "./support/clients.ts";
import { fakeControl } from "./support/fake-control.ts";
import { startTestRouter } from "./support/router.ts";

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
  const realMs = Date.now.bind(Date);
  let aheadMs = 0;
  t.mock.method(Date, "now", () => realMs() + aheadMs);
  return {
    router,
    call: (timeoutMs: number) => post(router.mcpUrl, toolCall(7, "write"), { "mcpf-timeout-ms": String(timeoutMs) }),
    setClock: (ms: number) => {
      aheadMs = ms;
    },
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
