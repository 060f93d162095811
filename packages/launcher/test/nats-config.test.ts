import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { connectBus, readCredentials } from "@mcp-failover/bus";
import { buckets, makeEvent, streams } from "@mcp-failover/contracts";
import { startNats, tempDir } from "@mcp-failover/testkit";
import { credentialsFolder, prepareBus } from "../src/nats-config.ts";

test("a log that was begun without permissions goes on in a stack with them, and the other way round", async () => {
  const { path: dataDir, remove } = await tempDir();
  const storeDir = join(dataDir, "nats");
  try {
    for (const [round, permissions] of ["off", "on", "off"].entries()) {
      const env = { MCPF_BUS_PERMISSIONS: permissions };
      const folder = credentialsFolder(env, dataDir);
      prepareBus({ env, dataDir, port: 1, credentials: folder });
      assert.equal(folder === null, permissions === "off");
      const server = await startNats({
        storeDir,
        config: folder === null ? "" : readFileSync(join(folder, "nats", "accounts.conf"), "utf8"),
      });
      const credentials = folder === null ? {} : { credentials: readCredentials(join(folder, "bootstrap")) };
      const bus = connectBus({ servers: server.url, name: "test", instance: "test", ...credentials });
      try {
        for (const endMs = Date.now() + 30_000; bus.status.kind !== "connected"; await sleep(50)) assert.ok(Date.now() < endMs);
        await bus.ensureStreams(streams, { replicas: 1 });
        assert.equal((await bus.info("AUDIT")).lastSeq, round, `what was there before round ${round}`);
        await bus.append(note(round));
      } finally {
        await bus.close();
        await server.stop();
      }
    }
  } finally {
    await remove();
  }
});

test("our own server has permissions unless they are put off, somebody else's where they are asked for; what is neither is refused", () => {
  const folder = (env: Record<string, string>): string | null => credentialsFolder(env, "/d");
  const NATS_URL = "nats://127.0.0.1:4222";
  assert.equal(folder({}), "/d/credentials");
  assert.equal(folder({ MCPF_BUS_PERMISSIONS: "" }), "/d/credentials");
  assert.equal(folder({ MCPF_BUS_PERMISSIONS: "on" }), "/d/credentials");
  assert.equal(folder({ MCPF_BUS_PERMISSIONS: "off" }), null);
  assert.equal(folder({ NATS_URL }), null);
  assert.equal(folder({ NATS_URL, MCPF_BUS_PERMISSIONS: "on" }), "/d/credentials");
  assert.throws(() => folder({ MCPF_BUS_PERMISSIONS: "no" }), /MCPF_BUS_PERMISSIONS no: it is on or off/);
});

test("nats-server is told to keep more than all streams and buckets reserve, with permissions and without: its default is a part of the disk", async () => {
  const { path: dataDir, remove } = await tempDir();
  try {
    for (const permissions of ["on", "off"]) {
      const env = { MCPF_BUS_PERMISSIONS: permissions };
      prepareBus({ env, dataDir, port: 1, credentials: credentialsFolder(env, dataDir) });
      const [, gigabytes = "0"] = /max_file_store: (\d+)GB/.exec(readFileSync(join(dataDir, "nats.conf"), "utf8")) ?? [];
      const reserved = [...streams, ...Object.values(buckets)].map((one) => ("maxBytes" in one ? one.maxBytes : 0));
      assert.ok(Number(gigabytes) * 1024 ** 3 >= reserved.reduce((sum, bytes) => sum + bytes), `${permissions}: ${gigabytes} GB`);
    }
  } finally {
    await remove();
  }
});

function note(round: number) {
  return makeEvent({
    type: "command.accepted",
    keys: ["hold"],
    data: {
      commandId: `c${round}`,
      command: "hold",
      by: { kind: "operator", id: "test" },
      reason: "a test",
      timestamp: new Date().toISOString(),
      parameters: {},
    },
    id: `note-${round}`,
    service: "failover-controller",
    instance: "test",
    timeMs: Date.now(),
  });
}
