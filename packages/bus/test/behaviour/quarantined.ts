import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { sha256, streams } from "@mcp-failover/contracts";
import type { Bus, Stored } from "../../src/index.ts";
import { inWorld, type MakeWorld, note, until } from "./world.ts";

async function contents(bus: Bus): Promise<Stored[]> {
  const found: Stored[] = [];
  for await (const stored of bus.read("QUARANTINE")) found.push(stored);
  return found;
}

export function quarantined(makeWorld: MakeWorld): void {
  test(
    "B5: a malformed message is handed to each of three followers as malformed, stands in QUARANTINE once, and the next event follows",
    inWorld(makeWorld, async (world) => {
      const buses = await Promise.all(["a", "b", "c"].map((name) => world.connect(name)));
      const seen = buses.map((bus) => {
        const kinds: string[] = [];
        bus.follow("AUDIT", { from: { seq: 1 } }, ({ content }) => {
          kinds.push(content.kind);
        });
        return kinds;
      });
      await world.publishRaw("health.changed.pinecone.primary", "not json at all");
      await world.publishRaw("notify.sent.pager", JSON.stringify({ ...note("pager", 1), data: { wrong: true } }));
      await buses[0]?.append(note("pager", 2));
      await until(() => seen.every((kinds) => kinds.length === 3), "all three have been handed over everywhere");
      assert.deepEqual(
        seen,
        Array.from({ length: 3 }, () => ["malformed", "malformed", "event"]),
      );
      const [bus] = buses as [Bus];
      await until(async () => (await bus.info("QUARANTINE")).messages >= 2, "both stand in QUARANTINE");
      for await (const _stored of bus.read("AUDIT")) await sleep(20); // Whoever sees it later reports it again, to no effect.
      const records = await contents(bus);
      assert.deepEqual(records.map(({ subject }) => subject).sort(), ["quarantine.AUDIT.1", "quarantine.AUDIT.2"]);
      const first = records.find(({ subject }) => subject.endsWith(".1"));
      const body = JSON.parse(Buffer.from(first?.bytes ?? []).toString()) as Record<string, unknown>;
      assert.equal(body["stream"], "AUDIT");
      assert.equal(body["seq"], 1);
      assert.equal(body["subject"], "health.changed.pinecone.primary");
      assert.match(String(body["reason"]), /not UTF-8 JSON/);
      assert.equal(Buffer.from(String(body["payload"]), "base64").toString(), "not json at all");
      assert.ok(first?.content.kind === "malformed" && /not UTF-8 JSON/.test(first.content.reason));
    }),
  );

  test(
    "B5: a malformed message on a subject without a stream stands in QUARANTINE once, whoever hears it, and listening goes on",
    inWorld(makeWorld, async (world) => {
      const buses = await Promise.all(["a", "b", "c"].map((name) => world.connect(name)));
      const heard = buses.map((bus) => {
        const ids: string[] = [];
        bus.subscribe("prober.heartbeat", ({ data }) => ids.push(data.prober));
        return ids;
      });
      await sleep(50);
      await world.publishRaw("prober.heartbeat", "{}");
      await until(async () => (await contents(buses[0] as Bus)).length > 0, "it stands in QUARANTINE");
      await sleep(100);
      assert.deepEqual(
        (await contents(buses[0] as Bus)).map(({ subject }) => subject),
        [`quarantine.core.${sha256("{}").slice(0, 16)}`],
      );
      assert.deepEqual(heard, [[], [], []]);
    }),
  );

  const forgetful = streams.map((definition) =>
    definition.name === "QUARANTINE" ? { ...definition, duplicateWindowMs: 100 } : definition,
  );
  test(
    "B5: a malformed message stands in QUARANTINE once also for those who see it when the duplicate window is long over",
    inWorld(
      makeWorld,
      async (world) => {
        const first = await world.connect("first");
        first.follow("AUDIT", { from: { seq: 1 } }, () => undefined);
        await world.publishRaw("health.changed.pinecone.primary", "{");
        await until(async () => (await first.info("QUARANTINE")).messages === 1, "it stands in QUARANTINE");
        await sleep(400);
        const second = await world.connect("second");
        for await (const _stored of second.read("AUDIT")) await sleep(300); // The report goes its own way.
        assert.equal((await first.info("QUARANTINE")).messages, 1);
      },
      { streams: forgetful },
    ),
  );

  test(
    "B5: without a QUARANTINE to put it into, a malformed message still stops nobody",
    inWorld(
      makeWorld,
      async (world) => {
        const bus = await world.connect();
        const kinds: string[] = [];
        bus.follow("AUDIT", { from: { seq: 1 } }, ({ content }) => {
          kinds.push(content.kind);
        });
        await world.publishRaw("health.changed.pinecone.primary", "[]");
        await bus.append(note("pager", 1));
        await until(() => kinds.length === 2, "both have been handed over");
        assert.deepEqual(kinds, ["malformed", "event"]);
      },
      { streams: streams.filter(({ name }) => name === "AUDIT") },
    ),
  );
}
