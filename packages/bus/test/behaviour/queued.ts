import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { streams } from "@mcp-failover/contracts";
import { BusError, type Delivery } from "../../src/index.ts";
import { inWorld, item, itemIdOf, type MakeWorld, until } from "./world.ts";

const options = { filter: "outbox.>", ackWaitMs: 600, concurrency: 4 };
const done = { kind: "done" } as const;

export function queued(makeWorld: MakeWorld): void {
  test(
    "B6: a queued message is gone after `done`, and comes back after `later` with its attempt counted",
    inWorld(makeWorld, async (world) => {
      const bus = await world.connect();
      const seen: { id: string; attempt: number; atMs: number }[] = [];
      bus.consumeQueue("notifier", options, async ({ stored, attempt }: Delivery) => {
        seen.push({ id: itemIdOf(stored), attempt, atMs: Date.now() });
        return itemIdOf(stored) === "item-2" && attempt < 3 ? { kind: "later", delayMs: 200 } : done;
      });
      await bus.append(item("webhook", 1));
      await bus.append(item("webhook", 2));
      await until(async () => (await bus.info("OUTBOX")).messages === 0, "the queue is empty");
      assert.deepEqual(
        seen.filter(({ id }) => id === "item-1").map(({ attempt }) => attempt),
        [1],
      );
      const again = seen.filter(({ id }) => id === "item-2");
      assert.deepEqual(
        again.map(({ attempt }) => attempt),
        [1, 2, 3],
      );
      assert.ok((again[1]?.atMs ?? 0) - (again[0]?.atMs ?? 0) >= 180);
      await sleep(700);
      assert.equal(seen.length, 4);
    }),
  );

  test(
    "B6: a message whose handler threw comes back, and the others are not held up by it",
    inWorld(makeWorld, async (world) => {
      const bus = await world.connect();
      const seen: string[] = [];
      bus.consumeQueue("notifier", options, async ({ stored, attempt }) => {
        seen.push(`${itemIdOf(stored)}/${attempt}`);
        if (itemIdOf(stored) === "item-1" && attempt === 1) throw new Error("on purpose");
        return done;
      });
      for (const n of [1, 2, 3]) await bus.append(item("webhook", n));
      await until(async () => (await bus.info("OUTBOX")).messages === 0, "the queue is empty");
      assert.deepEqual([...seen].sort(), ["item-1/1", "item-1/2", "item-2/1", "item-3/1"]);
      assert.equal(seen.at(-1), "item-1/2");
    }),
  );

  test(
    "B6: what a consumer held when it crashed comes to another one",
    inWorld(makeWorld, async (world) => {
      const [doomed, heir] = [await world.connect("doomed"), await world.connect("heir")];
      let held = 0;
      doomed.consumeQueue("notifier", options, async () => {
        held += 1;
        await sleep(60_000, undefined, { ref: false });
        return done;
      });
      await doomed.append(item("webhook", 1));
      await doomed.append(item("webhook", 2));
      await until(() => held === 2, "the doomed one holds both");
      const seen: string[] = [];
      await world.cut(doomed);
      heir.consumeQueue("notifier", options, async ({ stored, attempt }) => {
        seen.push(`${itemIdOf(stored)}/${attempt}`);
        return done;
      });
      await until(async () => (await heir.info("OUTBOX")).messages === 0, "the heir has done both");
      assert.deepEqual(seen.sort(), ["item-1/2", "item-2/2"]);
    }),
  );

  test(
    "B6: instances that share a queue share the work: each message goes to one, no more than `concurrency` at a time",
    inWorld(makeWorld, async (world) => {
      const buses = await Promise.all(["a", "b"].map((name) => world.connect(name)));
      const seen: string[] = [];
      let most = 0;
      for (const bus of buses) {
        let running = 0;
        bus.consumeQueue("notifier", { ...options, concurrency: 2 }, async ({ stored }) => {
          running += 1;
          most = Math.max(most, running);
          await sleep(10);
          seen.push(itemIdOf(stored));
          running -= 1;
          return done;
        });
      }
      for (let n = 1; n <= 20; n += 1) await buses[0]?.append(item(`channel-${n % 2}`, n));
      await until(async () => (await buses[0]?.info("OUTBOX"))?.messages === 0, "the queue is empty");
      assert.equal(seen.length, 20);
      assert.equal(new Set(seen).size, 20);
      assert.ok(most <= 2 && most > 0);
    }),
  );

  test(
    "B6: a handler slower than the acknowledgement's time keeps its message, and nobody else gets it",
    inWorld(makeWorld, async (world) => {
      const buses = await Promise.all(["a", "b"].map((name) => world.connect(name)));
      let handled = 0;
      for (const bus of buses) {
        bus.consumeQueue("notifier", { ...options, ackWaitMs: 1000 }, async () => {
          handled += 1;
          await sleep(2500);
          return done;
        });
      }
      await buses[0]?.append(item("webhook", 1));
      await until(async () => (await buses[0]?.info("OUTBOX"))?.messages === 0, "the queue is empty");
      assert.equal(handled, 1);
    }),
  );

  test(
    "B9: a message whose handler fails each time stands in QUARANTINE with the reason, and the queue goes on",
    inWorld(makeWorld, async (world) => {
      const bus = await world.connect();
      const seen: string[] = [];
      bus.consumeQueue("notifier", { ...options, failuresMax: 2 }, async ({ stored }) => {
        seen.push(itemIdOf(stored));
        if (itemIdOf(stored) === "item-1") throw new Error("no reader can take this");
        return done;
      });
      await bus.append(item("webhook", 1));
      await bus.append(item("webhook", 2));
      await until(async () => (await bus.info("OUTBOX")).messages === 0, "the queue is empty");
      const record = await bus.lastOf("QUARANTINE", "quarantine.OUTBOX.1");
      assert.match(
        record?.content.kind === "malformed" ? record.content.reason : "",
        /its handler failed 2 times.*no reader can take this/,
      );
      assert.deepEqual(
        seen.filter((id) => id === "item-1"),
        ["item-1", "item-1"],
      );
      const body = JSON.parse(Buffer.from(record?.bytes ?? []).toString()) as { subject: string; payload: string };
      assert.equal(body.subject, "outbox.webhook");
      assert.match(Buffer.from(body.payload, "base64").toString(), /"item-1"/);
    }),
  );

  test(
    "B9: a message that was put off too often stands in QUARANTINE, one whose handler waits for a neighbour does not",
    inWorld(makeWorld, async (world) => {
      const bus = await world.connect();
      let waited = 0;
      bus.consumeQueue("notifier", { ...options, failuresMax: 1, deliveriesMax: 3 }, async ({ stored }) => {
        if (itemIdOf(stored) === "item-1") return { kind: "later", delayMs: 10 };
        waited += 1;
        if (waited < 3) throw new BusError("unreachable", "the log is away", { retriable: true });
        return done;
      });
      await bus.append(item("webhook", 1));
      await bus.append(item("webhook", 2));
      await until(async () => (await bus.info("OUTBOX")).messages === 0, "the queue is empty");
      const reasons: string[] = [];
      for await (const { subject, content } of bus.read("QUARANTINE"))
        reasons.push(`${subject}: ${content.kind === "malformed" ? content.reason : ""}`);
      assert.deepEqual(reasons, ["quarantine.OUTBOX.1: it was delivered 3 times and is still not done"]);
    }),
  );

  const withoutQuarantine = streams.filter(({ name }) => name !== "QUARANTINE");
  test(
    "B9: while QUARANTINE takes nothing, what cannot be handled stays in the queue, malformed or not",
    inWorld(
      makeWorld,
      async (world) => {
        const bus = await world.connect();
        const seen = { malformed: 0, event: 0 };
        bus.consumeQueue("notifier", { ...options, failuresMax: 1 }, async ({ stored }) => {
          seen[stored.content.kind] += 1;
          if (stored.content.kind === "event") throw new Error("on purpose");
          return done;
        });
        await world.publishRaw("outbox.webhook", "not json at all");
        await bus.append(item("webhook", 1));
        // Each try to put it aside takes its time before it is given up.
        await until(() => seen.malformed >= 2 && seen.event >= 2, "both came back", 60_000);
        assert.equal((await bus.info("OUTBOX")).messages, 2);
      },
      { streams: withoutQuarantine },
    ),
  );

  test(
    "B6: the queue survives a restart of the server",
    inWorld(makeWorld, async (world) => {
      const bus = await world.connect();
      for (const n of [1, 2, 3]) await bus.append(item("webhook", n));
      const seen: string[] = [];
      bus.consumeQueue("notifier", options, async ({ stored }) => {
        seen.push(itemIdOf(stored));
        return itemIdOf(stored) === "item-3" && seen.length < 5 ? { kind: "later", delayMs: 50 } : done;
      });
      await until(() => seen.length >= 1, "it has begun");
      await world.restartServer(200);
      await bus.append(item("webhook", 4));
      await until(async () => (await bus.info("OUTBOX")).messages === 0, "the queue is empty");
      assert.deepEqual([...new Set(seen)].sort(), ["item-1", "item-2", "item-3", "item-4"]);
    }),
  );
}
