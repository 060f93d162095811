import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { freePort, type RunningServer, ServerStartError, startNats, startRedis, tempDir } from "../src/index.ts";

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false; // ESRCH: that is the answer.
  }
};

/** Says one line and gives everything that came within `ms`. */
async function talk(port: number, text: string, ms = 300): Promise<string> {
  return new Promise((resolve, reject) => {
    let heard = "";
    const socket = connect({ host: "127.0.0.1", port }, () => socket.write(text));
    socket.on("data", (chunk: Buffer) => {
      heard += chunk.toString();
    });
    socket.once("error", reject);
    setTimeout(() => {
      socket.destroy();
      resolve(heard);
    }, ms);
  });
}

async function lifeAndDeath(start: () => Promise<RunningServer>): Promise<void> {
  const server = await start();
  try {
    const first = server.pid;
    assert.ok(isAlive(first));
    await server.kill();
    assert.ok(!isAlive(first));
    await server.restart();
    assert.notEqual(server.pid, first);
    assert.ok(isAlive(server.pid));
  } finally {
    await server.stop();
  }
  assert.ok(!isAlive(server.pid));
  await assert.rejects(talk(server.port, ""));
  await server.stop();
}

test("nats-server lives, dies by SIGKILL, comes back on its port, and is gone after stop", () => lifeAndDeath(() => startNats()));

test("redis-server lives, dies by SIGKILL, comes back on its port, and is gone after stop", () => lifeAndDeath(() => startRedis()));

test("redis comes back empty without a folder, and whole with one", async () => {
  const dir = await tempDir();
  for (const [options, expected] of [
    [{}, "$-1"],
    [{ dir: dir.path }, "$5"],
  ] as const) {
    const redis = await startRedis(options);
    try {
      assert.match(await talk(redis.port, "SET greeting hello\r\n"), /\+OK/);
      await redis.kill();
      await redis.restart();
      assert.ok((await talk(redis.port, "GET greeting\r\n")).startsWith(expected));
    } finally {
      await redis.stop();
    }
  }
  await dir.remove();
  assert.ok(!existsSync(dir.path));
});

test("a server that cannot start says why, and leaves no folder", async (t) => {
  const folders = () => readdirSync(tmpdir()).filter((name) => name.startsWith("mcpf-nats-"));
  const own = await tempDir();
  const outer = process.env["TMPDIR"];
  process.env["TMPDIR"] = own.path;
  t.after(async () => {
    if (outer === undefined) delete process.env["TMPDIR"];
    else process.env["TMPDIR"] = outer;
    await own.remove();
  });
  await assert.rejects(
    startNats({ config: "no_such_option: 1" }),
    (error) => error instanceof ServerStartError && /no_such_option/.test(error.message),
  );
  assert.deepEqual(folders(), []);
});

test("a port is given once", async () => {
  const ports = await Promise.all(Array.from({ length: 20 }, () => freePort()));
  assert.equal(new Set(ports).size, 20);
});

test("nothing is left of a test process that fails in the middle or ends itself: no server, no folder", async (t) => {
  const outer = await tempDir();
  t.after(outer.remove);
  const script = join(outer.path, "unfinished.ts");
  const index = fileURLToPath(new URL("../src/index.ts", import.meta.url));
  await writeFile(
    script,
    `import { startNats, startRedis, tempDir } from ${JSON.stringify(index)};
    const servers = [await startNats(), await startRedis()];
    await tempDir();
    console.log(JSON.stringify(servers.map(({ pid }) => pid)));
    await startNats({ config: "no_such_option: 1" });`,
  );
  const temporary = join(outer.path, "tmp");
  await mkdir(temporary);
  const child = spawn(process.execPath, [script], { env: { ...process.env, TMPDIR: temporary }, stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  child.stdout.on("data", (chunk: Buffer) => {
    said += chunk.toString();
  });
  const code = await new Promise((resolve) => child.once("close", resolve));
  assert.equal(code, 1, "the error that nobody caught");
  const pids: number[] = JSON.parse(said);
  assert.equal(pids.length, 2);
  for (let waitedMs = 0; pids.some(isAlive) && waitedMs < 5000; waitedMs += 20) await sleep(20);
  assert.deepEqual(pids.filter(isAlive), []);
  assert.deepEqual(
    readdirSync(temporary).filter((name) => name.startsWith("mcpf-")),
    [],
  );
});
