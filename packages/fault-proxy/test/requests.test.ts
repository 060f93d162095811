import assert from "node:assert/strict";
import { test } from "node:test";
import { memoryBroker } from "@mcp-failover/bus";
import { testKit } from "@mcp-failover/service-kit/testing";
import { configSchema } from "../src/config.ts";
import { startFaultProxy } from "../src/start.ts";

test("faults are set, listed and cleared by request, and an unknown proxy is refused with the names that there are", async (t) => {
  const bus = memoryBroker().connect();
  const listeners = [
    { name: "one", listenPort: 1, targetPort: 2 },
    { name: "two", listenPort: 3, targetPort: 4 },
  ];
  const config = configSchema.parse({ MCPF_FAULT_LISTENERS: JSON.stringify(listeners) });
  const running = await startFaultProxy(testKit({ service: "fault-proxy", bus, config }));
  t.after(() => running.stop?.());
  await bus.serve({
    name: "fault-proxy",
    instance: "fault-proxy-1",
    version: "0.1.0",
    description: "test",
    handlers: running.handlers ?? {},
  });

  const faults = async (): Promise<unknown[]> => {
    const reply = await bus.request("fault.list", {});
    assert.ok(reply.ok);
    return (reply.result as { proxies: { proxy: string; fault: { latencyMs: number } | null }[] }).proxies.map(({ proxy, fault }) => [
      proxy,
      fault?.latencyMs ?? null,
    ]);
  };
  assert.deepEqual(await faults(), [
    ["one", null],
    ["two", null],
  ]);
  const set = await bus.request("fault.set", { proxy: "two", latencyMs: 5000, ttlMs: 60_000 });
  assert.ok(set.ok, JSON.stringify(set));
  assert.deepEqual(await faults(), [
    ["one", null],
    ["two", 5000],
  ]);
  assert.ok((await bus.request("fault.clear", { proxy: "two" })).ok);
  assert.deepEqual(await faults(), [
    ["one", null],
    ["two", null],
  ]);

  for (const reply of [
    await bus.request("fault.set", { proxy: "three", latencyMs: 1, ttlMs: 1000 }),
    await bus.request("fault.clear", { proxy: "three" }),
  ]) {
    assert.ok(!reply.ok);
    assert.equal(reply.error.code, "unknown_proxy");
    assert.match(reply.error.message, /one, two/);
  }
  const tooLong = await bus.request("fault.set", { proxy: "one", latencyMs: 1, ttlMs: 10_000_000 });
  assert.equal(tooLong.ok ? "" : tooLong.error.code, "bad_request");
});

test("listeners that make no sense end the process at its start, with what they should be", () => {
  for (const text of ["{", '{"name":"a"}', '[{"name":"a","listenPort":0,"targetPort":1}]'])
    assert.equal(configSchema.safeParse({ MCPF_FAULT_LISTENERS: text }).success, false, text);
});
