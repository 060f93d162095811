import assert from "node:assert/strict";
import { test } from "node:test";
import { type Bus, BusError, memoryBroker } from "@mcp-failover/bus";
import { patientMs } from "@mcp-failover/testkit";
import fc from "fast-check";
import { createMemoryDirectory, createSharedDirectory, type SessionDirectory } from "../src/mcp/directory.ts";
import { troubleTeller } from "../src/mcp/shared-bucket.ts";

function sharedOn(bus: Bus, troubles: unknown[] = []): SessionDirectory {
  return createSharedDirectory({
    bucket: () => bus.bucket("sessions", {}),
    reachable: () => bus.status.kind === "connected",
    timeoutMs: 300,
    onTrouble: (error) => troubles.push(error),
  });
}
const claim = (directory: SessionDirectory, key: string, endpoint: string, id: string) =>
  directory.change(key, (record) =>
    record.holds[endpoint] === undefined ? { ...record, holds: { ...record.holds, [endpoint]: id } } : null,
  );

test("D1: of several processes that move one session at once, one wins and the others see what it wrote", async () => {
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 2, max: 4 }), fc.uuid(), async (processes, key) => {
      const broker = memoryBroker();
      const buses = await Promise.all(Array.from({ length: processes }, () => broker.connect()));
      const records = await Promise.all(buses.map((bus, index) => claim(sharedOn(bus), key, "b", `id-${index}`)));
      assert.equal(new Set(records.map((record) => record.holds["b"])).size, 1);
      for (const bus of buses) {
        assert.equal((await sharedOn(bus).read(key))?.holds["b"], records[0]?.holds["b"]);
        await bus.close();
      }
    }),
    { numRuns: 30 },
  );
});

test("D1: changes of different parts by different processes all stand", async () => {
  const broker = memoryBroker();
  const [one, two] = [await broker.connect(), await broker.connect()];
  await Promise.all([claim(sharedOn(one), "k", "a", "1"), claim(sharedOn(two), "k", "b", "2")]);
  await sharedOn(one).change("k", (record) => ({ ...record, subscriptions: [...record.subscriptions, "x"] }));
  assert.deepEqual(await sharedOn(two).read("k"), { ended: false, holds: { a: "1", b: "2" }, subscriptions: ["x"] });
  await one.close();
  await two.close();
});

test("D2: of a bucket that refuses its keys, as a full one does, is warned once a minute; of one out of reach it is not", async () => {
  let nowMs = 1_000_000;
  const warned: object[] = [];
  const note = (details: object): void => void warned.push(details);
  const full = new BusError("rejected", "maximum bytes exceeded", { retriable: false });
  const away = new BusError("unreachable", "gone", { retriable: true });
  let error = full;
  const directory = createSharedDirectory({
    bucket: () => Promise.reject(error),
    reachable: () => true,
    timeoutMs: 300,
    onTrouble: troubleTeller("sessions", { debug: () => undefined, warn: note }, () => nowMs),
  });
  for (const laterMs of [0, 1, 59_998]) {
    nowMs += laterMs;
    assert.equal((await claim(directory, "k", "b", "mine")).holds["b"], "mine");
  }
  assert.deepEqual(warned, [{ err: full, bucket: "sessions" }]);
  nowMs += 1;
  error = away;
  await directory.read("k");
  assert.equal(warned.length, 1);
  error = full;
  await directory.read("k");
  assert.equal(warned.length, 2);
});

test("D2: a directory that does not answer holds nobody up, and the process goes on with what it knows", async () => {
  const troubles: unknown[] = [];
  const silent = createSharedDirectory({
    bucket: () => new Promise(() => undefined),
    reachable: () => true,
    timeoutMs: 50,
    onTrouble: (error) => troubles.push(error),
  });
  const startedAtMs = Date.now();
  assert.equal((await claim(silent, "k", "b", "mine")).holds["b"], "mine");
  assert.equal((await silent.read("k"))?.holds["b"], "mine");
  assert.ok(Date.now() - startedAtMs < patientMs(500));
  assert.equal(troubles.length, 2);
});

test("D2: with the bus known to be away nothing is even tried", async () => {
  const directory = createSharedDirectory({
    bucket: () => Promise.reject(new Error("must not be asked")),
    reachable: () => false,
    timeoutMs: 50,
    onTrouble: (error) => assert.fail(String(error)),
  });
  assert.equal((await claim(directory, "k", "b", "mine")).holds["b"], "mine");
});

test("D3: entries are bounded, the oldest change goes first", async () => {
  const directory = createMemoryDirectory();
  for (let index = 0; index < 20_010; index++) await claim(directory, `k${index}`, "b", "x");
  assert.equal(await directory.read("k0"), null);
  assert.notEqual(await directory.read("k20009"), null);
});

test("a damaged entry is taken for none, and written anew", async () => {
  const bus = await memoryBroker().connect();
  const bucket = await bus.bucket("sessions", {});
  await bucket.put("k", "no json");
  assert.equal(await sharedOn(bus).read("k"), null);
  assert.equal((await claim(sharedOn(bus), "k", "b", "mine")).holds["b"], "mine");
  assert.equal((await sharedOn(bus).read("k"))?.holds["b"], "mine");
  await bus.close();
});
