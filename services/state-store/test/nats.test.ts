import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { type Bus, connectBus } from "@mcp-failover/bus";
import { jetStreamApi } from "@mcp-failover/bus/internal";
import { streams } from "@mcp-failover/contracts";
import { type RunningServer, startNats } from "@mcp-failover/testkit";
import { Log, redisForTests, startStore, until } from "./world.ts";

const { store: redisOfStore, client } = redisForTests("open");
let nats: RunningServer;
before(async () => {
  nats = await startNats();
});
after(() => nats.stop());
const connect = (instance: string): Bus => connectBus({ servers: nats.url, name: instance, instance });

/** Withholds from who follows on this bus that it has read another log to its end. */
function holdTheEndOfTheNextLog(bus: Bus): { folded(): number; letGo(): void } {
  const follow = bus.follow.bind(bus);
  const { promise, resolve } = Promise.withResolvers<void>();
  let upTo = Number.POSITIVE_INFINITY;
  bus.follow = (stream, { onCaughtUp, onAnotherLog, ...options }, handler) =>
    follow(
      stream,
      {
        ...options,
        onCaughtUp: () => void (upTo === Number.POSITIVE_INFINITY ? onCaughtUp?.() : promise.then(() => onCaughtUp?.())),
        onAnotherLog: () => {
          upTo = 0;
          onAnotherLog?.();
        },
      },
      async (stored) => {
        await handler(stored);
        if (upTo !== Number.POSITIVE_INFINITY) upTo = stored.seq;
      },
    );
  return { folded: () => upTo, letGo: resolve };
}

test("on NATS: folded as it comes, backed up in the bucket, and folded anew when the log is replaced while it runs", async (t) => {
  const bus = connect("test");
  t.after(() => bus.close());
  await until(
    () => bus.status.kind,
    (kind) => kind === "connected",
  );
  await bus.ensureStreams(streams, { replicas: 1 });
  const log = new Log(bus);
  await log.begin();
  await log.configure("shop", "old");
  const redis = client();
  const active = (upstream: string, wanted: string | null) =>
    until(
      () => redis.get(`mcp:current:${upstream}`),
      (found) => found === wanted,
    );
  const storeBus = connect("state-store-1");
  const held = holdTheEndOfTheNextLog(storeBus);
  const store = await startStore({ bus: storeBus, redis: redisOfStore() });
  t.after(() => store.stop());
  for (let round = 0; round < 4; round += 1) await log.move("shop", round % 2 === 0 ? "secondary" : "primary");
  await log.move("old", "secondary");
  await active("old", "secondary");
  const bucket = await bus.bucket("state-backup", { maxValueBytes: 900 * 1024 });
  await until(
    async () => (await bucket.get("read-model"))?.value.includes('"old"') ?? false,
    (kept) => kept,
    10_000,
  );

  await jetStreamApi(bus, "STREAM.DELETE.AUDIT");
  await bus.ensureStreams(streams, { replicas: 1 });
  const fresh = new Log(bus);
  await fresh.begin();
  const seq = await fresh.configure("shop");
  await until(held.folded, (upTo) => upTo === seq);
  await assert.rejects(store.ask("state.status"), { code: "not_ready" }, "more of the other log may follow");
  assert.equal(store.readiness().conditions["audit"]?.ok, false);
  assert.equal(await redis.get("mcp:current:old"), "secondary", "Redis has the former state until all is folded");
  held.letGo();
  await active("shop", "primary");
  await active("old", null);
  const reply = (await store.ask("state.get", { upstream: "shop" })) as { result: { epoch: number } };
  assert.equal(reply.result.epoch, 0);
  await fresh.move("shop", "secondary");
  await active("shop", "secondary");
});
