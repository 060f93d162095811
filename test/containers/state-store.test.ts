import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { type Bus, connectBus } from "@mcp-failover/bus";
import { type StatusView, streams } from "@mcp-failover/contracts";
import { freePort } from "@mcp-failover/testkit";
import { Redis } from "ioredis";
import { Wait } from "testcontainers";
import { Log } from "../../services/state-store/test/world.ts";
import { until } from "../harness/wait.ts";
import { skip } from "./compose.ts";
import { type Contained, type ContainerWorld, composeService, containerWorld, startNatsIn } from "./container-world.ts";

/** A server that starts again reads its store first, on a machine that may be busy. */
const backMs = 120_000;

describe("the state-store's image between nats-server and Redis in containers", { skip, concurrency: false }, () => {
  let world: ContainerWorld;
  let nats: Awaited<ReturnType<typeof startNatsIn>>;
  let redis: Contained;
  let redisPort: number;
  let redisVolume: string;
  let store: Contained;
  let bus: Bus;
  let log: Log;
  let client: Redis;

  /** With an append-only file on a volume as in docker-compose.yml, but for users and TLS: whoever comes may do everything. */
  const startRedis = async (): Promise<void> => {
    redisVolume = await world.volume("redis");
    redis = await world.start({
      name: "redis",
      ...composeService("redis"),
      command: ["--dir", "/data", "--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--protected-mode", "no"],
      volumes: { [redisVolume]: "/data" },
      ports: { 6379: redisPort },
      ready: Wait.forLogMessage(/Ready to accept connections/i),
    });
  };
  /** Another Redis in its place, that has nothing. */
  const loseRedis = async (): Promise<void> => {
    await redis.remove();
    await world.removeVolume(redisVolume);
    await startRedis();
  };
  const inRedis = async (wanted: Readonly<Record<string, string>>): Promise<void> => {
    const names = Object.keys(wanted);
    await until(
      async () => {
        const [mark, ...found] = await client.mget("mcp:meta", ...names.map((name) => `mcp:current:${name}`));
        return mark !== null && names.every((name, index) => found[index] === wanted[name]);
      },
      backMs,
      `Redis is whole, and says ${JSON.stringify(wanted)}`,
    );
  };
  const status = async (): Promise<StatusView> => {
    const reply = await bus.request("state.status", {}, { timeoutMs: 5000 });
    if (!reply.ok) throw new Error(reply.error.message);
    return reply.result as StatusView;
  };
  const saysItself = (wanted: Readonly<Record<string, string>>): Promise<unknown> =>
    until(
      async () => {
        const { upstreams } = await status();
        return Object.entries(wanted).every(([name, active]) => upstreams.find((one) => one.name === name)?.active === active);
      },
      backMs,
      `the state-store says ${JSON.stringify(wanted)}`,
    );

  before(async () => {
    world = await containerWorld();
    redisPort = await freePort();
    // One after the other: where one fails both are removed, and whoever still waits for a removed one does so for minutes.
    nats = await startNatsIn(world);
    await startRedis();
    bus = connectBus({ servers: nats.url, name: "test", instance: "test" });
    await until(() => bus.status.kind === "connected", backMs, "the bus is connected");
    await bus.ensureStreams(streams, { replicas: 1 });
    log = new Log(bus);
    await log.begin();
    await log.configure("shop", "docs");
    client = new Redis({ host: "127.0.0.1", port: redisPort, retryStrategy: () => 200, maxRetriesPerRequest: 1 });
    client.on("error", () => undefined); // Its outages are what is tested.
    store = await world.start({
      name: "state-store",
      ...composeService("state-store"),
      env: { NATS_URL: nats.innerUrl, REDIS_URL: `redis://${world.hostOf("redis")}:6379` },
      volumes: { [await world.volume("state-store")]: "/data" },
      ready: Wait.forSuccessfulCommand("infra/docker/healthcheck.sh"),
    });
  });
  after(async () => {
    client?.disconnect();
    await bus?.close();
    await world?.stop();
  });

  test("what is decided is in Redis, and is answered over the bus", async () => {
    await log.health("shop", "primary", "unhealthy");
    await log.move("shop", "secondary");
    await inRedis({ shop: "secondary", docs: "primary" });
    await saysItself({ shop: "secondary", docs: "primary" });
    const [shop] = (await status()).upstreams.filter(({ name }) => name === "shop");
    assert.equal(shop?.endpoints.find(({ name }) => name === "primary")?.health, "unhealthy");
  });

  test("Redis killed: the state-store goes on answering, and when Redis is back with its file, it is told what it missed", async () => {
    await redis.kill();
    await log.move("docs", "secondary");
    await saysItself({ shop: "secondary", docs: "secondary" });
    await redis.start();
    await inRedis({ shop: "secondary", docs: "secondary" });
  });

  test("Redis lost with all that it had: the view is whole again, with what was decided meanwhile", async () => {
    const failovers = await client.zcard("mcp:failover:index:shop");
    assert.ok(failovers > 0);
    await redis.kill();
    await log.move("shop", "primary");
    await loseRedis();
    await inRedis({ shop: "primary", docs: "secondary" });
    await until(
      async () => (await client.zcard("mcp:failover:index:shop")) === failovers + 1,
      backMs,
      "the failovers of before are there as well",
    );
  });

  test("Redis lost, the bus away and the state-store killed: the view comes back from the backup on disk, and goes on with the bus", async () => {
    const { lastSeq } = await bus.info("AUDIT");
    await until(
      async () => {
        const file = "JSON.parse(require('fs').readFileSync('/data/state-store/read-model.json')).model.seq";
        return Number(await store.run(["node", "-p", file])) >= lastSeq;
      },
      backMs,
      `the backup has event ${lastSeq}`,
    );
    await nats.kill();
    await store.kill();
    await loseRedis();
    assert.equal(await client.get("mcp:meta").catch(() => null), null, "there is nothing that it could be read from but the backup");
    await store.start();
    await inRedis({ shop: "primary", docs: "secondary" });
    await nats.start();
    await saysItself({ shop: "primary", docs: "secondary" });
    await log.move("shop", "secondary");
    await inRedis({ shop: "secondary", docs: "secondary" });
  });
});
