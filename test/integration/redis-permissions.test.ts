import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { redisAccess, redisCredentialFiles, redisUsers } from "@mcp-failover/contracts";
import { emptyReadModel } from "@mcp-failover/domain";
import { eventually, freePort, type RunningServer, selfSigned, startRedis, tempDir } from "@mcp-failover/testkit";
import { Redis } from "ioredis";
import { node24, ROOT } from "../../scripts/lib/repo.mjs";
import { encodeBackup, writeDiskBackup } from "../../services/state-store/src/backup.ts";
import { connectRaw, proofsOf, type RawRedis, tlsOf } from "../harness/raw-redis.ts";

/** A key that no user has anything to do with. */
const foreignKeys = ["other", "mcp", "mcpx:state:shop", "session:mcp:state:shop", "MCP:state:shop"];
/** What every connection may say, whoever it is: none of it reads or changes anything. */
const openToAll = ["auth", "hello", "quit", "reset"];
/** How the commands of the table that name keys are called with one. */
const withKey: Readonly<Record<string, (key: string) => string[]>> = {
  del: (key) => [key],
  eval: (key) => ["return 1", "1", key],
  exists: (key) => [key],
  expire: (key) => [key, "100"],
  get: (key) => [key],
  mget: (key) => [key],
  pttl: (key) => [key],
  set: (key) => [key, "1"],
  ttl: (key) => [key],
  type: (key) => [key],
  zadd: (key) => [key, "1", "m"],
  zcard: (key) => [key],
  zrange: (key) => [key, "0", "-1"],
  zrangebyscore: (key) => [key, "0", "1"],
  zremrangebyscore: (key) => [key, "0", "1"],
  zrevrange: (key) => [key, "0", "-1"],
  zscore: (key) => [key, "m"],
};
const withoutKey = new Set(["acl|load", "exec", "info", "multi", "ping", "role"]);

let folder: string;
let server: RunningServer;
const ends: (() => Promise<unknown>)[] = [];
before(async () => {
  const temp = await tempDir("mcpf-redis-credentials-");
  ends.push(() => temp.remove());
  folder = join(temp.path, "credentials");
  credentials();
  server = await startRedis({
    dir: temp.path,
    guard: {
      aclFile: join(folder, "redis", "users.acl"),
      certFile: join(folder, "redis", "tls.crt"),
      keyFile: join(folder, "redis", "tls.key"),
      caFile: join(folder, "redis", "ca.pem"),
      user: "redis-health",
      passwordFile: join(folder, "redis-health", redisCredentialFiles.password),
    },
  });
  ends.unshift(() => server.stop());
});
after(async () => {
  for (const end of ends) await end();
});

/** `npm run dev:credentials`, as an operator calls it. */
function credentials(...args: string[]): string {
  const run = spawnSync(node24(), ["packages/launcher/src/credentials/main.ts", "--folder", folder, ...args], {
    cwd: ROOT,
    encoding: "utf8",
    env: { PATH: process.env["PATH"] },
  });
  assert.equal(run.status, 0, run.stderr);
  return run.stdout;
}
const proofs = (user: string) => proofsOf(join(folder, user));
async function as<T>(user: string, use: (redis: RawRedis) => Promise<T>, proof = proofs(user)): Promise<T> {
  const redis = await connectRaw(server.port, tlsOf(join(folder, user)), proof);
  try {
    return await use(redis);
  } finally {
    redis.close();
  }
}

test("every command that the server knows and the table does not give to a user is refused to that user", async () => {
  const open = await startRedis();
  const client = new Redis(open.url, { protocol: 2 });
  type Described = [string, number, unknown, unknown, unknown, unknown, unknown, unknown, unknown, Described[]?];
  const described = (await client.call("COMMAND")) as Described[];
  client.disconnect();
  await open.stop();
  const commands = described.flatMap((one) => ((one[9] ?? []).length > 0 ? (one[9] ?? []) : [one]));
  const known = new Set(commands.map(([name]) => name.toLowerCase()));
  assert.ok(known.size > 200, `${known.size} commands`);
  for (const user of redisUsers) {
    for (const command of redisAccess[user].commands) assert.ok(known.has(command), `${user}: ${command} is no command of redis-server`);
    await as(user, async (redis) => {
      for (const [name, arity] of commands) {
        if (openToAll.includes(name) || redisAccess[user].commands.includes(name)) continue;
        const words = name.split("|");
        const args = Array.from({ length: Math.abs(arity) - words.length }, () => "mcp:state:shop");
        const said = await redis.ask(...words, ...args);
        // DEBUG and MODULE are off for everybody, which is said first.
        assert.match(said, /^-(NOPERM|EXECABORT .*NOPERM|ERR (DEBUG|MODULE) command not allowed)/, `${user}: ${name}`);
      }
    });
  }
});

test("a user's commands do what the table says on its own keys, and nothing on others", async () => {
  for (const user of redisUsers) {
    const { commands, keys } = redisAccess[user];
    for (const command of commands) {
      const call = withKey[command];
      if (call === undefined) {
        assert.ok(withoutKey.has(command), `${command} is new in the table: say here how it names its keys`);
        continue;
      }
      assert.ok(keys.length > 0, `${user} has ${command}, and no keys`);
      for (const key of foreignKeys) {
        const said = await as(user, (redis) => redis.ask(command, ...call(key)));
        assert.match(said, /^-NOPERM this user has no permissions to access one of the keys/i, `${user}: ${command} ${key}`);
      }
      const own = keys.map((pattern) => pattern.replace("*", `test-${command}`));
      for (const key of own)
        assert.doesNotMatch(await as(user, (redis) => redis.ask(command, ...call(key))), /NOPERM/, `${user}: ${command} ${key}`);
    }
  }
});

/** As 7.0 says it, and as newer ones do; what is never allowed in a script is said before who asks. */
const refusal =
  /^-(NOPERM|EXECABORT|ERR (The user executing the script can't|This Redis command is not allowed from script|ACL failure in script))/;
const script = (text: string): string[] => ["EVAL", text, "0"];
/** Who tries what: written by hand, so that a fault in the table shows. Each line of a list is said on one connection. */
const attacks: readonly [what: string, user: string, ...says: string[][]][] = [
  ["reads another application's key by a script that does not name it", "state-store", script("return redis.call('GET', 'other')")],
  ["empties the server by a script", "state-store", script("return redis.call('FLUSHALL')")],
  ["looks through all keys by a script", "state-store", script("return redis.call('KEYS', '*')")],
  ["asks for the configuration by a script", "state-store", script("return redis.call('CONFIG', 'GET', '*')")],
  ["gives itself rights by a script", "state-store", script("return redis.call('ACL', 'SETUSER', 'state-store', '+@all')")],
  ["writes another key in a transaction", "state-store", ["MULTI"], ["SET", "other", "evil"]],
  ["empties the server", "state-store", ["FLUSHALL"]],
  ["looks through all keys", "state-store", ["SCAN", "0"]],
  ["writes a file where it likes", "state-store", ["CONFIG", "SET", "dir", "/tmp"]],
  ["makes the server a copy of its own", "state-store", ["REPLICAOF", "127.0.0.1", "1"]],
  ["takes all data as a replica would", "state-store", ["PSYNC", "?", "-1"]],
  ["moves a key to a server of its own", "state-store", ["MIGRATE", "127.0.0.1", "1", "mcp:meta", "0", "1000"]],
  ["stops the server", "state-store", ["SHUTDOWN", "NOSAVE"]],
  ["goes into another database", "state-store", ["SELECT", "1"]],
  ["leaves a function behind", "state-store", ["FUNCTION", "LOAD", "#!lua name=x\nredis.register_function('x', function() return 1 end)"]],
  ["writes what people are shown", "redis-reader", ["SET", "mcp:current:shop", "evil"]],
  ["writes by a script", "redis-reader", script("return redis.call('SET', 'mcp:current:shop', 'evil')")],
  ["removes history", "redis-reader", ["DEL", "mcp:failover:index:shop"]],
  ["reads along what everybody says, passwords among it", "redis-reader", ["MONITOR"]],
  ["listens", "redis-reader", ["SUBSCRIBE", "anything"]],
  ["cuts everybody off", "redis-reader", ["CLIENT", "KILL", "TYPE", "normal"]],
  ["reads a key", "redis-health", ["GET", "mcp:current:shop"]],
  ["looks at who is connected", "redis-health", ["CLIENT", "LIST"]],
  ["gives itself all rights", "redis-reload", ["ACL", "SETUSER", "redis-reload", "+@all", "~*"]],
  ["reads the hashes of passwords", "redis-reload", ["ACL", "LIST"]],
  ["names another ACL file", "redis-reload", ["CONFIG", "SET", "aclfile", "/tmp/users.acl"]],
  ["reads as nobody, once it has put off who it was", "redis-reader", ["RESET"], ["GET", "mcp:current:shop"]],
];
for (const [what, user, ...says] of attacks) {
  test(`refused: ${user} ${what}`, async () => {
    const said = await as(user, async (redis) => {
      let last = "";
      for (const words of says) last = await redis.ask(...words);
      return last;
    });
    assert.match(said, says[0]?.[0] === "RESET" ? /^-NOAUTH/ : refusal);
  });
}

test("who has no password is let in by nobody: neither as `default`, nor by the hash that is in the ACL file", async () => {
  const tls = tlsOf(join(folder, "redis-reader"));
  const redis = await connectRaw(server.port, tls, null);
  const hash = /user redis-reader on #([0-9a-f]{64})/.exec(readFileSync(join(folder, "redis", "users.acl"), "utf8"))?.[1] ?? assert.fail();
  assert.match(await redis.ask("GET", "mcp:meta"), /^-NOAUTH/);
  assert.match(await redis.ask("AUTH", "default", ""), /^-WRONGPASS/);
  assert.match(await redis.ask("HELLO", "3", "AUTH", "default", "default"), /^-WRONGPASS/);
  assert.match(await redis.ask("AUTH", "redis-reader", hash), /^-WRONGPASS/);
  assert.match(await redis.ask("AUTH", "redis-reader", proofs("redis-health").password), /^-WRONGPASS/);
  assert.match(await redis.ask("PING"), /^-NOAUTH/);
  redis.close();
});

test("plain text, no certificate, and one of another authority are refused; a client that trusts another authority refuses the server", async () => {
  const own = tlsOf(join(folder, "redis-health"));
  const other = selfSigned({ untilMs: Date.now() + 3_600_000 });
  const ask = async (tls: Parameters<typeof connectRaw>[1]): Promise<string> => {
    const redis = await connectRaw(server.port, tls, null);
    try {
      return await redis.ask("PING");
    } finally {
      redis.close();
    }
  };
  assert.match(await ask(own), /^-NOAUTH/, "with its own certificate it is asked who it is");
  await assert.rejects(ask(null), /closed|ECONNRESET|EPIPE/);
  await assert.rejects(ask({ ca: own.ca }), /alert|closed|ECONNRESET|EPIPE/i);
  await assert.rejects(ask({ ca: own.ca, cert: other.cert, key: other.key }), /alert|closed|ECONNRESET|EPIPE/i);
  await assert.rejects(ask({ ...own, ca: other.cert }), /self-signed|unable to (verify|get)/);
});

test("passwords are rotated and retired under a state-store that goes on, one that is wrong is said and mended, and no log tells any", async (t) => {
  const port = await freePort();
  const data = await tempDir("mcpf-redis-data-");
  t.after(() => data.remove());
  const known = { ...emptyReadModel, seq: 1, last: { id: "log-1", atMs: 7 } };
  await writeDiskBackup(join(data.path, "state-store", "read-model.json"), encodeBackup(known), "state-store-1");
  const child = spawn(node24(), ["services/state-store/src/main.ts"], {
    cwd: ROOT,
    stdio: ["ignore", "pipe", "pipe"],
    env: {
      PATH: process.env["PATH"],
      // Nobody is there: it serves Redis all the same, from its backup.
      NATS_URL: `nats://127.0.0.1:${await freePort()}`,
      REDIS_URL: server.url,
      REDIS_CREDENTIALS_DIR: join(folder, "state-store"),
      MCPF_DATA_DIR: data.path,
      MCPF_HEALTH_PORT: String(port),
      MCPF_INSTANCE: "state-store-1",
      MCPF_LOG_LEVEL: "trace",
    },
  });
  const closed = new Promise((resolve) => child.once("close", resolve));
  t.after(async () => {
    child.kill("SIGKILL");
    await closed;
  });
  let logged = "";
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (text: string) => (logged += text));
  const redisCondition = async () => {
    const answer = await fetch(`http://127.0.0.1:${port}/readyz`);
    const { conditions } = (await answer.json()) as { conditions: Record<string, { ok: boolean; reason: string }> };
    return { status: answer.status, ...conditions["redis"] };
  };
  const patience = { withinMs: 30_000, what: () => logged.slice(-2000) };
  const isOk = () => eventually(async () => (await redisCondition()).ok, patience);
  /** It writes what is missing within a second or so. */
  const writes = async (): Promise<void> => {
    await as("state-store", (redis) => redis.ask("DEL", "mcp:meta"));
    await eventually(async () => (await as("state-store", (redis) => redis.ask("EXISTS", "mcp:meta"))) === ":1", patience);
    await isOk();
  };
  const secrets = new Set<string>();
  const remember = () => {
    for (const user of redisUsers) secrets.add(proofs(user).password);
  };
  await isOk();
  await writes();
  remember();
  assert.ok(![...secrets].some((secret) => readFileSync(`/proc/${child.pid}/environ`, "utf8").includes(secret)));

  const before = proofs("redis-reader");
  assert.match(credentials("--rotate", "--redis", server.url), /redis-server has read its users again/);
  remember();
  const renewed = proofs("redis-reader");
  assert.notEqual(renewed.password, before.password);
  for (const proof of [before, renewed]) assert.equal(await as("redis-reader", (redis) => redis.ask("PING"), proof), "+PONG");
  await writes();
  assert.equal((await redisCondition()).status, 200);

  credentials("--retire", "--redis", server.url);
  assert.equal(await as("redis-reader", (redis) => redis.ask("PING"), renewed), "+PONG");
  await assert.rejects(
    as("redis-reader", (redis) => redis.ask("PING"), before),
    /WRONGPASS/,
  );
  await writes();

  const file = join(folder, "state-store", redisCredentialFiles.password);
  const right = readFileSync(file, "utf8");
  secrets.add("planted-wrong-password");
  writeFileSync(file, "planted-wrong-password\n");
  await server.restart();
  await eventually(async () => /WRONGPASS/.test((await redisCondition()).reason ?? ""), patience);
  assert.equal(child.exitCode, null, "it goes on");
  writeFileSync(file, right);
  await isOk();
  await writes();

  child.kill("SIGTERM");
  await closed;
  assert.ok(logged.length > 100, "it has logged");
  for (const text of [logged, server.output]) assert.ok(![...secrets].some((secret) => text.includes(secret)), "a password in a log");
});
