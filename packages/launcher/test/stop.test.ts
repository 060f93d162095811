import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { startOf } from "../src/process-identity.ts";
import { assertNothingLeft, type Launched, launch, until } from "./launch.ts";

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

test("never do two nats-servers or redis-servers write into one data directory: a start on other ports waits for those of a killed stack", async (t) => {
  const stack = await launch(t, { env: { MCPF_FAKE_STUBBORN: "console-1" } });
  await stack.said(/^ready /m, 60_000);
  stack.child.kill("SIGKILL");
  const next = await launch(t, { dataDir: stack.dataDir });
  assert.notEqual(next.portBase, stack.portBase);
  const most = { "nats-server": 0, "redis-server": 0 };
  for (const endMs = performance.now() + 60_000; !/^ready /m.test(next.output()) && performance.now() < endMs; await sleep(100))
    for (const program of ["nats-server", "redis-server"] as const) most[program] = Math.max(most[program], running(stack, program).length);
  await next.said(/waiting for nats \(process \d+\), redis \(process \d+\) .*to end/);
  await next.said(/^ready /m, 60_000);
  assert.deepEqual(most, { "nats-server": 1, "redis-server": 1 });
});

test("servers that nobody ends any more are named, and left alone; once they have ended, the next start goes on", async (t) => {
  const stack = await launch(t);
  await stack.said(/^ready /m, 60_000);
  // Both at once, as a memory killer does.
  for (const pid of [...runningScript(stack, "guardian.ts"), stack.child.pid ?? 0]) process.kill(pid, "SIGKILL");
  await stack.exit();
  const left = [...running(stack, "nats-server"), ...running(stack, "redis-server")];
  assert.equal(left.length, 2);
  const refused = await launch(t, { dataDir: stack.dataDir, env: { MCPF_FAKE_LEFTOVERS_MS: "1500" } });
  assert.equal(await refused.exit(30_000), 1);
  const [nats, redis] = left;
  assert.match(
    refused.output(),
    new RegExp(
      `nats \\(process ${nats}\\), redis \\(process ${redis}\\) of the stack before; end what is named \\(kill ${nats} ${redis}\\)`,
    ),
  );
  assert.deepEqual([...running(stack, "nats-server"), ...running(stack, "redis-server")], left);
  for (const pid of left) process.kill(pid, "SIGTERM");
  const next = await launch(t, { dataDir: stack.dataDir });
  await next.said(/^ready /m, 60_000);
});

/** Living processes of a stack's data directory that run a program. */
function running(stack: Launched, program: string): number[] {
  return stack.processes().filter((pid) => read(pid, "comm").trim() === program);
}
function runningScript(stack: Launched, script: string): number[] {
  return stack.processes().filter((pid) => read(pid, "cmdline").includes(script));
}
function read(pid: number, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, "utf8");
  } catch {
    return ""; // Gone meanwhile.
  }
}
