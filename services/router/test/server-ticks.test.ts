import assert from "node:assert/strict";
import { once } from "node:events";
import { connect } from "node:net";
import { test } from "node:test";
import { initializeBody, post, until } from "./support/clients.ts";
import { fakeControl } from "./support/fake-control.ts";
import { startMcpServer } from "./support/mcp-server.ts";
import { startTestRouter } from "./support/router.ts";

test("S4, R25: a router closes by itself the connections that are idle, whoever reads them, and lets go of sessions that nobody uses", async (t) => {
  t.mock.timers.enable({ apis: ["setInterval"] });
  const upstream = await startMcpServer("a");
  const router = await startTestRouter(fakeControl([upstream]), { limits: { sessionIdleMs: 10 } });
  t.after(async () => {
    t.mock.timers.reset();
    await router.close(0);
    await upstream.kill();
    assert.deepEqual(router.problems, []);
  });
  assert.equal((await post(router.mcpUrl, initializeBody, { connection: "close" })).status, 200);
  assert.equal(router.sessionCount, 1);
  const [fronts, nodes] = [connect(router.port, "127.0.0.1"), connect(router.port, "127.0.0.1")];
  t.after(() => {
    fronts.destroy();
    nodes.destroy();
  });
  nodes.write("GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
  await once(nodes, "data");
  fronts.resume();
  await until(() => router.connections.front === 1 && router.connections.node === 1);
  const { now } = performance;
  t.mock.method(performance, "now", () => now.call(performance) + 76_000);
  t.mock.timers.tick(1000);
  await until(() => fronts.destroyed && nodes.destroyed);
  t.mock.timers.tick(29_000);
  assert.equal(router.sessionCount, 0);
});
