import assert from "node:assert/strict";
import { createServer } from "node:http";
import { type AddressInfo, createServer as createTcp } from "node:net";
import { type TestContext, test } from "node:test";
import { selfSigned } from "@mcp-failover/testkit";
import fc from "fast-check";
import neo4j from "neo4j-driver";
import { unpackMessage } from "../src/probes/pack-stream.ts";
import { type BoltServer, boltServer } from "./bolt-server.ts";
import { resultOf, runnerFor, targetOf } from "./probe-kit.ts";

async function serverFor(t: TestContext, tls?: { key: string; cert: string }): Promise<BoltServer> {
  const server = await boltServer(tls);
  t.after(() => server.close());
  return server;
}
const secrets = { NEO4J_PASSWORD: "right-password", OLD_PASSWORD: "an-old-password" };
const auth = { username: "neo4j", password: { secret: "NEO4J_PASSWORD" } };

test("the local server answers as the real one does: Neo4j's own driver connects to it, and is refused with a wrong password", async (t) => {
  const server = await serverFor(t);
  for (const version of [
    [5, 8],
    [5, 0],
    [4, 4],
  ] as const) {
    server.version = version;
    const driver = neo4j.driver(`bolt://127.0.0.1:${server.port}`, neo4j.auth.basic("neo4j", "right-password"));
    t.after(() => driver.close());
    const { agent, protocolVersion } = await driver.getServerInfo();
    assert.deepEqual([agent, String(protocolVersion)], ["Neo4j/5.26.0", version.join(".")]);
  }
  const wrong = neo4j.driver(`bolt://127.0.0.1:${server.port}`, neo4j.auth.basic("neo4j", "wrong"));
  t.after(() => wrong.close());
  await assert.rejects(wrong.getServerInfo(), { code: "Neo.ClientError.Security.Unauthorized" });
});

test("bolt: handshake and log on as a driver does it in each version; without credentials the handshake alone", async (t) => {
  const server = await serverFor(t);
  const runner = runnerFor(t, { secrets });
  const probe = (more: object = {}) => resultOf(runner, targetOf({ type: "bolt", url: `bolt://127.0.0.1:${server.port}`, auth, ...more }));
  const expected: [readonly [number, number], string[]][] = [
    [
      [5, 8],
      ["HELLO", "LOGON basic neo4j", "GOODBYE"],
    ],
    [
      [5, 1],
      ["HELLO", "LOGON basic neo4j", "GOODBYE"],
    ],
    [
      [5, 0],
      ["HELLO basic neo4j", "GOODBYE"],
    ],
    [
      [4, 4],
      ["HELLO basic neo4j", "GOODBYE"],
    ],
  ];
  for (const [version, heard] of expected) {
    server.version = version;
    server.heard.length = 0;
    const result = await probe();
    assert.deepEqual([result.outcome, result.error], ["ok", null]);
    for (let n = 0; n < 1000 && server.heard.length < heard.length; n += 1) await new Promise((resolve) => setTimeout(resolve, 5));
    assert.deepEqual(server.heard, heard, version.join("."));
  }
  server.heard.length = 0;
  const { auth: _none, ...bare } = { type: "bolt", url: `bolt://127.0.0.1:${server.port}`, auth };
  assert.equal((await resultOf(runner, targetOf(bare))).outcome, "ok");
  assert.deepEqual(server.heard, []);
  server.version = [5, 4];
  assert.equal(
    (
      await probe({
        expect: [
          { of: "protocol_version", in: ["5.4"] },
          { of: "json", path: "$.server", contains: "Neo4j/5" },
        ],
      })
    ).outcome,
    "ok",
  );
  const old = await probe({ expect: [{ of: "protocol_version", equals: "5.8", severity: "degraded" }] });
  assert.deepEqual(old.degraded, { code: "assertion", detail: 'protocol version: expected "5.8"; saw "5.4"' });
});

test("bolt: refused credentials are alive, a failing server is down, HTTP at its port is malformed, no common version is no failure", async (t) => {
  const server = await serverFor(t);
  const runner = runnerFor(t, { secrets });
  const url = `bolt://127.0.0.1:${server.port}`;
  const refused = await resultOf(
    runner,
    targetOf({ type: "bolt", url, auth: { username: "neo4j", password: { secret: "OLD_PASSWORD" } } }),
  );
  assert.deepEqual([refused.outcome, refused.error], ["auth", "Neo4j says Neo.ClientError.Security.Unauthorized"]);
  server.failing = { code: "Neo.TransientError.General.DatabaseUnavailable", message: "secret words" };
  const failing = await resultOf(runner, targetOf({ type: "bolt", url, auth }));
  assert.deepEqual([failing.outcome, failing.error], ["hard", "Neo4j says Neo.TransientError.General.DatabaseUnavailable"]);
  server.version = null;
  assert.equal((await resultOf(runner, targetOf({ type: "bolt", url, auth }))).outcome, "caller");
  const http = createServer();
  await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
  t.after(() => http.close());
  const wrongPort = await resultOf(
    runner,
    targetOf({ type: "bolt", url: `bolt://127.0.0.1:${(http.address() as AddressInfo).port}`, auth }),
  );
  assert.deepEqual([wrongPort.outcome, wrongPort.code], ["hard", "malformed"]);
  assert.match(wrongPort.error ?? "", /HTTP at a Bolt port/);
  await server.close();
  assert.equal((await resultOf(runner, targetOf({ type: "bolt", url, auth }))).code, "refused");
});

test("bolt: what answers the handshake with no version that was offered is no Bolt server, with or without credentials", async (t) => {
  let said: string | Buffer = "";
  const server = createTcp((socket) => {
    socket.on("error", () => undefined);
    socket.write(said);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  const url = `bolt://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const runner = runnerFor(t, { secrets });
  const others: (string | Buffer)[] = ["SSH-2.0-OpenSSH_9.6\r\n", "220 mail ESMTP\r\n", "-ERR unknown command\r\n"];
  // MySQL's greeting, a TLS alert, and versions that nobody offered: 4.1, 5.9, the manifest of 5.7.
  for (const hex of ["4a0000000a382e30", "15030300020246", "00000104", "00000905", "000001ff"]) others.push(Buffer.from(hex, "hex"));
  for (said of others) {
    for (const more of [{}, { auth }]) {
      const { outcome, code } = await resultOf(runner, targetOf({ type: "bolt", url, ...more }));
      assert.deepEqual([outcome, code], ["hard", "malformed"], said.toString("latin1"));
    }
  }
  for (const hex of ["00000805", "00000204", "00000106"]) {
    said = Buffer.from(hex, "hex");
    assert.equal((await resultOf(runner, targetOf({ type: "bolt", url }))).outcome, "ok", hex);
  }
});

test("bolt over TLS, and that an endpoint's credentials go to its own host alone", async (t) => {
  const { key, cert } = selfSigned({ untilMs: Date.now() + 86_400_000 * 5.5 });
  const server = await serverFor(t, { key, cert });
  const runner = runnerFor(t, { secrets });
  const result = await resultOf(
    runner,
    targetOf({ type: "bolt", port: server.port, ca: cert, expect: [{ of: "certificate_days", min: 5 }] }, "https://127.0.0.1:7473", {
      endpoint: { auth },
    }),
  );
  assert.deepEqual([result.outcome, server.heard.includes("LOGON basic neo4j")], ["ok", true], String(result.error));
  server.heard.length = 0;
  // Another address: the endpoint's password is not for it.
  await resultOf(
    runner,
    targetOf({ type: "bolt", url: `bolt+s://127.0.0.1:${server.port}`, ca: cert }, "https://neo4j.example", { endpoint: { auth } }),
  );
  assert.deepEqual(
    server.heard.filter((message) => message !== "GOODBYE"),
    [],
  );
});

test("a message that is nested without end is malformed, and no fault of this process", () => {
  for (const nesting of [0x91, 0xa1]) {
    const deep = Buffer.concat([Buffer.from([0xb1, 0x70]), Buffer.alloc(64 * 1024, nesting)]);
    assert.throws(() => unpackMessage(deep), { name: "MalformedError" });
  }
});

test("whatever bytes a server sends are read as a message or refused as malformed, and nothing else", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200, size: "max" }), (bytes) => {
      try {
        unpackMessage(Buffer.from([0xb1, 0x70, ...bytes]));
      } catch (error) {
        assert.equal((error as Error).name, "MalformedError");
      }
    }),
    { numRuns: 2000 },
  );
});
