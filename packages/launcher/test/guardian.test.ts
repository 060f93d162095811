import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { startOf } from "../src/process-identity.ts";
import { until } from "./launch.ts";

/** A wrapper script in a group of its own that starts a process and says its id; it ends by itself, or when its input does. */
async function wrapper(
  t: TestContext,
  ends: "by itself" | "with its input" | "by SIGTERM",
): Promise<{ leader: ChildProcess; member: number }> {
  const then = { "by itself": "", "with its input": "read line", "by SIGTERM": "wait" }[ends];
  const leader = spawn("sh", ["-c", `sleep 300 <&- & echo $!; ${then}`], { detached: true, stdio: ["pipe", "pipe", "inherit"] });
  const [said] = (await once(leader.stdout, "data")) as [Buffer];
  const member = Number(said.toString());
  t.after(() => {
    for (const pid of [leader.pid ?? 0, member]) if (startOf(pid) !== null) process.kill(pid, "SIGKILL");
  });
  return { leader, member };
}

/** Our guardian, told of some processes; `killed` is what it sees when the launcher is killed, and resolves when it has done its work. */
function guardian(t: TestContext, wards: readonly object[]): { killed(): Promise<void> } {
  const script = fileURLToPath(new URL("../src/guardian.ts", import.meta.url));
  const child = spawn(process.execPath, [script], { stdio: ["pipe", "inherit", "inherit"] });
  t.after(() => child.kill("SIGKILL"));
  const closed = once(child, "close");
  for (const ward of wards) child.stdin.write(`${JSON.stringify(ward)}\n`);
  return {
    killed: async () => {
      child.stdin.end();
      assert.deepEqual(await closed, [0, null]);
    },
  };
}

const isGone = (pid: number) => () => startOf(pid) === null;

test("what a wrapper started ends with it, also where the wrapper itself ends at once", {
  skip: process.platform !== "linux",
}, async (t) => {
  const { leader, member } = await wrapper(t, "by SIGTERM");
  const guard = guardian(t, [{ add: leader.pid, start: startOf(leader.pid ?? 0), rank: 3 }]);
  await guard.killed();
  await until(isGone(member));
});

test("what a wrapper started ends with it, also where the wrapper is gone before the guardian comes to it", {
  skip: process.platform !== "linux",
}, async (t) => {
  const { leader, member } = await wrapper(t, "with its input");
  const guard = guardian(t, [{ add: leader.pid, start: startOf(leader.pid ?? 0), rank: 3 }]);
  // It looks once a second who lives.
  await sleep(2500);
  leader.stdin?.end();
  await until(isGone(leader.pid ?? 0));
  assert.notEqual(startOf(member), null);
  await guard.killed();
  await until(isGone(member));
});

test("a group whose number may have been given to somebody else is left alone", { skip: process.platform !== "linux" }, async (t) => {
  const foreign = await wrapper(t, "by SIGTERM");
  const orphaned = await wrapper(t, "by itself");
  await until(isGone(orphaned.leader.pid ?? 0));
  const guard = guardian(t, [
    // The number is that of another process by now.
    { add: foreign.leader.pid, start: "1", rank: 3 },
    // Nobody saw whether this group is that of the one who had its number.
    { add: orphaned.leader.pid, start: "1", rank: 3 },
  ]);
  await sleep(1500);
  await guard.killed();
  for (const pid of [foreign.leader.pid ?? 0, foreign.member, orphaned.member]) assert.notEqual(startOf(pid), null, `process ${pid}`);
});
