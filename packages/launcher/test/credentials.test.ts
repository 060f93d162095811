import assert from "node:assert/strict";
import { createPrivateKey, X509Certificate } from "node:crypto";
import { chownSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type Bus, CredentialsError, connectBus, readCredentials } from "@mcp-failover/bus";
import { busUsers, redisClusterUsers, redisUsers } from "@mcp-failover/contracts";
import { consoleTokenFile, openSecrets, probeTokenFile, readConsoleTokens, readProbeTokens } from "@mcp-failover/service-kit";
import { startNats, tempDir } from "@mcp-failover/testkit";
import { makeConsoleToken, makeCredentials } from "../src/credentials/make-credentials.ts";

test("credentials are made once, for their owner's eyes, and every certificate is the authority's", async () => {
  const { path: folder, remove } = await tempDir();
  try {
    const nowMs = Date.now();
    assert.ok(makeCredentials({ folder, nowMs }).made.length > 50);
    assert.deepEqual(makeCredentials({ folder, nowMs }).made, [], "asking again changes nothing");
    const authority = new X509Certificate(readFileSync(join(folder, "ca", "ca.pem")));
    for (const user of ["nats", "redis", ...busUsers, ...redisUsers, ...redisClusterUsers]) {
      for (const file of readdirSync(join(folder, user)))
        assert.equal(statSync(join(folder, user, file)).mode & 0o077, 0, `${user}/${file}`);
      const certificate = new X509Certificate(readFileSync(join(folder, user, "tls.crt")));
      assert.ok(certificate.checkIssued(authority) && certificate.verify(authority.publicKey), user);
    }
    const configuration = readFileSync(join(folder, "nats", "accounts.conf"), "utf8");
    for (const user of busUsers)
      assert.ok(!configuration.includes(readFileSync(join(folder, user, "nats.seed"), "utf8").trim()), `the seed of ${user}`);
    const acls = ["redis/users.acl", "redis/cluster.acl", "redis-sentinel/sentinel.acl"].map((name) =>
      readFileSync(join(folder, name), "utf8"),
    );
    for (const user of [...redisUsers, ...redisClusterUsers]) {
      const password = readFileSync(join(folder, user, "redis.password"), "utf8").trim();
      assert.ok(password.length >= 43 && acls.every((acl) => !acl.includes(password)), `the password of ${user}`);
    }
    for (const user of redisClusterUsers)
      assert.deepEqual(
        acls.map((acl) => acl.includes(`user ${user} on #`)),
        [false, true, true],
        `a Redis without a replica does not know ${user}`,
      );
    assert.ok(
      makeCredentials({ folder, nowMs: nowMs + 350 * 24 * 3_600_000 }).made.includes("prober/tls.crt"),
      "renewed before it expires",
    );
  } finally {
    await remove();
  }
});

const tokens = [
  { what: "routers and probers have", taker: "router", shower: "prober", file: probeTokenFile, read: readProbeTokens },
  { what: "the console and those who operate have", taker: "console", shower: "cli", file: consoleTokenFile, read: readConsoleTokens },
];
for (const { what, taker, shower, file: tokenFile, read } of tokens) {
  test(`${what} a token in common, and nobody else has it; a new one cuts nobody off, and the one before ends when it is retired`, async () => {
    const { path: folder, remove } = await tempDir();
    const none = openSecrets({}, undefined);
    const tokensOf = (user: string): readonly string[] => read(none, join(folder, user));
    try {
      const nowMs = Date.now();
      makeCredentials({ folder, nowMs });
      const [first = ""] = tokensOf(shower);
      assert.ok(first.length >= 43);
      assert.deepEqual([tokensOf(taker), tokensOf(shower)], [[first], [first]]);
      for (const user of readdirSync(folder))
        for (const file of readdirSync(join(folder, user)))
          if (file !== tokenFile) assert.ok(!readFileSync(join(folder, user, file), "utf8").includes(first), `${user}/${file}`);
          else assert.ok([taker, shower].includes(user), user);
      makeCredentials({ folder, nowMs, change: "rotate" });
      const [second = ""] = tokensOf(shower);
      assert.notEqual(second, first);
      assert.deepEqual([tokensOf(taker), tokensOf(shower)], [[second, first], [second]]);
      makeCredentials({ folder, nowMs });
      assert.deepEqual(tokensOf(taker), [second, first], "asking again changes nothing");
      makeCredentials({ folder, nowMs, change: "retire" });
      assert.deepEqual([tokensOf(taker), tokensOf(shower)], [[second], [second]]);
      // As of an earlier version that knew no token.
      rmSync(join(folder, taker, tokenFile));
      makeCredentials({ folder, nowMs });
      assert.deepEqual(tokensOf(taker), tokensOf(shower));
    } finally {
      await remove();
    }
  });
}

test("without permissions on the bus the console's token is made alone, once, and goes on where permissions come later", async () => {
  const { path: folder, remove } = await tempDir();
  const tokenOf = (user: string): string => readFileSync(join(folder, user, consoleTokenFile), "utf8");
  try {
    makeConsoleToken(folder);
    const made = tokenOf("cli");
    assert.deepEqual(readdirSync(folder, { recursive: true }).sort(), [
      "cli",
      `cli/${consoleTokenFile}`,
      "console",
      `console/${consoleTokenFile}`,
    ]);
    for (const user of ["cli", "console"]) {
      assert.equal(statSync(join(folder, user)).mode & 0o077, 0, user);
      assert.equal(statSync(join(folder, user, consoleTokenFile)).mode & 0o077, 0, user);
    }
    makeConsoleToken(folder);
    makeCredentials({ folder, nowMs: Date.now() });
    assert.deepEqual([tokenOf("cli"), tokenOf("console")], [made, made]);
  } finally {
    await remove();
  }
});

test("names that the server was once given stay in its certificate when it is rotated or renewed, and new ones come in", async () => {
  const { path: folder, remove } = await tempDir();
  const named = (): string => new X509Certificate(readFileSync(join(folder, "nats", "tls.crt"))).subjectAltName ?? "";
  try {
    const nowMs = Date.now();
    makeCredentials({ folder, nowMs, hosts: ["nats.example", "10.1.2.3"] });
    const before = named();
    assert.match(before, /DNS:localhost.*DNS:nats\.example.*IP Address:10\.1\.2\.3/);
    makeCredentials({ folder, nowMs, change: "rotate" });
    assert.equal(named(), before, "rotated");
    assert.ok(makeCredentials({ folder, nowMs: nowMs + 350 * 24 * 3_600_000 }).made.includes("nats/tls.crt"));
    assert.equal(named(), before, "renewed");
    assert.deepEqual(makeCredentials({ folder, nowMs, hosts: ["other.example"] }).made, [
      "nats/tls.key",
      "nats/tls.crt",
      "redis/tls.key",
      "redis/tls.crt",
    ]);
    assert.equal(named(), `${before}, DNS:other.example`);
    assert.deepEqual(makeCredentials({ folder, nowMs, hosts: ["nats.example"] }).made, []);
  } finally {
    await remove();
  }
});

test("a file of credentials that is empty or cut off is named with what to do; once it is removed, all is made whole again", async () => {
  const { path: folder, remove } = await tempDir();
  const nowMs = Date.now();
  try {
    makeCredentials({ folder, nowMs });
    for (const name of ["nats/keys.json", "ca/ca.key", "ca/ca.pem", "prober/nats.seed", "nats/tls.crt"]) {
      const file = join(folder, name);
      const whole = readFileSync(file, "utf8");
      for (const left of ["", whole.slice(0, whole.length / 2)]) {
        writeFileSync(file, left);
        const named = (error: unknown): boolean =>
          error instanceof CredentialsError && error.message.startsWith(`${file} is damaged: remove it and start again`);
        assert.throws(() => makeCredentials({ folder, nowMs }), named, `${name}, ${left.length} characters`);
      }
      rmSync(file);
      makeCredentials({ folder, nowMs });
      assert.deepEqual(makeCredentials({ folder, nowMs }).made, [], name);
    }
  } finally {
    await remove();
  }
});

test("a certificate that is damaged, or not its key's, is made anew, with the names that it had", async () => {
  const { path: folder, remove } = await tempDir();
  const nowMs = Date.now();
  const read = (name: string): string => readFileSync(join(folder, name), "utf8");
  try {
    makeCredentials({ folder, nowMs, hosts: ["nats.example"] });
    const names = new X509Certificate(read("nats/tls.crt")).subjectAltName;
    for (const [name, text] of [
      ["prober/tls.crt", ""],
      ["prober/tls.key", ""],
      ["prober/tls.crt", read("prober/tls.crt").slice(0, 200)],
      ["nats/tls.key", ""],
      // As of a process that ended between the two.
      ["nats/tls.key", read("prober/tls.key")],
    ] as const) {
      writeFileSync(join(folder, name), text);
      const user = name.split("/")[0] ?? "";
      assert.deepEqual(makeCredentials({ folder, nowMs }).made, [`${user}/tls.key`, `${user}/tls.crt`], name);
      const certificate = new X509Certificate(read(`${user}/tls.crt`));
      assert.ok(certificate.checkPrivateKey(createPrivateKey(read(`${user}/tls.key`))), name);
      assert.ok(certificate.verify(new X509Certificate(read("ca/ca.pem")).publicKey), name);
    }
    assert.equal(new X509Certificate(read("nats/tls.crt")).subjectAltName, names);
  } finally {
    await remove();
  }
});

test("what redis-server needs is given to the user that it runs as, also what was made for another before", {
  skip: process.getuid?.() !== 0,
}, async () => {
  const { path: folder, remove } = await tempDir();
  try {
    const ours = { uid: 4711, gid: 4712 };
    const owners = (name: string): string => `${statSync(join(folder, name)).uid}:${statSync(join(folder, name)).gid}`;
    const ofRedis = ["redis", "redis/users.acl", "redis/tls.key", "redis-health", "redis-health/redis.password"];
    makeCredentials({ folder, nowMs: Date.now(), owner: ours });
    for (const name of ofRedis) assert.equal(owners(name), "4711:4712", name);
    const again = makeCredentials({ folder, nowMs: Date.now(), owner: ours, redisOwner: { uid: 4713, gid: 4714 } });
    assert.deepEqual(again.made, [], "nothing is made anew");
    for (const name of ofRedis) assert.equal(owners(name), "4713:4714", name);
    for (const name of ["state-store/redis.password", "nats/tls.key", "ca/ca.key"]) assert.equal(owners(name), "4711:4712", name);
  } finally {
    await remove();
  }
});

test("a rotation that names the owner of the others alone leaves redis-server its folders", {
  skip: process.getuid?.() !== 0,
}, async () => {
  const { path: folder, remove } = await tempDir();
  try {
    const ours = { uid: 4711, gid: 4712 };
    makeCredentials({ folder, nowMs: Date.now(), owner: ours, redisOwner: { uid: 4713, gid: 4714 } });
    // As of a user that a newer version brings.
    rmSync(join(folder, "redis-reload"), { recursive: true });
    makeCredentials({ folder, nowMs: Date.now(), owner: ours, change: "rotate" });
    const owners = (name: string): string => `${statSync(join(folder, name)).uid}:${statSync(join(folder, name)).gid}`;
    for (const name of ["redis", "redis/users.acl", "redis/tls.key", "redis-health/redis.password", "redis-reload", "redis-reload/tls.key"])
      assert.equal(owners(name), "4713:4714", name);
    assert.equal(owners("state-store/redis.password"), "4711:4712");
  } finally {
    await remove();
  }
});

test("files stay with whom they were given to when they are made anew", { skip: process.getuid?.() !== 0 }, async () => {
  const { path: folder, remove } = await tempDir();
  try {
    makeCredentials({ folder, nowMs: Date.now(), owner: { uid: 4711, gid: 4712 } });
    chownSync(join(folder, "nats", "tls.key"), 4713, 4714);
    // As of a user that a newer version brings.
    rmSync(join(folder, "router"), { recursive: true });
    makeCredentials({ folder, nowMs: Date.now(), change: "rotate" });
    const owners = (name: string): string => `${statSync(join(folder, name)).uid}:${statSync(join(folder, name)).gid}`;
    for (const name of ["router", "router/nats.seed", "prober/nats.seed", "prober/tls.crt", "nats/accounts.conf"])
      assert.equal(owners(name), "4711:4712", name);
    assert.equal(owners("nats/tls.key"), "4713:4714");
  } finally {
    await remove();
  }
});

test("over TLS with client certificates, keys are rotated without anybody being cut off, and the key before ends when it is retired", async () => {
  const { path: folder, remove } = await tempDir();
  const buses: Bus[] = [];
  makeCredentials({ folder, nowMs: Date.now() });
  const file = (name: string): string => JSON.stringify(join(folder, "nats", name));
  const server = await startNats({
    config: `tls { cert_file: ${file("tls.crt")}, key_file: ${file("tls.key")}, ca_file: ${file("ca.pem")}, verify: true, timeout: 10 }\ninclude ${JSON.stringify(linked(folder))}`,
  });
  const reload = (): void => void process.kill(server.pid, "SIGHUP");
  const connectAs = (credentials: ReturnType<typeof readCredentials>): Bus => {
    const bus = connectBus({ servers: server.url.replace("nats://", "tls://"), name: credentials.user, instance: "one", credentials });
    buses.push(bus);
    return bus;
  };
  try {
    const prober = connectAs(readCredentials(join(folder, "prober")));
    await until(
      () => prober.status.kind === "connected",
      () => JSON.stringify(prober.status),
    );
    const before = readCredentials(join(folder, "prober")).seed();
    let losses = 0;
    prober.onStatus((status) => {
      if (status.kind === "disconnected") losses += 1;
    });

    makeCredentials({ folder, nowMs: Date.now(), change: "rotate" });
    reload();
    const renewed = connectAs(readCredentials(join(folder, "prober")));
    await until(
      () => renewed.status.kind === "connected",
      () => JSON.stringify(renewed.status),
    );
    assert.equal(losses, 0, "who came with the key before stays");

    makeCredentials({ folder, nowMs: Date.now(), change: "retire" });
    reload();
    // It is cut off, reads the new key, and is back by itself.
    await until(
      () => losses > 0 && prober.status.kind === "connected",
      () => `${losses} ${JSON.stringify(prober.status)}`,
    );
    const old = connectAs({ ...readCredentials(join(folder, "prober")), seed: () => before });
    await until(
      () => old.status.kind === "disconnected" && /auth/i.test(old.status.reason),
      () => JSON.stringify(old.status),
    );
  } finally {
    await Promise.all(buses.map((bus) => bus.close()));
    await server.stop();
    await remove();
  }
});

/** nats-server takes includes from the folder of its configuration, wherever that is. */
function linked(folder: string): string {
  return join(...Array.from({ length: 9 }, () => ".."), folder, "nats", "accounts.conf");
}

async function until(holds: () => boolean, say: () => string): Promise<void> {
  for (const endMs = Date.now() + 30_000; !holds(); await sleep(50)) assert.ok(Date.now() < endMs, say());
}
