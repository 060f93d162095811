import assert from "node:assert/strict";
import { cp } from "node:fs/promises";
import { join } from "node:path";
import { after, before, type TestContext, test } from "node:test";
import { type Bus, connectBus } from "@mcp-failover/bus";
import { jetStreamApi } from "@mcp-failover/bus/internal";
import { streams } from "@mcp-failover/contracts";
import { type RunningServer, startNats, tempDir } from "@mcp-failover/testkit";
import { Log, redisForTests, type Store, startStore, until } from "./world.ts";

const { store: redisOfStore, client } = redisForTests("open");
let nats: RunningServer;
before(async () => {
  nats = await startNats();
});
after(() => nats.stop());
const connect = (instance: string): Bus => connectBus({ servers: nats.url, name: instance, instance });

/** A state-store on a NATS of its own, whose streams a test may spoil; `seq`: of the configuration, the last of the log. */
async function ownServer(t: TestContext): Promise<{ bus: Bus; log: Log; seq: number; store: Store }> {
  const server = await startNats();
  t.after(() => server.stop());
  const [bus, storeBus] = ["test", "state-store-1"].map((name) => connectBus({ servers: server.url, name, instance: name })) as [Bus, Bus];
  t.after(() => bus.close());
  await until(
    () => bus.status.kind,
    (kind) => kind === "connected",
  );
  await bus.ensureStreams(streams, { replicas: 1 });
  const log = new Log(bus);
  await log.begin();
  const seq = await log.configure("shop");
  const store = await startStore({ bus: storeBus, redis: redisOfStore() });
  t.after(() => store.stop());
  return { bus, log, seq, store };
}

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

test("a bucket that takes no backup is said, with the reason, until it takes one", async (t) => {
  const { bus, log, store } = await ownServer(t);
  const condition = (wanted: boolean) =>
    until(
      () => store.readiness().conditions["bucket_backup"],
      (found) => found?.ok === wanted,
      15_000,
    );
  await condition(true);
  const { config } = await jetStreamApi<{ config: object }>(bus, "STREAM.INFO.KV_state-backup");
  await jetStreamApi(bus, "STREAM.UPDATE.KV_state-backup", { ...config, max_msg_size: 100 });
  await log.health("shop", "primary", "healthy");
  const refused = await condition(false);
  assert.match(refused?.reason ?? "", /state-backup/);
  await jetStreamApi(bus, "STREAM.UPDATE.KV_state-backup", config);
  await condition(true);
});

test("a status is told as that of a backup while NATS is there and the log cannot be read: nobody takes the past for what is now", async (t) => {
  const { bus, seq, store } = await ownServer(t);
  const upTo = async (body: object = {}): Promise<number | undefined | string> => {
    const answer = await store.ask("state.status", body).catch(({ code }: { code: string }) => code);
    return typeof answer === "string" ? answer : (answer as { result: { backupUpToSeq?: number } }).result.backupUpToSeq;
  };
  await until(upTo, (found) => found === undefined);
  await jetStreamApi(bus, "STREAM.DELETE.AUDIT");
  await until(upTo, (found) => found === seq, 20_000);
  assert.equal(await upTo({ page: {} }), seq);
  await bus.ensureStreams(streams, { replicas: 1 });
  await until(upTo, (found) => found === undefined, 20_000);
});

test("a log that was restored to an earlier place and went on otherwise is folded anew, and Redis with it: with a backup of the lost one, and without", async (t) => {
  const [lost, restored] = [await tempDir("mcpf-lost-"), await tempDir("mcpf-restored-")];
  const dataDir = await tempDir("mcpf-state-");
  t.after(() => Promise.all([lost, restored, dataDir].map((dir) => dir.remove())));
  const redis = client();
  await redis.flushall();
  const ends: (() => Promise<void>)[] = [];
  const stopAll = async () => {
    for (const end of ends.splice(0)) await end();
  };
  t.after(stopAll);
  const on = async (storeDir: string) => {
    const server = await startNats({ storeDir });
    const bus = connectBus({ servers: server.url, name: "test", instance: "test" });
    await until(
      () => bus.status.kind,
      (kind) => kind === "connected",
    );
    const store = async (dir: string): Promise<Store> => {
      const running = await startStore({
        bus: connectBus({ servers: server.url, name: "s", instance: "s" }),
        redis: redisOfStore(),
        dataDir: dir,
      });
      ends.unshift(running.stop);
      return running;
    };
    ends.unshift(
      () => bus.close(),
      () => server.stop(),
    );
    return { bus, store };
  };
  const keys = ["mcp:state:shop", "mcp:current:shop", "mcp:state:docs", "mcp:current:docs", "mcp:meta"] as const;
  const written = async (seq: number) =>
    until(
      async () => Object.entries(await redis.mget(...keys)).map(([, value]) => value),
      ([shop, , , , mark]) => JSON.parse(shop ?? "{}").seq === seq && mark !== null,
    );

  const first = await on(lost.path);
  await first.bus.ensureStreams(streams, { replicas: 1 });
  const log = new Log(first.bus);
  await log.begin();
  await log.configure("shop", "docs");
  await stopAll();
  await cp(lost.path, restored.path, { recursive: true });

  const second = await on(lost.path);
  const otherwise = new Log(second.bus);
  await second.store(dataDir.path);
  await written(2);
  for (let round = 0; round < 5; round += 1) await otherwise.health("docs", "primary", "healthy");
  const lostEnd = await otherwise.health("shop", "primary", "healthy");
  const ofTheLost = await written(lostEnd);
  await stopAll();

  const third = await on(restored.path);
  const inForce = new Log(third.bus);
  await inForce.health("shop", "primary", "unhealthy");
  await inForce.move("shop", "secondary");
  assert.ok((await inForce.health("docs", "secondary", "healthy")) < lostEnd);
  const shopOf = async (store: Store) => {
    const { result } = (await store.ask("state.get", { upstream: "shop" })) as {
      result: { active: string; endpoints: { health: string }[] };
    };
    return [result.active, result.endpoints[0]?.health];
  };
  const follows = async (dir: string): Promise<void> => {
    const store = await third.store(dir);
    await until(
      async () => JSON.parse((await redis.get("mcp:state:shop")) ?? "{}").endpoints?.[0]?.health,
      (health) => health === "unhealthy",
    );
    assert.deepEqual(await redis.mget("mcp:current:shop", "mcp:current:docs"), ["secondary", "primary"]);
    assert.deepEqual(await shopOf(store), ["secondary", "unhealthy"]);
    await store.stop();
  };
  // On another host, while the log in force is shorter than the lost one was.
  await follows(join(dataDir.path, "another-host"));
  await redis.mset(Object.fromEntries(keys.map((key, index) => [key, ofTheLost[index] ?? ""])));
  while ((await inForce.health("docs", "secondary", "healthy")) <= lostEnd);
  await follows(dataDir.path);
});
