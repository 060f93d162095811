import assert from "node:assert/strict";
import { test } from "node:test";
import { type ConfigApplied, configurationLimits, type Event, makeEvent } from "@mcp-failover/contracts";
import { BusError, type Stored } from "../../src/index.ts";
import { connected, inWorld, type MakeWorld, note, until, type WorldWithObjects } from "./world.ts";

const by = { kind: "service" as const, id: "suite" };

function applied(version: number, topology: unknown): Event<"config.applied"> {
  return makeEvent({
    type: "config.applied",
    keys: [],
    data: {
      version,
      hash: `hash-${version}`,
      fileHash: null,
      timestamp: new Date().toISOString(),
      by,
      reason: "a test",
      environment: "development",
      topology,
    },
    id: `config-${version}`,
    service: "cli",
    instance: "suite",
    timeMs: Date.now(),
  });
}

/** About as large as 10,000 endpoints; `salt` makes another one of it. */
const large = (salt: string, bytes = 2 * 1024 * 1024) => ({ salt, endpoints: ["x".repeat(bytes)] });

function dataOf(stored: Stored | null | undefined): ConfigApplied {
  assert.ok(
    stored?.content.kind === "event" && stored.content.event.type === "config.applied",
    JSON.stringify(stored?.content)?.slice(0, 300),
  );
  return stored.content.event.data;
}
const objectOf = (stored: Stored | null): string => String((dataOf(stored).topologyObject as { name?: string } | undefined)?.name);

export function largeConfigurations(makeWorld: MakeWorld<WorldWithObjects>): void {
  test(
    "O1: a configuration that is too large for a message reaches every kind of reader whole, and its event stays small",
    inWorld(makeWorld, async (world) => {
      const [writer, other] = await Promise.all([world.connect("writer"), world.connect("other")]);
      const followed: Stored[] = [];
      other.follow("AUDIT", { from: "last_per_subject" }, (stored) => {
        followed.push(stored);
      });
      await writer.append(note("pager", 1));
      const topology = large("one");
      assert.deepEqual(await writer.appendFenced(applied(1, topology), 0), { outcome: "won", seq: 2 });
      await writer.append(note("pager", 2));
      await until(() => followed.length === 3, "all three were handed over");
      assert.deepEqual(
        followed.map(({ seq }) => seq),
        [1, 2, 3],
      );
      const lost = await other.appendFenced(applied(1, large("late")), 0);
      const read: Stored[] = [];
      for await (const stored of other.read("AUDIT", { filter: "config.applied" })) read.push(stored);
      const readings = [followed[1], await other.lastOf("AUDIT", "config.applied"), await other.at("AUDIT", 2), read[0]];
      for (const stored of [...readings, lost.outcome === "lost" ? lost.last : null]) {
        assert.deepEqual(dataOf(stored).topology, topology);
        assert.ok((stored?.bytes.length ?? 0) < 2000, "the event carries the topology all the same");
      }
    }),
  );

  test(
    "a configuration that fits into a message is read from the event alone",
    inWorld(makeWorld, async (world) => {
      const bus = await world.connect();
      await bus.appendFenced(applied(1, large("small", 1000)), 0);
      await world.loseObjects();
      const stored = await bus.lastOf("AUDIT", "config.applied");
      assert.deepEqual(dataOf(stored).topology, large("small", 1000));
      assert.equal(dataOf(stored).topologyObject, undefined);
    }),
  );

  test(
    "O3: where the object is lost the event is malformed, the next one follows, and applying the configuration again mends it",
    inWorld(makeWorld, async (world) => {
      const [writer, other] = await Promise.all([world.connect("writer"), world.connect("other")]);
      await writer.appendFenced(applied(1, large("one")), 0);
      await world.loseObjects();
      await writer.append(note("pager", 1));
      const kinds: string[] = [];
      other.follow("AUDIT", { from: { seq: 1 } }, ({ content }) => {
        kinds.push(content.kind);
      });
      await until(() => kinds.length === 2, "both were handed over", 15_000);
      assert.deepEqual(kinds, ["malformed", "event"]);
      const last = await other.lastOf("AUDIT", "config.applied");
      assert.ok(last?.content.kind === "malformed" && /apply it again/.test(last.content.reason), JSON.stringify(last?.content));
      await until(async () => (await other.info("QUARANTINE")).messages === 1, "QUARANTINE says why");
      await writer.appendFenced(applied(2, large("one")), last.seq);
      for (const seq of [1, 3]) assert.deepEqual(dataOf(await other.at("AUDIT", seq)).topology, large("one"));
    }),
  );

  test(
    "O1, O2: an object with other bytes is never taken for the configuration, and applying it again puts the right ones there",
    inWorld(makeWorld, async (world) => {
      const [writer, other, third] = await Promise.all(["writer", "other", "third"].map((name) => world.connect(name)));
      assert.ok(writer && other && third);
      await writer.appendFenced(applied(1, large("one")), 0);
      const name = objectOf(await writer.lastOf("AUDIT", "config.applied"));
      await world.putObject(name, JSON.stringify(large("another")));
      assert.equal((await other.lastOf("AUDIT", "config.applied"))?.content.kind, "malformed");
      await writer.appendFenced(applied(2, large("one")), 1);
      assert.deepEqual(dataOf(await third.lastOf("AUDIT", "config.applied")).topology, large("one"));
    }),
  );

  test(
    "B4: a follower that loses its connection over a large configuration gets it afterwards, once and in its place",
    inWorld(makeWorld, async (world) => {
      const [writer, other] = await Promise.all([world.connect("writer"), world.connect("other")]);
      const seqs: number[] = [];
      other.follow("AUDIT", { from: { seq: 1 } }, (stored) => {
        if (stored.seq === 2) assert.deepEqual(dataOf(stored).topology, large("one"));
        seqs.push(stored.seq);
      });
      await writer.append(note("pager", 1));
      await until(() => seqs.length === 1, "the first was handed over");
      await world.cut(other);
      await writer.appendFenced(applied(1, large("one")), 0);
      await writer.append(note("pager", 2));
      await world.restore(other);
      await until(() => connected(other) && seqs.length === 3, "the rest was handed over");
      assert.deepEqual(seqs, [1, 2, 3]);
    }),
  );

  test(
    "an answer that no message takes is refused with its size and how to ask instead, and is not left out",
    inWorld(makeWorld, async (world) => {
      const [asker, server] = await Promise.all([world.connect("asker"), world.connect("server")]);
      const handlers = { "state.status": async () => large("status") };
      await server.serve({ name: "state-store", instance: "s-1", version: "0.1.0", description: "answers", handlers });
      const answer = await asker.request("state.status", {});
      assert.ok(
        !answer.ok && answer.error.code === "reply_too_large" && /\d bytes.*ask for it by page/.test(answer.error.message),
        JSON.stringify(answer).slice(0, 300),
      );
    }),
  );

  test(
    "a configuration over the limit is refused before anything of it is stored",
    inWorld(makeWorld, async (world) => {
      const bus = await world.connect();
      const tooLarge = applied(1, large("one", configurationLimits.bytesMax));
      await assert.rejects(bus.appendFenced(tooLarge, 0), (error) => error instanceof BusError && error.code === "too_large");
      assert.equal((await bus.info("AUDIT")).messages, 0);
    }),
  );
}
