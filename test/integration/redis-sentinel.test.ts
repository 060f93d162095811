import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { redisCredentialFiles } from "@mcp-failover/contracts";
import { eventually, freePort, tempDir } from "@mcp-failover/testkit";
import { node24, ROOT } from "../../scripts/lib/repo.mjs";
import { connectRaw, proofsOf, tlsOf } from "../harness/raw-redis.ts";
import { startProcess } from "./prober-world.ts";

// What infra/compose/cluster.yml runs, as processes on loopback: the users that its replica and its Sentinels prove themselves as.
const program = process.env["REDIS_SERVER_BIN"] || "redis-server";
const slowMs = 60_000;
const ends: (() => Promise<unknown>)[] = [];
let folder: string;
let ports: { readonly first: number; readonly second: number; readonly sentinel: number };
const running = new Map<string, ReturnType<typeof startProcess>>();

before(async () => {
  const { path, remove } = await tempDir("mcpf-sentinel-");
  ends.push(remove);
  folder = join(path, "credentials");
  const made = spawnSync(node24(), ["packages/launcher/src/credentials/main.ts", "--folder", folder], { cwd: ROOT, encoding: "utf8" });
  assert.equal(made.status, 0, made.stderr);
  ports = { first: await freePort(), second: await freePort(), sentinel: await freePort() };
  const password = (user: string): string => readFileSync(join(folder, user, redisCredentialFiles.password), "utf8").trim();
  const tls = (port: number): string[] => [
    ...["bind 127.0.0.1", "port 0", `tls-port ${port}`, "tls-auth-clients yes", "tls-replication yes", 'save ""'],
    ...[`tls-cert-file ${folder}/redis/tls.crt`, `tls-key-file ${folder}/redis/tls.key`, `tls-ca-cert-file ${folder}/redis/ca.pem`],
  ];
  const start = async (name: "first" | "second" | "sentinel", lines: readonly string[], ...args: string[]): Promise<void> => {
    const dir = join(path, name);
    await mkdir(dir);
    writeFileSync(join(dir, "redis.conf"), `${[...tls(ports[name]), `dir ${dir}`, ...lines].join("\n")}\n`);
    running.set(name, startProcess(program, [join(dir, "redis.conf"), ...args], {}));
    await eventually(async () => (await ask(ports[name], "redis-health", "PING")) === "+PONG", {
      withinMs: slowMs,
      what: () => `${name} answers: ${running.get(name)?.output()}`,
    });
  };
  ends.unshift(() => Promise.all([...running.values()].map((one) => one.stop())));
  const replicated = [`aclfile ${folder}/redis/cluster.acl`, "masteruser redis-replica", `masterauth ${password("redis-replica")}`];
  await start("first", replicated);
  await start("second", [...replicated, `replicaof 127.0.0.1 ${ports.first}`, "repl-diskless-sync-delay 0"]);
  await start(
    "sentinel",
    [
      `aclfile ${folder}/redis-sentinel/sentinel.acl`,
      `sentinel monitor readmodel 127.0.0.1 ${ports.first} 1`,
      "sentinel down-after-milliseconds readmodel 1000",
      "sentinel auth-user readmodel redis-sentinel",
      `sentinel auth-pass readmodel ${password("redis-sentinel")}`,
    ],
    "--sentinel",
  );
});
after(async () => {
  for (const end of ends) await end();
});

/** One question on a connection of its own, with that user's certificate and password. Throws what the server or TLS refuses. */
async function ask(port: number, user: string, ...words: string[]): Promise<string> {
  const redis = await connectRaw(port, tlsOf(join(folder, user)), proofsOf(join(folder, user)));
  try {
    return await redis.ask(...words);
  } finally {
    redis.close();
  }
}

test("the users of replica and Sentinels may not read, write or empty anything, and nobody else may move the master", async () => {
  for (const [user, ...says] of [
    ["redis-replica", "GET", "mcp:current:shop"],
    ["redis-replica", "SLAVEOF", "127.0.0.1", "1"],
    ["redis-replica", "FLUSHALL"],
    ["redis-sentinel", "GET", "mcp:current:shop"],
    ["redis-sentinel", "SET", "mcp:current:shop", "evil"],
    ["redis-sentinel", "FLUSHALL"],
    ["redis-sentinel", "PSYNC", "?", "-1"],
    ["redis-sentinel", "CONFIG", "SET", "dir", "/tmp"],
    ["redis-sentinel", "PUBLISH", "elsewhere", "x"],
    ["state-store", "SLAVEOF", "127.0.0.1", "1"],
    ["state-store", "PSYNC", "?", "-1"],
  ] as const)
    assert.match(await ask(ports.first, user, ...says), /^-NOPERM/, [user, ...says].join(" "));
  for (const [user, ...says] of [
    ["redis-replica", "SENTINEL", "FAILOVER", "readmodel"],
    ["redis-health", "SENTINEL", "REMOVE", "readmodel"],
    ["redis-sentinel", "SENTINEL", "SET", "readmodel", "quorum", "9"],
    ["redis-sentinel", "SENTINEL", "MONITOR", "other", "127.0.0.1", "1", "1"],
  ] as const)
    assert.match(await ask(ports.sentinel, user, ...says), /^-NOPERM/, [user, ...says].join(" "));
  await assert.rejects(ask(ports.sentinel, "state-store", "PING"), /WRONGPASS/, "Sentinels do not know the services");
  // A certificate of ours alone.
  const nobody = await connectRaw(ports.sentinel, tlsOf(join(folder, "prober")), null);
  assert.match(await nobody.ask("SENTINEL", "FAILOVER", "readmodel"), /^-NOAUTH/);
  nobody.close();
});

test("a master that is gone is replaced: what was written to it is there, and the state-store may write", async () => {
  const everything = (port: number): Promise<string> => ask(port, "redis-health", "ROLE");
  assert.equal(await ask(ports.first, "state-store", "SET", "mcp:current:shop", "primary"), "+OK");
  // `$7` is the length of what is read.
  const has = async (): Promise<boolean> => (await ask(ports.second, "redis-reader", "GET", "mcp:current:shop")) === "$7";
  await eventually(has, { withinMs: slowMs, everyMs: 100, what: () => `the replica has it: ${running.get("second")?.output()}` });
  assert.match(await ask(ports.second, "state-store", "SET", "mcp:current:shop", "x"), /^-READONLY/);
  const known = async (): Promise<boolean> => /slaves=1|\+slave slave/.test(running.get("sentinel")?.output() ?? "");
  await eventually(known, {
    withinMs: slowMs,
    everyMs: 100,
    what: () => `Sentinel knows the replica: ${running.get("sentinel")?.output()}`,
  });
  running.get("first")?.kill("SIGKILL");
  await eventually(async () => (await ask(ports.second, "state-store", "SET", "mcp:current:shop", "secondary")) === "+OK", {
    withinMs: slowMs,
    everyMs: 250,
    what: () => `the replica takes writes: ${running.get("sentinel")?.output().slice(-2000)}`,
  });
  assert.match(await everything(ports.second), /^\*3/, "a master says its place and its replicas");
});
