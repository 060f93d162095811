import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { startStack } from "../harness/stack.ts";
import { until } from "../harness/wait.ts";

test("with permissions on the bus a stack comes up, an operator fails over, and no service is refused anything that it does", async () => {
  const stack = await startStack({ env: { MCPF_BUS_PERMISSIONS: "on" } });
  try {
    await until(
      async () => (await stack.status()).upstreams.every(({ endpoints }) => endpoints.every(({ health }) => health === "healthy")),
      30_000,
      "all is healthy",
    );
    const moved = await stack.mcpf(["failover", "warehouse", "--to", "secondary", "--reason", "a test", "--yes"], { timeoutMs: 60_000 });
    assert.equal(moved.code, 0, `${moved.stdout}\n${moved.stderr}`);
    await until(
      async () => (await stack.status()).upstreams.find(({ name }) => name === "warehouse")?.active === "secondary",
      30_000,
      "the move shows",
    );
    assert.ok((await stack.bus.lastOf("AUDIT", "failover.decided.warehouse")) !== null);
    for (const file of readdirSync(join(stack.dataDir, "logs"))) {
      assert.doesNotMatch(stack.logs(file.replace(/\.log$/, "")), /NATS refused|permissions violation|Permissions Violation/, file);
    }
  } finally {
    await stack.stop();
  }
});
