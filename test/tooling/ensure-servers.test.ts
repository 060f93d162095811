import assert from "node:assert/strict";
import { isAbsolute } from "node:path";
import { type TestContext, test } from "node:test";
import { ensureServers, ServerMissingError } from "../../scripts/lib/ensure-servers.mjs";

function setEnv(t: TestContext, name: string, value: string): void {
  const before = process.env[name];
  process.env[name] = value;
  t.after(() => {
    if (before === undefined) delete process.env[name];
    else process.env[name] = before;
  });
}

test("both servers are found as absolute paths", async () => {
  const { natsServer, redisServer } = await ensureServers();
  assert.ok(natsServer !== undefined && isAbsolute(natsServer));
  assert.ok(redisServer !== undefined && isAbsolute(redisServer));
});

test("the path in the environment wins over PATH", async (t) => {
  setEnv(t, "NATS_SERVER_BIN", process.execPath);
  assert.deepEqual(await ensureServers({ need: ["nats-server"] }), { natsServer: process.execPath, redisServer: undefined });
});

test("a path in the environment that cannot be run is an error, and nothing is used in its stead", async (t) => {
  setEnv(t, "REDIS_SERVER_BIN", "/no/such/redis-server");
  await assert.rejects(ensureServers(), (error) => {
    assert.ok(error instanceof ServerMissingError);
    assert.equal(error.code, "server_missing");
    assert.match(error.message, /REDIS_SERVER_BIN is \/no\/such\/redis-server/);
    return true;
  });
});

test("what cannot be found or installed is named, with the variable that can point at it", async (t) => {
  for (const name of ["NATS_SERVER_BIN", "REDIS_SERVER_BIN"]) setEnv(t, name, "");
  setEnv(t, "PATH", "/no/such/dir");
  await assert.rejects(
    ensureServers({ need: ["nats-server"], extraDirs: [] }),
    /nats-server not found on PATH.*NATS_SERVER_BIN=\/path\/to\/nats-server/,
  );
});
