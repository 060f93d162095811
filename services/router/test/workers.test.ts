import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { freePort, patientMs, tempDir } from "@mcp-failover/testkit";
import { until } from "./support/clients.ts";

const workers = join(import.meta.dirname, "..", "src", "workers.ts");
/** What a worker is, as a file on disk that can be another one when it is replaced. */
const program = (worker: string, hungMs = 15_000): string => `
import cluster from "node:cluster";
import { createServer } from "node:http";
const { answerParent, runWorkers } = await import(${JSON.stringify(workers)});
if (cluster.isPrimary) await runWorkers(2, ${hungMs});
else { ${worker} }
`;
const good = `createServer((_, response) => response.end(String(process.pid))).listen(Number(process.env.MCPF_ROUTER_PORT), "127.0.0.1");
process.on("SIGTERM", () => process.exit(0));`;

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

interface Parent {
  readonly process: ChildProcess;
  readonly said: () => string;
  /** Other code on disk. */
  write(text: string): Promise<void>;
  /** The worker that answers a call, or null. */
  ask(path?: string): Promise<number | null>;
  /** Processes that answer, once there are as many. */
  answering(count: number): Promise<number[]>;
}
async function startParent(t: TestContext, text: string): Promise<Parent> {
  const dir = await tempDir();
  const path = join(dir.path, "program.mjs");
  await writeFile(path, text);
  const port = await freePort();
  const parent = spawn(process.execPath, [path], {
    env: { ...process.env, MCPF_ROUTER_PORT: String(port) },
    stdio: ["ignore", "pipe", "ignore"],
  });
  let said = "";
  parent.stdout.on("data", (chunk: Buffer) => {
    said += chunk.toString();
  });
  t.after(async () => {
    const ended = new Promise((resolve) => parent.once("exit", resolve));
    if (parent.exitCode === null && parent.signalCode === null && parent.kill("SIGTERM")) await ended;
    await dir.remove();
  });
  const ask: Parent["ask"] = async (target = "/") => {
    const signal = AbortSignal.timeout(target === "/" ? 1000 : patientMs(20_000));
    const answer = await fetch(`http://127.0.0.1:${port}${target}`, { headers: { connection: "close" }, signal }).catch(() => null);
    return answer === null ? null : Number(await answer.text());
  };
  return {
    process: parent,
    said: () => said,
    write: (other) => writeFile(path, other),
    ask,
    async answering(count) {
      const pids = new Set<number>();
      for (const endMs = Date.now() + patientMs(15_000); pids.size < count && Date.now() < endMs; ) {
        const pid = await ask();
        if (pid !== null) pids.add(pid);
        await sleep(20);
      }
      assert.equal(pids.size, count);
      return [...pids];
    },
  };
}

test("K5: a worker that hangs is killed and another one takes its place; one that never said that it is there is let be", async (t) => {
  const parent = await startParent(t, program(`answerParent(); ${good}`, patientMs(1000)));
  const before = await parent.answering(2);
  await sleep(patientMs(1000) * 2);
  assert.deepEqual((await parent.answering(2)).sort(), before.sort(), "none that lives is taken for one that hangs");
  const [victim, other] = before as [number, number];
  process.kill(victim, "SIGSTOP");
  await until(() => parent.said().includes("hangs"), patientMs(10_000));
  const after = await parent.answering(2);
  assert.ok(after.includes(other) && !after.includes(victim), `${after}, not ${victim}`);

  const silent = await startParent(t, program(good, patientMs(500)));
  const old = await silent.answering(2);
  await sleep(patientMs(500) * 3);
  assert.deepEqual((await silent.answering(2)).sort(), old.sort());
});

test("K5: time in which the parent stood still itself is not counted against its workers", async (t) => {
  const parent = await startParent(t, program(`answerParent(); ${good}`, patientMs(1000)));
  const before = await parent.answering(2);
  parent.process.kill("SIGSTOP");
  await sleep(patientMs(1000) * 2);
  parent.process.kill("SIGCONT");
  await sleep(patientMs(500));
  // Again and again, for more often than questions may be left without an answer: it runs for no longer than one of them takes.
  for (let times = 0; times < 20; times++) {
    parent.process.kill("SIGSTOP");
    await sleep(patientMs(150));
    parent.process.kill("SIGCONT");
    await sleep(5);
  }
  await sleep(patientMs(500));
  assert.deepEqual([(await parent.answering(2)).sort(), parent.said()], [before.sort(), ""]);
});

test("K3: a stop in the midst of a replacement lets end what is in flight at the worker that is being replaced", async (t) => {
  const slow = `const server = createServer((request, response) => {
    if (request.url === "/") response.end(String(process.pid));
    else setTimeout(() => response.end(String(process.pid)), ${patientMs(3000)});
  });
  server.listen(Number(process.env.MCPF_ROUTER_PORT), "127.0.0.1");
  process.on("SIGTERM", () => server.close(() => process.exit(0)));`;
  const parent = await startParent(t, program(slow));
  const before = await parent.answering(2);
  const outstanding = parent.ask("/slow");
  await sleep(100);
  parent.process.kill("SIGHUP");
  // The new ones are there, and the one with the call is about to end.
  await sleep(patientMs(1500));
  parent.process.kill("SIGTERM");
  assert.ok(before.includes((await outstanding) ?? 0), "the call was cut off");
});

test("K4: a replaced worker has listened before the old one is stopped, no call is refused, and there are as many workers as before", async (t) => {
  const late = `createServer().listen(0, "127.0.0.1").unref();
  setTimeout(() => {
    const server = createServer((_, response) => response.end(String(process.pid)));
    server.listen(Number(process.env.MCPF_ROUTER_PORT), "127.0.0.1");
    process.on("SIGTERM", () => server.close(() => process.exit(0)));
  }, ${patientMs(800)});`;
  const parent = await startParent(t, program(late));
  const before = await parent.answering(2);
  parent.process.kill("SIGHUP");
  const seen = new Set<number | null>();
  for (let asked = 0; before.some((pid) => isAlive(pid)) || asked < 10; asked += 1) {
    assert.ok(asked < 2000, "the old ones are still there");
    seen.add(await parent.ask("/late"));
    await sleep(10);
  }
  assert.ok(!seen.has(null), "a call was refused");
  // As long as one that had ended by itself would wait for the next one.
  await sleep(patientMs(1500));
  const after = new Set<number | null>();
  for (let asked = 0; asked < 30; asked += 1) after.add(await parent.ask());
  assert.deepEqual([after.size, before.some((pid) => after.has(pid)), parent.said()], [2, false, ""]);
});

test("K2, K4: a worker that ends while its replacement fails has another one in its place", async (t) => {
  const parent = await startParent(t, program(good));
  const [first, second] = (await parent.answering(2)) as [number, number];
  const failing = `setTimeout(() => process.exit(1), ${patientMs(1500)});`;
  await parent.write(program(failing));
  parent.process.kill("SIGHUP");
  await sleep(patientMs(700));
  process.kill(first, "SIGKILL");
  process.kill(second, "SIGKILL");
  await parent.write(program(good));
  const after = await parent.answering(2);
  assert.ok(!after.includes(first) && !after.includes(second), "both are new");
});

test("K4: new code on disk that refuses the environment ends none of the workers that serve, at a replacement as after a crash", async (t) => {
  const parent = await startParent(t, program(good));
  const [first, second] = (await parent.answering(2)) as [number, number];
  await parent.write(program("process.exit(2);"));
  parent.process.kill("SIGHUP");
  await until(() => parent.said().includes("did not come up") || parent.process.exitCode !== null);
  process.kill(first, "SIGKILL");
  await until(() => parent.said().split("ended (").length >= 3 || parent.process.exitCode !== null);
  assert.equal(parent.process.exitCode, null);
  assert.equal(await parent.ask(), second);
});
