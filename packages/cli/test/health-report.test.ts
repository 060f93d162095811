import assert from "node:assert/strict";
import { test } from "node:test";
import { type Bus, memoryBroker } from "@mcp-failover/bus";
import { type HealthReport, healthReport } from "@mcp-failover/contracts";
import { configured, runMcpf } from "./support.ts";

const report = (bus: Bus, ...more: string[]) => runMcpf(bus, ["status", "--report", ...more]);
const logged = () =>
  configured(
    'upstreams: { shop: { kind: http, critical: false, endpoints: [{ name: primary, url: "http://127.0.0.1:9001/", tier: 0 }] } }',
  );

test("mcpf status --report without a state-store is folded from the log, says so, and has the pinned shape", async () => {
  const { bus } = await logged();
  const ran = await report(bus, "-o", "json");
  const [shop] = healthReport.parse(JSON.parse(ran.stdout)).services;
  assert.deepEqual([shop?.service, shop?.status, shop?.critical], ["shop", "unknown", false]);
  assert.match(ran.stderr, /folded from the log/);
  assert.equal(ran.code, 0);
  await bus.close();
});

test("mcpf status --report shows the state-store's word, and is 3 when a critical service is unhealthy", async () => {
  const { broker, bus } = await logged();
  const store = broker.connect({ instance: "state-store-1" });
  const service = { endpoint: "primary", responseTime: 12.5, error: "HTTP 503: it failed", timestamp: "2026-03-01T00:00:00.000Z" };
  const answer: HealthReport = {
    overall: "unhealthy",
    timestamp: "2026-03-01T00:00:01.000Z",
    services: [{ ...service, service: "shop", status: "unhealthy", critical: true, unhealthy: ["primary"], maintenance: null }],
  };
  const serving = await store.serve({
    name: "state-store",
    instance: "s",
    version: "0.1.0",
    description: "",
    handlers: { "state.health_report": async () => answer },
  });
  const ran = await report(bus);
  assert.equal(ran.code, 3);
  assert.match(ran.stdout, /shop +unhealthy +critical +primary +12\.5 ms +2026-03-01T00:00:00\.000Z +HTTP 503: it failed/);
  assert.match(ran.stdout, /overall: unhealthy/);
  await serving.stop();
  await store.close();
  await bus.close();
});

test("what is folded here is judged by the store's clock: maintenance is over when the services say so, not when this machine does", async (t) => {
  for (const aheadMs of [3_600_000, -3_600_000]) {
    const storeNowMs = Date.now() + aheadMs;
    const around = (byMs: number): string => new Date(storeNowMs + byMs).toISOString();
    const yaml = `
maintenance: [{ name: disks, upstreams: [shop], reason: new disks, from: "${around(-600_000)}", until: "${around(600_000)}" }]
upstreams: { shop: { kind: http, endpoints: [{ name: primary, url: "http://127.0.0.1:9001/", tier: 0 }] } }`;
    const { bus } = await configured(yaml, memoryBroker({ nowMs: () => storeNowMs }));
    t.after(() => bus.close());
    const [shop] = healthReport.parse(JSON.parse((await report(bus, "-o", "json")).stdout)).services;
    assert.equal(shop?.maintenance?.name, "disks", `the store is ${aheadMs} ms ahead`);
  }
});
