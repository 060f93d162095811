import assert from "node:assert/strict";
import { test } from "node:test";
import { makeEvent } from "@mcp-failover/contracts";
import { configured, runMcpf } from "./support.ts";

const call = { upstream: "api", endpoint: "one", method: "tools/call", agent: "picker" };

test("R19: `mcpf events find` finds the operation id of a call whose outcome is unknown, and says where to look", async () => {
  const { bus } = await configured();
  const nowMs = Date.now();
  const unknown = [
    { ...call, operationId: "op-lost", tool: "ship_order", code: "reset" as const, atMs: nowMs },
    { ...call, operationId: "op-other", tool: "set_stock", code: null, atMs: nowMs },
  ];
  const window = { router: "r1", fromMs: nowMs, toMs: nowMs, endpoints: [], tools: [], routes: {}, rollbacks: {}, unknown };
  const said = { id: "t1", service: "router", instance: "r1", timeMs: nowMs } as const;
  await bus.append(makeEvent({ ...said, type: "traffic.observed", keys: ["r1"], data: window }));
  const found = await runMcpf(bus, ["events", "find", "op-lost"]);
  assert.equal(found.code, 0);
  assert.match(found.stdout, /op-lost: outcome unknown: ship_order of picker at api\/one \(reset\); look there whether it ran/);
  assert.doesNotMatch(found.stdout, /op-other/);
  const json = JSON.parse((await runMcpf(bus, ["events", "find", "op-other", "-o", "ndjson"])).stdout);
  assert.deepEqual([json.stream, json.unknown.map(({ operationId }: { operationId: string }) => operationId)], ["SIGNALS", ["op-other"]]);
  assert.match((await runMcpf(bus, ["events", "find", "127.0.0.1:9001"])).stdout, /config\.applied/, "decisions are searched too");
  const none = await runMcpf(bus, ["events", "find", "op-never"]);
  assert.deepEqual([none.code, none.stdout], [1, ""]);
  assert.match(none.stderr, /look further back with --since/);
  assert.equal((await runMcpf(bus, ["events", "find", "op"])).code, 2);
  await bus.close();
});
