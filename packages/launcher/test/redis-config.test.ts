import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { eventually, freePort, tempDir } from "@mcp-failover/testkit";
import { askRedis } from "../src/credentials/ask-redis.ts";
import { planRedis, prepareRedis, type RedisPlan } from "../src/redis-config.ts";

const redisServer = process.env["REDIS_SERVER_BIN"] ?? "redis-server";

/** Runs a command until the test ends, or until it is told to stop. */
function run(t: TestContext, [program, ...args]: readonly [string, ...string[]], dataDir: string): () => Promise<void> {
  const child = spawn(program, args, { cwd: dataDir, stdio: "ignore" });
  const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  const stop = async (): Promise<void> => {
    child.kill("SIGTERM");
    await ended;
  };
  t.after(stop);
  return stop;
}
const guarded = { MCPF_BUS_PERMISSIONS: "on" };
const patience = { withinMs: 30_000 };
const ask = (plan: RedisPlan, dataDir: string, user: string, command: string): Promise<string> =>
  askRedis({ url: plan.url, folder: join(dataDir, "credentials", user), command }).catch((error: Error) => error.message);

/** What a server says to PING by somebody who says nothing of itself, without TLS. */
function plainWords(port: number): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect({ host: "127.0.0.1", port });
    let text = "";
    socket.once("connect", () => socket.write("PING\r\n"));
    socket.on("data", (chunk: Buffer) => {
      text += chunk.toString("latin1");
      if (text.includes("\r\n")) socket.destroy();
    });
    socket.on("error", () => undefined); // Refused or cut off: it said what it said.
    socket.once("close", () => resolve(text));
  });
}

test("a Redis that was begun by anybody goes on behind TLS and users, and nobody gets in without", async (t) => {
  const { path: dataDir, remove } = await tempDir();
  t.after(() => remove());
  mkdirSync(join(dataDir, "redis"));
  const port = await freePort();
  const stop = run(
    t,
    [redisServer, "--bind", "127.0.0.1", "--port", String(port), "--dir", join(dataDir, "redis"), "--appendonly", "yes", "--save", ""],
    dataDir,
  );
  await eventually(async () => (await plainWords(port)) === "+PONG\r\n", patience);
  await new Promise<void>((resolve, reject) => {
    const socket = connect({ host: "127.0.0.1", port }, () => socket.write("SET mcp:meta before\r\n"));
    socket.once("data", () => socket.end(resolve));
    socket.once("error", reject);
  });
  await stop();
  const opened = planRedis({ env: {}, dataDir, port, program: redisServer });
  assert.ok(opened.server !== null);
  const stopOpen = run(t, opened.server.command, dataDir);
  await eventually(opened.server.isUp, patience);
  await stopOpen();

  const plan = planRedis({ env: guarded, dataDir, port, program: redisServer });
  const said: string[] = [];
  prepareRedis(plan, dataDir, (text) => said.push(text));
  assert.ok(plan.server !== null);
  run(t, plan.server.command, dataDir);
  await eventually(plan.server.isUp, patience);
  assert.equal(
    await ask(plan, dataDir, "redis-reader", "STRLEN mcp:meta"),
    "NOPERM this user has no permissions to run the 'strlen' command",
  );
  assert.equal(await ask(plan, dataDir, "redis-reader", "GET mcp:meta"), "$6");
  assert.equal(await ask(plan, dataDir, "state-store", "SET mcp:meta after"), "+OK");
  assert.doesNotMatch(await plainWords(port), /PONG/);
  assert.deepEqual([plan.url, said], [`rediss://127.0.0.1:${port}`, []], "this build has TLS");
});

test("where redis-server is built without TLS that is said, and users and passwords hold all the same", async (t) => {
  const { path: dataDir, remove } = await tempDir();
  t.after(() => remove());
  mkdirSync(join(dataDir, "redis"));
  const port = await freePort();
  // A build without TLS knows none of its settings, and ends at the first.
  const program = join(dataDir, "redis-server");
  writeFileSync(
    program,
    `#!/bin/sh\nfor one; do case "$one" in --tls-*) echo "*** FATAL CONFIG FILE ERROR: >>> '$one'" >&2; exit 1;; esac; done\nexec ${redisServer} "$@"\n`,
  );
  chmodSync(program, 0o755);
  const plan = planRedis({ env: guarded, dataDir, port, program });
  const said: string[] = [];
  prepareRedis(plan, dataDir, (text) => said.push(text));
  assert.match(said.join("\n"), /is built without TLS: Redis is spoken to in plain text, on loopback/);
  assert.equal(plan.env["REDIS_URL"], `redis://127.0.0.1:${port}`);
  assert.ok(plan.server !== null);
  run(t, plan.server.command, dataDir);
  await eventually(plan.server.isUp, patience);
  assert.match(await plainWords(port), /^-NOAUTH/);
  assert.match(await ask(plan, dataDir, "redis-reader", "SET mcp:meta x"), /^NOPERM/);
});

test("somebody else's Redis is as it was given; our own is reached with our own credentials", () => {
  const REDIS_URL = "rediss://user:secret@redis.example:6380";
  const plan = (env: Record<string, string>, program: string | null = null) => planRedis({ env, dataDir: "/d", port: 1, program });
  assert.deepEqual(plan({ REDIS_URL }), { url: REDIS_URL, env: { REDIS_URL }, server: null });
  assert.deepEqual(plan({ REDIS_URL, REDIS_CREDENTIALS_DIR: "/c" }).env, { REDIS_URL, REDIS_CREDENTIALS_DIR: "/c" });
  const own = plan({ REDIS_CREDENTIALS_DIR: "/c", ...guarded }, redisServer);
  assert.equal(own.env["REDIS_CREDENTIALS_DIR"], "/d/credentials/state-store");
  const open = plan({ REDIS_CREDENTIALS_DIR: "/c" }, redisServer);
  assert.deepEqual(
    [open.url, open.env],
    ["redis://127.0.0.1:1", { REDIS_URL: "redis://127.0.0.1:1" }],
    "it has users where the bus has permissions",
  );
});
