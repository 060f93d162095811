import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { eventually, freePort, tempDir } from "@mcp-failover/testkit";
import { askRedis } from "../src/credentials/ask-redis.ts";
import { makeCredentials } from "../src/credentials/make-credentials.ts";
import { credentialsFolder, prepareBus } from "../src/nats-config.ts";
import { planRedis, type RedisPlan } from "../src/redis-config.ts";

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
const patience = { withinMs: 30_000 };
const ask = (plan: RedisPlan, dataDir: string, user: string, command: string): Promise<string> =>
  askRedis({ url: plan.url, folder: join(dataDir, "credentials", user), command }).catch((error: Error) => error.message);

/** What a server says to each command of somebody who says nothing of themselves: the first line of each answer. */
async function plainWords(port: number, commands: readonly string[]): Promise<string[]> {
  const redis = await new Promise<Socket>((resolve, reject) => {
    const socket = connect({ host: "127.0.0.1", port }, () => resolve(socket));
    socket.once("error", reject);
  });
  const said: string[] = [];
  for (const command of commands) {
    redis.write(`${command}\r\n`);
    let text = "";
    while (!text.includes("\r\n")) text += String((await once(redis, "data"))[0]);
    said.push(text.slice(0, text.indexOf("\r\n")));
  }
  redis.destroy();
  return said;
}

const guarded = { MCPF_BUS_PERMISSIONS: "on" };

/** Plans it as `npm start` does, with the credentials that the bus makes. */
function guardedPlan(dataDir: string, port: number, env: Record<string, string> = guarded): RedisPlan {
  prepareBus({ env, dataDir, port: 1, credentials: credentialsFolder(env, dataDir) });
  return planRedis({ env, dataDir, port, program: redisServer });
}

test("a Redis that was begun by anybody goes on with users; who has no password may look at what it shows, and do nothing else", async (t) => {
  const { path: dataDir, remove } = await tempDir();
  t.after(() => remove());
  mkdirSync(join(dataDir, "redis"));
  const port = await freePort();
  const opened = planRedis({ env: { MCPF_BUS_PERMISSIONS: "off" }, dataDir, port, program: redisServer });
  assert.ok(opened.server !== null);
  const stopOpen = run(t, opened.server.command, dataDir);
  await eventually(opened.server.isUp, patience);
  assert.deepEqual(await plainWords(port, ["SET mcp:meta before", "SET other theirs"]), ["+OK", "+OK"]);
  await stopOpen();

  const plan = guardedPlan(dataDir, port);
  assert.ok(plan.server !== null);
  run(t, plan.server.command, dataDir);
  await eventually(plan.server.isUp, patience);
  assert.equal(
    await ask(plan, dataDir, "redis-reader", "STRLEN mcp:meta"),
    "NOPERM this user has no permissions to run the 'strlen' command",
  );
  assert.equal(await ask(plan, dataDir, "state-store", "SET mcp:meta after"), "+OK");
  assert.deepEqual(
    [plan.url, plan.env["REDIS_CREDENTIALS_DIR"]],
    [`redis://127.0.0.1:${port}`, join(dataDir, "credentials", "state-store")],
  );

  for (const [says, answer] of [
    ["PING", /^\+PONG$/],
    ["GET mcp:meta", /^\$5$/],
    ["STRLEN mcp:meta", /^:5$/],
    ["TTL mcp:meta", /^:-1$/],
    ["KEYS mcp:*", /^\*1$/],
    ["INFO server", /^\$\d+$/],
  ] as const)
    assert.match((await plainWords(port, [says]))[0] ?? "", answer, says);
  for (const says of [
    ...["GET other", "SET mcp:meta x", "SET mcp:current:u secondary", "DEL mcp:meta", "EXPIRE mcp:meta 1", "FLUSHALL", "FLUSHDB"],
    ...["CONFIG GET *", "CONFIG SET dir /tmp", "ACL LIST", "ACL WHOAMI", "ACL SETUSER default +@all", "ACL LOAD", "MONITOR", "SUBSCRIBE x"],
    ...["SHUTDOWN NOSAVE", "REPLICAOF 127.0.0.1 1", "PSYNC ? -1", "DUMP mcp:meta", "CLIENT LIST", "CLIENT KILL TYPE normal", "SELECT 1"],
    ...["EVAL return(1) 0", "FUNCTION LIST", "PUBLISH x y", "SAVE", "MULTI", "OBJECT FREQ mcp:meta", "COPY mcp:meta mcp:other"],
  ])
    assert.match((await plainWords(port, [says]))[0] ?? "", /^-NOPERM/, says);
  assert.match((await plainWords(port, ["AUTH state-store wrong"]))[0] ?? "", /^-WRONGPASS/);
  assert.equal(await ask(plan, dataDir, "redis-reader", "GET mcp:meta"), "$5", "it is as the state-store left it");
});

test("new passwords leave who has none as they were: let in to look here, and shut out where the bus is somebody else's", () => {
  for (const [env, first] of [
    [guarded, "user default on nopass "],
    [{ NATS_URL: "nats://127.0.0.1:1", MCPF_BUS_PERMISSIONS: "on" }, "user default off "],
  ] as const) {
    const dataDir = mkdtempSync(join(tmpdir(), "mcpf-redis-config-"));
    try {
      guardedPlan(dataDir, 1, env);
      const acl = (): string => readFileSync(join(dataDir, "credentials", "redis", "users.acl"), "utf8");
      const before = acl();
      assert.ok(before.startsWith(first), before);
      makeCredentials({ folder: join(dataDir, "credentials"), nowMs: Date.now(), change: "rotate" });
      assert.notEqual(acl(), before);
      assert.ok(acl().startsWith(first), acl());
    } finally {
      rmSync(dataDir, { recursive: true });
    }
  }
});

test("somebody else's Redis is as it was given; our own is reached with our own credentials", () => {
  const REDIS_URL = "rediss://user:secret@redis.example:6380";
  const plan = (env: Record<string, string>, program: string | null = null) => planRedis({ env, dataDir: "/d", port: 1, program });
  assert.deepEqual(plan({ REDIS_URL }), { url: REDIS_URL, env: { REDIS_URL }, server: null });
  assert.deepEqual(plan({ REDIS_URL, REDIS_CREDENTIALS_DIR: "/c" }).env, { REDIS_URL, REDIS_CREDENTIALS_DIR: "/c" });
  const own = plan({ REDIS_CREDENTIALS_DIR: "/c", ...guarded }, redisServer);
  assert.equal(own.env["REDIS_CREDENTIALS_DIR"], "/d/credentials/state-store");
  const open = plan({ REDIS_CREDENTIALS_DIR: "/c", MCPF_BUS_PERMISSIONS: "off" }, redisServer);
  assert.deepEqual(
    [open.url, open.env],
    ["redis://127.0.0.1:1", { REDIS_URL: "redis://127.0.0.1:1" }],
    "it has users where the bus has permissions",
  );
});
