import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { streams } from "@mcp-failover/contracts";
import { eventually, newestNats, patientMs, startNats, tempDir } from "@mcp-failover/testkit";
import { BusError, busHealth, checkStore, connectBus } from "../src/index.ts";
import { connected, note, until } from "./behaviour/world.ts";

/** A disk of its own, small enough to be filled. */
const diskBytes = 8 * 1024 * 1024;
const limit = { timeout: patientMs(120_000) };

describe("NATS with a full disk", { concurrency: false, timeout: patientMs(300_000) }, () => {
  let dir: Awaited<ReturnType<typeof tempDir>>;
  let mounted = false;
  before(async () => {
    dir = await tempDir();
    mounted = spawnSync("mount", ["-t", "tmpfs", "-o", `size=${diskBytes}`, "none", dir.path], { stdio: "ignore" }).status === 0;
  });
  after(async () => {
    if (mounted) spawnSync("umount", ["-l", dir.path], { stdio: "ignore" });
    await dir?.remove();
  });

  const newest = newestNats();
  for (const [version, binary] of [
    ["of the system", undefined],
    ["newest", "binary" in newest ? newest.binary : null],
  ] as const) {
    test(
      `nats-server, ${version}: who stores is told of it with what to do; with room and a restart all that was acknowledged is there`,
      limit,
      async (t) => {
        if (binary === null) return t.skip("missing" in newest ? newest.missing : "");
        if (!mounted) return t.skip("a disk of its own is mounted by root alone");
        const storeDir = join(dir.path, version.replaceAll(" ", "-"));
        const full = join(dir.path, "full");
        const server = await startNats({ storeDir, ...(binary === undefined ? {} : { binary }) });
        const bus = connectBus({ servers: server.url, name: "suite", instance: "suite" });
        const checking = checkStore(bus, "suite");
        const stored: number[] = [];
        try {
          await until(() => connected(bus), "it is connected");
          await bus.ensureStreams(
            streams.map((definition) => ({ ...definition, maxBytes: 1024 * 1024 })),
            { replicas: 1 },
          );
          for (let n = 1; n <= 20; n += 1) stored.push((await bus.append(note("pager", n))).seq);
          await assert.rejects(writeFile(full, Buffer.alloc(diskBytes)), { code: "ENOSPC" });
          await eventually(
            async () => {
              const { seq } = await bus.append(note("pager", stored.length + 1)).catch((error: unknown) => {
                assert.ok(error instanceof BusError);
                return { seq: null };
              });
              if (seq !== null) stored.push(seq);
              return busHealth(bus).store !== null;
            },
            { withinMs: 60_000, what: "it is told that nothing is stored" },
          );
          assert.match(busHealth(bus).store ?? "", /disk is full, free some and restart it|no room to store/);
          await rm(full);
          await server.kill();
          await server.restart();
          await eventually(async () => (await bus.append(note("pager", 0))).seq > 0, { withinMs: 30_000 });
          await until(() => busHealth(bus).store === null, "it stores again", 30_000);
          for (const seq of stored) assert.notEqual(await bus.at("AUDIT", seq), null, `the event ${seq} was acknowledged`);
        } finally {
          checking.stop();
          await bus.close();
          await server.kill();
          await server.stop();
          await rm(storeDir, { recursive: true, force: true });
          await rm(full, { force: true });
        }
      },
    );
  }
});
