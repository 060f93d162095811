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
  const store = await startStore({ bus: connect("state-store-1"), redis: redisOfStore() });
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
  await fresh.configure("shop");
  await active("shop", "primary");
  await active("old", null);
  const reply = (await store.ask("state.get", { upstream: "shop" })) as { result: { epoch: number } };
  assert.equal(reply.result.epoch, 0);
  await fresh.move("shop", "secondary");
  await active("shop", "secondary");
});
