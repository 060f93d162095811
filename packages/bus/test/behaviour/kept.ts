import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { streams } from "@mcp-failover/contracts";
import { type Bus, BusError } from "../../src/index.ts";
import { connected, inWorld, type MakeWorld, note, until } from "./world.ts";

export function kept(makeWorld: MakeWorld): void {
  test(
    "a bucket keeps, replaces and deletes values, and tells revisions apart",
    inWorld(makeWorld, async (world) => {
      const bucket = await (await world.connect()).bucket("things");
      assert.equal(await bucket.get("a/b.c"), null);
      const first = await bucket.create("a/b.c", "one");
      assert.ok(first !== null);
      assert.equal(await bucket.create("a/b.c", "another"), null);
      const second = await bucket.update("a/b.c", "two", first);
      assert.ok(second !== null && second > first);
      assert.equal(await bucket.update("a/b.c", "late", first), null);
      const { storedMs, ...there } = (await bucket.get("a/b.c")) ?? {};
      assert.deepEqual(there, { value: "two", revision: second });
      assert.ok(Math.abs((storedMs ?? 0) - Date.now()) < 60_000, "when it was stored");
      await bucket.put("a/b.c", "three");
      assert.equal((await bucket.get("a/b.c"))?.value, "three");
      await bucket.delete("a/b.c");
      assert.equal(await bucket.get("a/b.c"), null);
      assert.ok((await bucket.create("a/b.c", "reborn")) !== null);
      await assert.rejects(bucket.get("no spaces"), (error) => error instanceof BusError && error.code === "rejected");
    }),
  );

  test(
    "of eight who create or update one key at once, one succeeds",
    inWorld(makeWorld, async (world) => {
      const buses = await Promise.all(Array.from({ length: 8 }, (_, index) => world.connect(`racer-${index}`)));
      const buckets = await Promise.all(buses.map((bus) => bus.bucket("leases")));
      for (let round = 0; round < 5; round += 1) {
        const created = await Promise.all(buckets.map((bucket, index) => bucket.create(`key-${round}`, String(index))));
        const winners = created.filter((revision) => revision !== null);
        assert.equal(winners.length, 1);
        const [revision] = winners as [number];
        assert.equal((await buckets[0]?.get(`key-${round}`))?.value, String(created.indexOf(revision)));
        const updated = await Promise.all(buckets.map((bucket, index) => bucket.update(`key-${round}`, `again ${index}`, revision)));
        assert.equal(updated.filter((each) => each !== null).length, 1);
      }
    }),
  );

  test(
    "a bucket holds its limits: values expire, and one that is too large is refused",
    inWorld(makeWorld, async (world) => {
      const bucket = await (await world.connect()).bucket("short", { ttlMs: 1000, maxValueBytes: 1000, maxBytes: 1024 * 1024 });
      await bucket.put("a", "one");
      assert.equal((await bucket.get("a"))?.value, "one");
      await assert.rejects(bucket.put("b", "x".repeat(5000)), (error) => error instanceof BusError && error.code === "too_large");
      await until(async () => (await bucket.get("a")) === null, "the value has expired", 4000);
      assert.ok((await bucket.create("a", "two")) !== null);
    }),
  );

  test(
    "B7: a bucket is usable again after a restart of the server, with its values",
    inWorld(makeWorld, async (world) => {
      const bus = await world.connect();
      const bucket = await bus.bucket("things");
      const revision = await bucket.put("a", "one");
      await world.restartServer(200);
      await until(() => connected(bus), "it is connected again");
      const { storedMs: _, ...there } = (await bucket.get("a")) ?? {};
      assert.deepEqual(there, { value: "one", revision });
      assert.ok((await bucket.update("a", "two", revision)) !== null);
    }),
  );

  test(
    "streams are made once, asking again changes nothing, and limits only ever grow",
    inWorld(
      makeWorld,
      async (world) => {
        const buses = await Promise.all(["a", "b"].map((name) => world.connect(name)));
        const [bus] = buses as [Bus];
        await assert.rejects(bus.info("AUDIT"), (error) => error instanceof BusError && error.retriable);
        await assert.rejects(
          bus.appendFenced(note("pager", 1), 0, { timeoutMs: 300 }),
          (error) => error instanceof BusError && error.retriable,
        );
        await Promise.all(buses.map((each) => each.ensureStreams(streams, { replicas: 1 })));
        await bus.append(note("pager", 1));
        const [audit] = streams;
        assert.ok(audit);
        await bus.ensureStreams([{ ...audit, maxBytes: audit.maxBytes * 2, subjects: [...audit.subjects, "extra.>"] }], { replicas: 1 });
        await bus.ensureStreams(streams, { replicas: 1 });
        const info = await bus.info("AUDIT");
        assert.deepEqual([info.maxBytes, info.messages, info.replicas], [audit.maxBytes * 2, 1, 1]);
        await world.publishRaw("extra.subject", "kept");
        await until(async () => (await bus.info("AUDIT")).messages === 2, "the new subject is stored too");
      },
      { streams: [] },
    ),
  );

  test(
    "a stream that is told to forget by size keeps what is newest",
    inWorld(
      makeWorld,
      async (world) => {
        const bus = await world.connect();
        for (let n = 0; n < 30; n += 1) await bus.append(note("pager", n));
        await sleep(10);
        const info = await bus.info("AUDIT");
        assert.ok(info.firstSeq > 1 && info.lastSeq === 30 && info.messages < 30, JSON.stringify(info));
      },
      {
        streams: streams.map((definition) =>
          definition.name === "AUDIT" ? { ...definition, maxBytes: 8192, discard: "old" as const } : definition,
        ),
      },
    ),
  );
}
