import assert from "node:assert/strict";
import { test } from "node:test";
import { memoryBroker } from "@mcp-failover/bus";
import { makeEvent } from "@mcp-failover/contracts";
import { startInstance, until } from "./breaker-state.ts";

test("endpoints that are heard of beyond those whose windows are kept are counted", async (t) => {
  const broker = memoryBroker();
  const bus = broker.connect();
  t.after(() => bus.close());
  const { kit, stop } = await startInstance(broker.connect(), "bs-1");
  t.after(stop);
  for (let from = 0; from < 20_003; from += 1000) {
    const observations = Array.from({ length: Math.min(1000, 20_003 - from) }, (_, index) => ({
      upstream: "docs",
      endpoint: `e${from + index}`,
      observer: "p1",
      purpose: "scheduled" as const,
      requestId: null,
      startedAtMs: 0,
      responseTimeMs: 1,
      outcome: "ok" as const,
      code: null,
      error: null,
      httpStatus: null,
      era: null,
    }));
    const said = { type: "probe.observed", keys: ["p1"], data: { observer: "p1", observations }, id: `e-${from}` } as const;
    await bus.append(makeEvent({ ...said, service: "prober", instance: "p1", timeMs: Date.now() }));
  }
  const displaced = async (): Promise<boolean> => {
    const found = (await kit.registry.getMetricsAsJSON()).find(({ name }) => name === "mcpf_breaker_windows_displaced_total");
    return found?.values[0]?.value === 3;
  };
  await until("three are counted", displaced);
  assert.equal(kit.readiness().conditions["log"]?.ok, true);
});
