import assert from "node:assert/strict";
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, type TestContext, test } from "node:test";
import { type MemoryBroker, memoryBroker } from "@mcp-failover/bus";
import { memorySeams } from "@mcp-failover/bus/internal";
import { ownReadModel } from "@mcp-failover/domain";
import { patientMs, tempDir } from "@mcp-failover/testkit";
import type { Redis } from "ioredis";
import { openRedisViews } from "../src/redis-views.ts";
import { Log, redisForTests, type Store, startStore, until } from "./world.ts";

const { server, store: redisOfStore, client } = redisForTests("guarded");
let redis: Redis;
beforeEach(async () => {
  redis = client();
  await redis.flushall();
});

async function world(t: TestContext, upstreams: string[] = ["shop", "docs"]) {
  const broker = memoryBroker();
  const log = new Log(broker.connect());
  t.after(() => log.bus.close());
  await log.begin();
  await log.configure(...upstreams);
  const start = async (more: { dataDir?: string; instance?: string; broker?: MemoryBroker; cut?: boolean } = {}): Promise<Store> => {
    const bus = (more.broker ?? broker).connect();
    if (more.cut) memorySeams(bus).cut();
    const store = await startStore({ bus, redis: redisOfStore(), ...more });
    t.after(() => store.stop());
    return store;
  };
  return { broker, log, start };
}
const json = async (key: string) => JSON.parse((await redis.get(key)) ?? "null") as Record<string, unknown> | null;
const activeInRedis = (upstream: string, wanted: string | null, ms?: number) =>
  until(
    () => redis.get(`mcp:current:${upstream}`).catch(() => "redis is away"),
    (active) => active === wanted,
    ms,
  );
async function folder(t: TestContext): Promise<string> {
  const dir = await tempDir("mcpf-state-");
  t.after(() => dir.remove());
  return dir.path;
}

test("the keys and their lifetimes are those of the design", async (t) => {
  const { log, start } = await world(t);
  await start();
  await log.health("shop", "primary", "unhealthy");
  const seq = await log.move("shop", "secondary");
  await activeInRedis("shop", "secondary");
  const state = await until(
    () => json("mcp:state:shop"),
    (value) => value?.["seq"] === seq,
  );
  await until(
    () => redis.zcard("mcp:failover:index:shop"),
    (failovers) => failovers === 1,
  );
  assert.deepEqual(
    [state?.["service"], state?.["active"], state?.["epoch"], state?.["generation"], state?.["version"]],
    ["shop", "secondary", 1, 1, `1-${seq}`],
  );
  const [primary] = (state?.["endpoints"] ?? []) as { health: string }[];
  assert.equal(primary?.health, "unhealthy");
  assert.ok((await redis.ttl("mcp:state:shop")) > 3590 && (await redis.ttl("mcp:state:shop")) <= 3600);
  assert.equal(await redis.ttl("mcp:current:shop"), -1);
  const [key, ...more] = await redis.zrevrange("mcp:failover:index:shop", 0, -1);
  assert.deepEqual(more, []);
  assert.match(key ?? "", /^mcp:failover:shop:\d{13}$/);
  const week = 7 * 86_400;
  assert.ok((await redis.ttl(key ?? "")) > week - 10 && (await redis.ttl(key ?? "")) <= week);
  const record = await json(key ?? "");
  assert.deepEqual([record?.["service"], record?.["previousEndpoint"], record?.["currentEndpoint"]], ["shop", "primary", "secondary"]);
  assert.equal(await redis.get("mcp:current:docs"), "primary", "before the first decision, too");
  assert.deepEqual(
    (await redis.keys("*")).sort(),
    ["mcp:current:docs", "mcp:current:shop", "mcp:failover:index:shop", key, "mcp:meta", "mcp:state:docs", "mcp:state:shop"].sort(),
  );
});

test("history is newest first, bounded by the limit, the same in Redis; what is older than 7 days is not written; KEYS is never used", async (t) => {
  const { log, start } = await world(t);
  const store = await start();
  await redis.config("RESETSTAT");
  const day = 86_400_000;
  await redis.zadd("mcp:failover:index:shop", Date.now() - 8 * day, "mcp:failover:shop:expired");
  for (let index = 0; index < 6; index += 1) {
    await log.move("shop", index % 2 === 0 ? "secondary" : "primary", new Date(Date.now() - (10 - 2 * index) * day).toISOString());
  }
  const keys = await until(
    () => redis.zrevrange("mcp:failover:index:shop", 0, -1),
    ({ length }) => length === 4,
  );
  const inRedis = await Promise.all(keys.map(async (key) => (await json(key))?.["epoch"]));
  assert.deepEqual(inRedis, [6, 5, 4, 3]);
  const reply = await store.ask("state.history", { upstream: "shop", limit: 3 });
  const { failovers } = (reply as { result: { failovers: { epoch: number }[] } }).result;
  assert.deepEqual(
    failovers.map(({ epoch }) => epoch),
    [6, 5, 4],
  );
  const stats = await redis.info("commandstats");
  assert.match(stats, /cmdstat_eval/);
  assert.doesNotMatch(stats, /cmdstat_(keys|scan)/);
});

test("Redis that is killed and comes back empty is whole again in less than 5 s", async (t) => {
  const { log, start } = await world(t);
  const store = await start();
  await log.health("shop", "primary", "unhealthy");
  await log.move("shop", "secondary");
  await activeInRedis("shop", "secondary");
  await server().kill();
  await until(
    () => store.readiness().conditions["redis"]?.ok,
    (ok) => ok === false,
  );
  assert.equal(store.readiness().status === "not_ready", false, "without Redis it still answers");
  await log.move("docs", "secondary"); // Happens while Redis is away.
  await server().restart();
  const startMs = Date.now();
  await activeInRedis("shop", "secondary", 5000);
  await activeInRedis("docs", "secondary", 5000);
  await until(
    async () => [await redis.exists("mcp:state:shop", "mcp:state:docs", "mcp:meta"), await redis.zcard("mcp:failover:index:shop")],
    ([keys, failovers]) => keys === 3 && failovers === 1,
    5000,
  );
  assert.ok(Date.now() - startMs < patientMs(5000));
  await until(
    () => store.readiness().conditions["redis"]?.ok,
    (ok) => ok === true,
  );
});

test("Redis that comes back with what it had earlier is brought up to date, though its mark is there", async (t) => {
  const { log, start } = await world(t);
  await start();
  await activeInRedis("shop", "primary");
  await until(
    () => redis.exists("mcp:meta"),
    (there) => there === 1,
  );
  const earlier = { state: (await redis.get("mcp:state:shop")) ?? "", meta: (await redis.get("mcp:meta")) ?? "" };
  await log.move("shop", "secondary");
  await activeInRedis("shop", "secondary");
  // As after a restart from an older snapshot: its contents, and every connection broken.
  const { meta, state } = earlier;
  await redis.multi().flushdb().mset({ "mcp:state:shop": state, "mcp:current:shop": "primary", "mcp:meta": meta }).exec();
  await redis.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
  await activeInRedis("shop", "secondary", 5000);
});

test("with the log out of reach as well, an emptied Redis is whole again: from memory, and after a restart from the backup on disk", async (t) => {
  const { log, start } = await world(t);
  const dataDir = await folder(t);
  const store = await start({ dataDir });
  await log.health("shop", "primary", "unhealthy");
  const seq = await log.move("shop", "secondary");
  await activeInRedis("shop", "secondary");
  memorySeams(store.bus).cut();
  await redis.flushall();
  await activeInRedis("shop", "secondary", 5000);
  await until(
    async () => JSON.parse(await readFile(join(dataDir, "state-store", "read-model.json"), "utf8").catch(() => "{}"))?.model?.seq,
    (saved) => saved === seq,
  );
  await store.stop();
  await redis.flushall();
  const again = await start({ dataDir, cut: true });
  await activeInRedis("shop", "secondary", 5000);
  const status = (await again.ask("state.status")) as {
    result: { upstreams: { name: string; active: string; endpoints: { health: string }[] }[] };
  };
  const shop = status.result.upstreams.find(({ name }) => name === "shop");
  assert.deepEqual([shop?.active, shop?.endpoints[0]?.health], ["secondary", "unhealthy"]);
  const report = (await again.ask("state.health_report")) as { result: { services: { service: string; endpoint: string }[] } };
  assert.equal(report.result.services.find(({ service }) => service === "shop")?.endpoint, "secondary");
  await until(
    () => redis.zcard("mcp:failover:index:shop"),
    (failovers) => failovers === 1,
  );
  assert.equal((status.result as { backupUpToSeq?: number }).backupUpToSeq, seq, "nobody takes a backup for what is now");
  assert.match(again.readiness().conditions["audit"]?.reason ?? "", new RegExp(`showing the backup up to event ${seq} until`));
  // The log comes back: it goes on after the backup.
  await log.move("shop", "primary");
  memorySeams(again.bus).restore();
  await activeInRedis("shop", "primary");
});

test("a Redis that is emptied while everything is written to it is whole again", async (t) => {
  const upstreams = Array.from({ length: 100 }, (_, index) => `shop-${index}`);
  const { log, start } = await world(t, upstreams);
  await log.move("shop-0", "secondary");
  const store = await start();
  await activeInRedis("shop-99", "primary");
  memorySeams(store.bus).cut();
  // At one stroke, so that the mark cannot come between: the first is written, and not yet all. Where that moment was missed, another begins.
  const emptyHalfWritten = `
    local isWhole = redis.call('EXISTS', 'mcp:meta')
    if isWhole == 0 and redis.call('EXISTS', 'mcp:current:shop-0') == 0 then return 0 end
    redis.call('FLUSHDB')
    return 1 - isWhole`;
  for (let round = 0; round < 2; round += 1) {
    await redis.flushdb();
    const endMs = Date.now() + 15_000;
    while ((await redis.eval(emptyHalfWritten, 0)) !== 1) assert.ok(Date.now() < endMs, "nothing was written");
    await activeInRedis("shop-0", "secondary", 5000);
    await until(
      () => redis.exists(...upstreams.flatMap((name) => [`mcp:state:${name}`, `mcp:current:${name}`]), "mcp:meta"),
      (there) => there === 2 * upstreams.length + 1,
      5000,
    );
    assert.equal(await redis.zcard("mcp:failover:index:shop-0"), 1);
  }
  assert.equal(await redis.dbsize(), 2 * upstreams.length + 3, "nothing is left over from the writing");
});

test("a state-store that lags behind never overwrites what another one wrote later", async (t) => {
  const { log, start } = await world(t);
  const late = await start({ instance: "state-store-1" });
  await log.health("shop", "primary", "healthy");
  await activeInRedis("shop", "primary");
  await until(
    () => late.ask("state.status"),
    (reply) => JSON.stringify(reply).includes('"healthy"'),
  );
  memorySeams(late.bus).cut();
  await start({ instance: "state-store-2" });
  await log.move("shop", "secondary");
  await activeInRedis("shop", "secondary");
  // Both write everything.
  for (let round = 0; round < 3; round += 1) {
    await redis.del("mcp:meta");
    await until(
      () => redis.exists("mcp:meta"),
      (there) => there === 1,
    );
    assert.equal(await redis.get("mcp:current:shop"), "secondary");
    assert.equal((await json("mcp:state:shop"))?.["epoch"], 1);
  }
});

test("a backup with one altered byte is refused, said, and the log is folded instead", async (t) => {
  const { log, start } = await world(t);
  const dataDir = await folder(t);
  const store = await start({ dataDir });
  await log.move("shop", "secondary");
  await activeInRedis("shop", "secondary");
  await store.stop();
  const file = join(dataDir, "state-store", "read-model.json");
  const text = await readFile(file, "utf8");
  assert.ok(text.includes('"active":"secondary"'));
  await writeFile(file, text.replace('"active":"secondary"', '"active":"secondarz"'));
  await redis.flushall();
  const cut = await start({ dataDir, cut: true });
  const refused = { code: "not_ready", retriable: true };
  await assert.rejects(cut.ask("state.status"), refused, "better nothing than something else than was");
  memorySeams(cut.bus).restore();
  await activeInRedis("shop", "secondary");
});

test("what a crash left of a backup that was being written is gone once its instance starts again", async (t) => {
  const { start } = await world(t);
  const dataDir = await folder(t);
  const draft = join(dataDir, "state-store", "read-model.json.state-store-1.new");
  await mkdir(join(dataDir, "state-store"), { recursive: true });
  await writeFile(draft, "{");
  await start({ dataDir, cut: true });
  await assert.rejects(readFile(draft), { code: "ENOENT" });
});

test("a backup that cannot be read, as on a disk that fails, is said, and the log is folded instead", async (t) => {
  const { start } = await world(t);
  const dataDir = await folder(t);
  await mkdir(join(dataDir, "state-store", "read-model.json"), { recursive: true });
  const store = await start({ dataDir });
  await activeInRedis("shop", "primary");
  const { ok, reason } = (await until(
    () => store.readiness().conditions["disk_backup"],
    (condition) => condition !== undefined,
  )) as { ok: boolean; reason: string };
  assert.deepEqual([ok, reason.includes("EISDIR")], [false, true], reason);
});

test("another log than the backup's is folded anew, and what Redis has of the old one does not outrank it", async (t) => {
  const { log, start } = await world(t, ["shop", "old"]);
  const dataDir = await folder(t);
  const store = await start({ dataDir });
  for (let round = 0; round < 5; round += 1) await log.move("shop", round % 2 === 0 ? "secondary" : "primary");
  await log.move("old", "secondary");
  await activeInRedis("old", "secondary");
  await store.stop();
  const broker = memoryBroker();
  const fresh = new Log(broker.connect());
  t.after(() => fresh.bus.close());
  await fresh.begin();
  await fresh.configure("shop");
  await start({ dataDir, broker });
  await activeInRedis("shop", "primary");
  await until(
    () => json("mcp:state:shop"),
    (state) => state?.["epoch"] === 0,
  );
  await until(
    () => redis.exists("mcp:current:old", "mcp:state:old"),
    (there) => there === 0,
  );
  for (let round = 0; round < 20; round += 1) await fresh.health("shop", "primary", "healthy");
  await until(
    () => json("mcp:state:shop"),
    (state) => Number(state?.["seq"]) > 20,
  );
  // Without a backup, on another machine, too.
  const newer = memoryBroker();
  const third = new Log(newer.connect());
  t.after(() => third.bus.close());
  await third.begin();
  await third.configure("shop");
  await third.move("shop", "secondary");
  await start({ broker: newer, instance: "state-store-3" });
  await activeInRedis("shop", "secondary");
});

test("while the log is still being read nothing is answered as if it were known, and Redis keeps what it had: the past is not shown as what is now", async (t) => {
  const { broker, log, start } = await world(t);
  await log.configure("shop");
  await log.move("shop", "secondary");
  await log.configure("shop", "docs");
  const seq = await log.move("shop", "primary");
  const current = await start();
  await activeInRedis("docs", "primary");
  await until(
    () => redis.exists("mcp:meta"),
    (there) => there === 1,
  );
  await current.stop();
  const contents = async () => redis.mget("mcp:state:shop", "mcp:state:docs", "mcp:current:shop", "mcp:current:docs", "mcp:meta");
  const had = await contents();
  await redis.config("RESETSTAT");

  const bus = broker.connect();
  const follow = bus.follow.bind(bus);
  let sayCaughtUp: (() => void) | undefined;
  let folded = 0;
  bus.follow = (stream, { onCaughtUp, ...options }, handler) => {
    sayCaughtUp = onCaughtUp;
    return follow(stream, options, async (stored) => {
      await handler(stored);
      folded = stored.seq;
    });
  };
  const store = await startStore({ bus, redis: redisOfStore() });
  t.after(() => store.stop());
  const requests = [
    () => store.ask("state.status"),
    () => store.ask("state.health_report"),
    () => store.ask("state.get", { upstream: "shop" }),
    () => store.ask("state.history", { upstream: "shop", limit: 1 }),
  ];
  const refused = { code: "not_ready", retriable: true };
  for (const request of requests) await assert.rejects(request, refused, "before the first event");
  await until(
    () => folded,
    (upTo) => upTo === seq,
  );
  for (const request of requests) await assert.rejects(request, refused, "more of the log may follow");
  // It has looked at Redis more than once, and had every occasion to write.
  await until(
    async () => Number(/cmdstat_exists:calls=(\d+)/.exec(await redis.info("commandstats"))?.[1]),
    (looked) => looked >= 3,
  );
  assert.deepEqual(await contents(), had);
  assert.doesNotMatch(await redis.info("commandstats"), /cmdstat_(eval|set|del|multi):/);
  assert.deepEqual(await readdir(store.dataDir), [], "half a log is no backup");
  assert.equal(store.readiness().conditions["redis"]?.ok, true, "Redis is there");
  await log.move("shop", "secondary");
  sayCaughtUp?.();
  for (const request of requests) assert.equal((await request()).ok, true);
  await activeInRedis("shop", "secondary");
});

test("what another state-store wrote later is not removed by one that was told of the removal before", async (t) => {
  const { log, start } = await world(t);
  await start();
  await activeInRedis("docs", "primary");
  const later = JSON.stringify({ ...(await json("mcp:state:docs")), seq: 1000 });
  await redis.set("mcp:state:docs", later);
  const seq = await log.configure("shop");
  await until(
    () => json("mcp:state:shop"),
    (value) => value?.["seq"] === seq,
  );
  assert.deepEqual(await redis.mget("mcp:state:docs", "mcp:current:docs"), [later, "primary"]);
});

test("what changed is looked at and written, and nothing else, in a fleet of any size", async (t) => {
  const upstreams = Array.from({ length: 1000 }, (_, index) => `shop-${index}`);
  const { log } = await world(t, upstreams);
  const own = ownReadModel();
  for await (const { seq, subject, timeMs, content } of log.bus.read("AUDIT")) {
    if (content.kind === "event") own.fold({ seq, subject, timeMs, event: content.event });
  }
  const { topology } = own.model;
  assert.ok(topology !== null);
  const looked: PropertyKey[] = [];
  const watched = new Proxy(topology.upstreams, {
    ownKeys: () => assert.fail("all of them are walked through"),
    get: (all, name) => {
      looked.push(name);
      return Reflect.get(all, name);
    },
  });
  const { REDIS_URL, REDIS_CREDENTIALS_DIR } = redisOfStore();
  const views = openRedisViews(REDIS_URL, REDIS_CREDENTIALS_DIR ?? null);
  t.after(() => views.close());
  await new Promise<void>((resolve) => {
    views.onConnection((connected) => connected && resolve());
  });
  await views.write({ ...own.model, topology: { ...topology, upstreams: watched } }, ["shop-7", "gone"], []);
  assert.deepEqual(looked, ["shop-7"]);
  assert.deepEqual((await redis.keys("*")).sort(), ["mcp:current:shop-7", "mcp:state:shop-7"]);
});

test("an upstream that is not configured any more leaves Redis, and comes back with what was known of it", async (t) => {
  const { log, start } = await world(t);
  const store = await start();
  await log.move("docs", "secondary");
  await activeInRedis("docs", "secondary");
  await log.configure("shop");
  await activeInRedis("docs", null);
  assert.equal(await redis.exists("mcp:state:docs"), 0);
  await assert.rejects(store.ask("state.get", { upstream: "docs" }), /no upstream "docs" is configured; known: shop/);
  await log.configure("shop", "docs");
  await activeInRedis("docs", "secondary");
});

test("names that objects have of their own are upstreams like others", async (t) => {
  const { log, start } = await world(t, ["constructor"]);
  const store = await start();
  await activeInRedis("constructor", "primary");
  const before = (await store.ask("state.history", { upstream: "constructor", limit: 10 })) as { result: { failovers: unknown[] } };
  assert.deepEqual(before.result.failovers, []);
  await log.move("constructor", "secondary");
  await activeInRedis("constructor", "secondary");
  await assert.rejects(store.ask("state.history", { upstream: "toString", limit: 10 }), /no upstream "toString"/);
});
