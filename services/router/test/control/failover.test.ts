import assert from "node:assert/strict";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { type TestContext, test } from "node:test";
import { testKit } from "@mcp-failover/service-kit/testing";
import { freePort } from "@mcp-failover/testkit";
import { routerConfig } from "../../src/config.ts";
import { startRouter } from "../../src/wiring.ts";
import { settled, start } from "./fixture.ts";

/** A plain HTTP API that counts what ran by the id of the order. */
async function api(t: TestContext, ran: Map<string, number>): Promise<{ server: Server; url: string; kill(): Promise<void> }> {
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request) body += chunk;
    const { id } = JSON.parse(body || '{"id":"read"}') as { id: string };
    ran.set(id, (ran.get(id) ?? 0) + 1);
    // Longer than nothing, so that calls are in flight when the server dies.
    setTimeout(() => response.end(JSON.stringify({ id })), 15);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const kill = async () => {
    const closed = new Promise((resolve) => server.close(resolve));
    server.closeAllConnections();
    await closed;
  };
  t.after(async () => {
    if (server.listening) await kill();
  });
  return { server, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, kill };
}

test("the whole router: writes under load survive the death of the active server, none runs twice, and reads never fail", async (t) => {
  const [onPrimary, onSecondary] = [new Map<string, number>(), new Map<string, number>()];
  const [primary, secondary] = [await api(t, onPrimary), await api(t, onSecondary)];
  const yaml = `
upstreams:
  orders:
    kind: http
    endpoints:
      - { name: primary, url: "${primary.url}", tier: 0 }
      - { name: secondary, url: "${secondary.url}", tier: 1 }
`;
  const fixture = await start(t, { yaml });
  const port = await freePort();
  const bus = fixture.broker.connect();
  const config = routerConfig.parse({ MCPF_ROUTER_PORT: String(port), MCPF_ROUTER_GRACE_MS: "100" });
  const running = await startRouter(testKit({ service: "router", instance: "router-2", bus, config, dataDir: fixture.dataDir }));
  t.after(async () => {
    await running.stop?.();
    await bus.close();
  });
  const url = `http://127.0.0.1:${port}/http/orders/order`;

  const answers: { id: string; begunMs: number; status: number; body: string; tookMs: number }[] = [];
  const calls: Promise<void>[] = [];
  const call = async (id: string, init: RequestInit) => {
    const begunMs = performance.now();
    const response = await fetch(url, init);
    const body = await response.text();
    answers.push({ id, begunMs, status: response.status, body, tookMs: performance.now() - begunMs });
  };
  let killedMs = Number.POSITIVE_INFINITY;
  for (let index = 0; index < 120; index += 1) {
    calls.push(call(`order-${index}`, { method: "POST", body: JSON.stringify({ id: `order-${index}` }) }));
    calls.push(call(`read-${index}`, { method: "GET" }));
    if (index === 30) {
      killedMs = performance.now();
      await primary.kill();
    }
    if (index === 60) {
      assert.deepEqual([...onSecondary.keys()], ["read"], "no write goes to the standby before the fleet has moved the upstream");
      await fixture.move("orders", "secondary", 1);
    }
    await settled(15);
  }
  await Promise.all(calls);

  const failed = answers.filter(({ status }) => status !== 200);
  assert.deepEqual(
    failed.filter(({ id }) => id.startsWith("read-")),
    [],
    "no read failed",
  );
  for (const { id, begunMs, status, body } of failed) {
    assert.ok(begunMs <= killedMs, `${id}, begun ${begunMs - killedMs} ms after the kill, failed with ${status}: ${body}`);
    assert.equal(JSON.parse(body).error.code, "outcome_unknown", "only what may have run on the dead server failed");
  }
  const ran = new Map(onPrimary);
  for (const [id, times] of onSecondary) ran.set(id, (ran.get(id) ?? 0) + times);
  for (const [id, times] of ran) if (id !== "read") assert.equal(times, 1, `${id} ran ${times} times`);
  const answered = answers.filter(({ id, status }) => id.startsWith("order-") && status === 200);
  for (const { id } of answered) assert.equal(ran.get(id), 1, `${id} was answered and did not run`);
  const waited = answered.filter(({ tookMs }) => tookMs > 100);
  assert.ok(waited.length > 0, "writes waited for the failover");
});
