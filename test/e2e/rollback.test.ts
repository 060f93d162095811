import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Client as ClientV2, StreamableHTTPClientTransport as TransportV2 } from "@modelcontextprotocol/client";
import { connectClient } from "../harness/load.ts";
import { type RunningStack, startStack } from "../harness/stack.ts";

describe("a tool goes to its legacy implementation and back", { concurrency: false }, () => {
  let stack: RunningStack;
  before(async () => {
    stack = await startStack({
      // Nothing comes back by itself: the tests say when.
      edit: (config) => {
        for (const process of config.local.processes) process.restart_after_ms = 3_600_000;
      },
    });
  });
  after(async () => {
    await stack?.stop();
  });

  const inventory = { name: "get_inventory", arguments: {} };
  const shapeOf = (result: unknown): unknown => shape((result as { structuredContent?: unknown }).structuredContent);

  test("after `rollback tool` the next call is answered by the legacy API with the same shape, and `recover` brings it back", async () => {
    const client = await connectClient(`${stack.routerUrl}/mcp/warehouse`);
    const before = await client.callTool(inventory);
    const rolled = await stack.mcpf(["rollback", "tool", "get_inventory", "--reason", "the MCP server counts wrongly", "--yes"]);
    assert.equal(rolled.code, 0, rolled.stderr);
    const legacy = await client.callTool(inventory);
    assert.deepEqual(shapeOf(legacy), shapeOf(before));
    assert.deepEqual([servedBy(before), servedBy(legacy)], ["mcp", "legacy"]);
    assert.equal((await stack.mcpf(["status", "-o", "json"])).json().rollback.tools.get_inventory, "legacy");

    const recovered = await stack.mcpf(["recover", "tool", "get_inventory", "--reason", "repaired", "--yes"]);
    assert.equal(recovered.code, 0, recovered.stderr);
    assert.equal(servedBy(await client.callTool(inventory)), "mcp");
    assert.equal((await stack.mcpf(["status", "-o", "json"])).json().rollback.tools.get_inventory, "mcp");
    await client.close();
  });

  test("an unknown tool is wrong usage, and the known ones are named", async () => {
    const ran = await stack.mcpf(["rollback", "tool", "get_everything", "--reason", "r", "--yes"]);
    assert.equal(ran.code, 2, ran.stderr);
    assert.match(ran.stderr, /get_inventory/);
  });

  test("with both MCP servers killed the tool still answers, by its fallback", async () => {
    const client = await connectClient(`${stack.routerUrl}/mcp/warehouse`);
    await client.callTool(inventory);
    const pids = await Promise.all([stack.pidOf("warehouse-primary"), stack.pidOf("warehouse-secondary")]);
    for (const pid of pids) process.kill(pid, "SIGKILL");
    // Fewer than the sample at which the tool would be rolled back for good.
    for (let n = 0; n < 5; n += 1) assert.equal(servedBy(await client.callTool(inventory)), "legacy", `call ${n}`);
    await client.close();
  });

  test("an agent that begins while both are dead reaches the tool too, and its session goes on over MCP when a server is back", async () => {
    const begun = await connectClient(`${stack.routerUrl}/mcp/warehouse`, "begun in the dark");
    const { tools } = await begun.listTools();
    assert.deepEqual(tools.map(({ name }) => name).toSorted(), ["get_inventory", "get_orders"]);
    assert.equal(servedBy(await begun.callTool(inventory)), "legacy");
    const modern = new ClientV2({ name: "v2", version: "1.0.0" });
    await modern.connect(new TransportV2(new URL(`${stack.routerUrl}/mcp/warehouse`)));
    assert.equal(servedBy(await modern.callTool(inventory)), "legacy");

    const reply = await stack.bus.request("launcher.start", { process: "warehouse-primary" }, { timeoutMs: 10_000 });
    assert.ok(reply.ok, JSON.stringify(reply));
    for (let looks = 0; looks < 10 && servedBy(await begun.callTool(inventory)) !== "mcp"; looks += 1) await sleep(1000);
    assert.deepEqual([servedBy(await begun.callTool(inventory)), servedBy(await modern.callTool(inventory))], ["mcp", "mcp"]);
    await Promise.all([begun.close(), modern.close()]);
  });
});

/** Which implementation answered: the local warehouse says it in `source`. */
function servedBy(result: unknown): unknown {
  return (result as { structuredContent?: { source?: unknown } }).structuredContent?.source;
}

/** The types of a value, without its values. */
function shape(value: unknown): unknown {
  if (Array.isArray(value)) return value.length === 0 ? [] : [shape(value[0])];
  if (value === null || typeof value !== "object") return typeof value;
  return Object.fromEntries(
    Object.entries(value)
      .map(([key, inner]) => [key, shape(inner)] as const)
      .sort(([a], [b]) => a.localeCompare(b)),
  );
}
