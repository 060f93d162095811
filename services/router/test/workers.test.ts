import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { freePort, tempDir } from "@mcp-failover/testkit";
import { until } from "./support/clients.ts";

const workers = join(import.meta.dirname, "..", "src", "workers.ts");
/** What a worker is, as a file on disk that can be another one when it is replaced. */
const program = (worker: string): string => `
import cluster from "node:cluster";
import { createServer } from "node:http";
const { runWorkers } = await import(${JSON.stringify(workers)});
if (cluster.isPrimary) await runWorkers(2);
else { ${worker} }
`;
const good = `createServer((_, response) => response.end(String(process.pid))).listen(Number(process.env.MCPF_ROUTER_PORT), "127.0.0.1");
process.on("SIGTERM", () => process.exit(0));`;

test("K4: new code on disk that refuses the environment ends none of the workers that serve, at a replacement as after a crash", async () => {
  const dir = await tempDir();
  const path = join(dir.path, "program.mjs");
  await writeFile(path, program(good));
  const port = await freePort();
  const parent = spawn(process.execPath, [path], {
    env: { ...process.env, MCPF_ROUTER_PORT: String(port) },
    stdio: ["ignore", "pipe", "ignore"],
  });
  let said = "";
  parent.stdout.on("data", (chunk: Buffer) => {
    said += chunk.toString();
  });
  const pids = new Set<number>();
  const ask = async (): Promise<void> => {
    const answer = await fetch(`http://127.0.0.1:${port}`, { headers: { connection: "close" } }).catch(() => null);
    if (answer !== null) pids.add(Number(await answer.text()));
  };
  try {
    for (const endMs = Date.now() + 15_000; pids.size < 2 && Date.now() < endMs; ) {
      await ask();
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    assert.equal(pids.size, 2);
    await writeFile(path, program("process.exit(2);"));
    parent.kill("SIGHUP");
    await until(() => said.includes("did not come up") || parent.exitCode !== null);
    process.kill([...pids][0] as number, "SIGKILL");
    await until(() => said.split("ended (").length >= 3 || parent.exitCode !== null);
    assert.equal(parent.exitCode, null);
    const before = [...pids][1];
    pids.clear();
    await ask();
    assert.deepEqual([...pids], [before]);
  } finally {
    const ended = new Promise((resolve) => parent.once("exit", resolve));
    if (parent.exitCode === null && parent.kill("SIGTERM")) await ended;
    await dir.remove();
  }
});
