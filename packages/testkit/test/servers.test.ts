import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { connect } from "node:net";
import { test } from "node:test";
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

test("a server that cannot start says why", async () => {
  await assert.rejects(
    startNats({ config: "no_such_option: 1" }),
    (error) => error instanceof ServerStartError && /no_such_option/.test(error.message),
  );
});

test("a port is given once", async () => {
  const ports = await Promise.all(Array.from({ length: 20 }, () => freePort()));
  assert.equal(new Set(ports).size, 20);
});
