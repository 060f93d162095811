import assert from "node:assert/strict";
import { test } from "node:test";
import { streams } from "@mcp-failover/contracts";
import { startNats } from "@mcp-failover/testkit";
import { busHealth, connectBus } from "../src/index.ts";
import { jetStreamApi, publishRaw } from "../src/internal.ts";
import { connected, until } from "./behaviour/world.ts";

test("more than a thousand messages that were put off do not keep the next from the queue, also where an earlier version made it", async () => {
  const server = await startNats();
  const bus = connectBus({ servers: server.url, name: "suite", instance: "suite" });
  try {
    await until(() => connected(bus), "it is connected");
    await bus.ensureStreams(streams, { replicas: 1 });
    const filter = "outbox.>";
    const config = {
      durable_name: "notifier",
      filter_subject: filter,
      deliver_policy: "all",
      ack_policy: "explicit",
      ack_wait: 30_000 * 1e6,
      max_deliver: -1,
      max_ack_pending: 1000,
    };
    await jetStreamApi(bus, `CONSUMER.CREATE.OUTBOX.notifier.${filter}`, { stream_name: "OUTBOX", config, action: "create" });
    for (let count = 0; count < 1050; count += 1) await publishRaw(bus, "outbox.chat", "{}");
    await publishRaw(bus, "outbox.pager", "{}");
    await until(async () => (await bus.info("OUTBOX")).messages === 1051, "all are there");
    const seen: string[] = [];
    bus.consumeQueue("notifier", { filter, ackWaitMs: 600_000, concurrency: 64 }, async ({ stored }) => {
      seen.push(stored.subject);
      return stored.subject === "outbox.pager" ? { kind: "done" } : { kind: "later", delayMs: 600_000 };
    });
    await until(() => seen.includes("outbox.pager"), "what came last is handed out");
    assert.ok(seen.length > 1050, `${seen.length}`);
  } finally {
    await bus.close();
    await server.stop();
  }
});

test("a handler that hangs is told after thirty seconds; its place goes to others long after its message did, so that the queue goes on", async () => {
  const server = await startNats();
  const bus = connectBus({ servers: server.url, name: "suite", instance: "suite" });
  try {
    await until(() => connected(bus), "it is connected");
    await bus.ensureStreams(streams, { replicas: 1 });
    const hung: number[] = [];
    const done: number[] = [];
    const release = Promise.withResolvers<void>();
    bus.consumeQueue("notifier", { filter: "outbox.>", ackWaitMs: 1000, concurrency: 2 }, async ({ stored, attempt }) => {
      if (stored.subject === "outbox.pager" && attempt === 1) {
        hung.push(stored.seq);
        await release.promise;
      } else done.push(stored.seq);
      return { kind: "done" };
    });
    for (let count = 0; count < 2; count += 1) await publishRaw(bus, "outbox.pager", "{}");
    await until(() => hung.length === 2, "both places are taken by handlers that hang");
    await publishRaw(bus, "outbox.chat", "{}");
    await until(() => busHealth(bus).slow.length > 0, "it is told that they hang", 60_000);
    assert.match(busHealth(bus).slow[0] ?? "", /one message of OUTBOX \(outbox\.>\) is being handled for more than 30 s/);
    assert.deepEqual(done, []);
    await until(() => done.length === 3, "what is behind them is handled, and so are their messages", 60_000);
    assert.equal(busHealth(bus).slow.length, 1, "they hang all the same");
    release.resolve();
    await until(() => busHealth(bus).slow.length === 0, "they have ended");
    await until(async () => (await bus.info("OUTBOX")).messages === 0, "nothing is left in the queue");
  } finally {
    await bus.close();
    await server.stop();
  }
});
