import assert from "node:assert/strict";
import { test } from "node:test";
import { memoryBroker } from "@mcp-failover/bus";
import { openLeftOut } from "../src/index.ts";
import { testKit } from "../src/testing.ts";

test("what a limit leaves out is counted, and told at once and then once a minute at most, with all that came to it meanwhile", async (t) => {
  const bus = memoryBroker().connect();
  t.after(() => bus.close());
  let nowMs = 1000;
  t.mock.method(performance, "now", () => nowMs);
  const kit = testKit({ service: "prober", bus });
  const lines: unknown[] = [];
  kit.log.warn = ((...line: unknown[]) => lines.push(line)) as typeof kit.log.warn;
  const tell = openLeftOut(kit, { metric: "mcpf_test_left_out_total", help: "h", line: "left out" });
  const counted = async () => (await kit.registry.getMetricsAsJSON())[0]?.values[0]?.value;
  tell(0);
  assert.deepEqual([lines, await counted()], [[], 0]);
  tell(3);
  nowMs += 59_999;
  tell(2);
  tell(1);
  assert.deepEqual([lines, await counted()], [[[{ leftOut: 3 }, "left out"]], 6]);
  nowMs += 1;
  tell(0);
  nowMs += 60_000;
  tell(0);
  assert.deepEqual(lines.slice(1), [[{ leftOut: 3 }, "left out"]]);
});
