import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { startOf } from "../src/process-identity.ts";
import { assertNothingLeft, launch, until } from "./launch.ts";

test("a Ctrl-C that arrives three times at once is one; while it starts, it stops what runs by then", async (t) => {
  const stack = await launch(t);
  await until(() => existsSync(join(stack.dataDir, "logs", "nats.log")));
  for (let i = 0; i < 3; i += 1) stack.child.kill("SIGINT");
  assert.equal(await stack.exit(), 0);
  await assertNothingLeft(stack);
});

test("a process that ignores SIGTERM is killed after its grace", async (t) => {
  const stack = await launch(t, { env: { MCPF_FAKE_STUBBORN: "console-1" } });
  await stack.said(/^ready /m);
  const startMs = performance.now();
  stack.child.kill("SIGTERM");
  assert.equal(await stack.exit(), 0);
  assert.ok(performance.now() - startMs >= 700);
  await assertNothingLeft(stack);
});

test("when the launcher itself is killed, nothing of its stack lives on, and the next start takes the data directory over", async (t) => {
  const stack = await launch(t, { env: { MCPF_FAKE_STUBBORN: "console-1" } });
  await stack.said(/^ready /m);
  const mine = stack.processes();
  assert.equal(mine.length, 18, "16 processes, the launcher and the guardian");
  stack.child.kill("SIGKILL");
  await stack.exit();
  const next = await launch(t, { dataDir: stack.dataDir, portBase: stack.portBase });
  await next.said("did not stop in order; taking over");
  await next.said(/^ready /m, 20_000);
  assert.deepEqual(
    mine.filter((pid) => startOf(pid) !== null),
    [],
  );
  next.child.kill("SIGINT");
  assert.equal(await next.exit(), 0);
  await assertNothingLeft(next);
});
