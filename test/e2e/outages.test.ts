import assert from "node:assert/strict";
import { after, before, describe, type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { residentServices } from "@mcp-failover/contracts";
import { type RunningServer, startNats, startRedis } from "@mcp-failover/testkit";
import { Redis } from "ioredis";
import { failuresOf, type Load, startLoad } from "../harness/load.ts";
import { type RunningStack, startStack } from "../harness/stack.ts";
import { until } from "../harness/wait.ts";

/** The test owns nats-server and redis-server, and with them their outages. */
describe("parts of the system itself die under load", { concurrency: false }, () => {
  let nats: RunningServer;
  let redisServer: RunningServer;
  let stack: RunningStack;
  before(async () => {
    nats = await startNats();
    redisServer = await startRedis();
    stack = await startStack({ natsUrl: nats.url, redisUrl: redisServer.url });
  });
  after(async () => {
    await stack?.stop();
    await redisServer?.stop();
    await nats?.stop();
  });

  const startEcho = async (t: TestContext): Promise<Load> => {
    const load = await startLoad({
      url: `${stack.routerUrl}/mcp/everything`,
      tool: "echo",
      args: (n) => ({ message: `call ${n}` }),
      check: (result, n) => (JSON.stringify(result).includes(`call ${n}`) ? null : `not the answer to call ${n}`),
      callsPerSecond: 50,
    });
    t.after(() => load.stop());
    return load;
  };
  const allReady = async (): Promise<void> => {
    await until(
      async () => {
        const processes = await stack.processes();
        return processes.every(({ state }) => state === "running");
      },
      30_000,
      "every process runs again",
    );
    await until(
      async () => {
        const said = (await stack.bus.services({ examine: true })).map(({ metadata }) => metadata);
        return ["router-1", "router-2"].every((name) =>
          said.some(({ instance, readiness }) => instance === name && readiness !== undefined),
        );
      },
      30_000,
      "both routers serve again",
    );
    await until(
      async () => (await stack.status()).upstreams.every(({ endpoints }) => endpoints.every(({ health }) => health === "healthy")),
      30_000,
      "all is healthy",
    );
  };

  test("each of our own services is killed in turn: it comes back, and no call fails but those that a killed router held", async (t) => {
    const load = await startEcho(t);
    await until(
      () => load.report().ok > 20,
      10_000,
      () => failuresOf(load.report()),
    );
    const names = (await stack.processes()).filter(({ kind }) => kind === "service").map(({ name }) => name);
    assert.ok(names.length >= 12, names.join(", "));
    for (const name of names.filter((one) => !one.startsWith("router") && one !== "fault-proxy")) {
      const pid = await stack.pidOf(name);
      process.kill(pid, "SIGKILL");
      await until(
        async () => {
          const found = (await stack.processes()).find((one) => one.name === name);
          return found?.state === "running" && found.pid !== pid && found.pid !== null;
        },
        15_000,
        `${name} runs again`,
      );
    }
    assert.equal(load.report().failed.length, 0, failuresOf(load.report()));

    for (const name of ["router-1", "router-2"]) {
      const before = load.report();
      await stack.killProcess(name);
      const killedMs = Date.now();
      // What was sent until then and has no answer: on a busy machine more is sent while it is being killed.
      const then = load.report();
      const held = then.sent - then.ok - before.failed.length;
      await sleep(3000);
      const failed = load.report().failed.slice(before.failed.length);
      // A call that the router had read may have run: it is not sent again. All others went to the other process on the port.
      assert.ok(failed.length <= held + 4, `${name}: ${failed.length} failed, and it held at most ${held}: ${failuresOf(load.report())}`);
      assert.deepEqual(
        failed.filter(({ atMs }) => atMs > killedMs + 500),
        [],
        `${name}: calls that began after its death`,
      );
      // Before the other one is killed: on a busy machine it takes longer than that.
      await allReady();
    }
    await load.stop();
  });

  test("nats-server is killed for 20 s: no call fails, every service goes on, and nothing is decided twice", async (t) => {
    const load = await startEcho(t);
    await until(() => load.report().ok > 20, 10_000);
    await nats.kill();
    await sleep(20_000);
    assert.equal(load.report().failed.length, 0, failuresOf(load.report()));
    await nats.restart();
    await until(async () => (await stack.status()).upstreams.length > 0, 15_000, "the state-store answers again");
    await until(
      async () => {
        const names = new Set((await stack.bus.services({ timeoutMs: 500 })).map(({ name }) => name));
        return residentServices.every((name) => names.has(name));
      },
      20_000,
      "every service is back on the bus",
    );

    // It decides again: the primary is killed, and the fleet moves.
    const epochs = async () => Object.fromEntries((await stack.status()).upstreams.map(({ name, epoch }) => [name, epoch]));
    const before = await epochs();
    await stack.killProcess("everything-primary");
    await until(async () => ((await epochs())["everything"] ?? 0) > (before["everything"] ?? 0), 15_000, "the failover after the outage");
    await sleep(1000);
    const report = await load.stop();
    assert.equal(report.failed.length, 0, failuresOf(report));
    const verified = (await stack.mcpf(["events", "verify", "-o", "json"])).json();
    assert.deepEqual(verified.problems, [], "no decision twice, no epoch left out");
  });

  test("Redis killed and started empty is whole again within 5 s; with the log out of reach too, from the backup on disk", async () => {
    const current = async (): Promise<string | null> => {
      const redis = new Redis(redisServer.url, { maxRetriesPerRequest: 1, retryStrategy: () => null, lazyConnect: true });
      redis.on("error", () => undefined); // The condition below is asked again.
      try {
        await redis.connect();
        const [active, state, history] = [
          await redis.get("mcp:current:everything"),
          await redis.exists("mcp:state:everything", "mcp:state:warehouse"),
          await redis.zcard("mcp:failover:index:everything"),
        ];
        return state === 2 && history > 0 ? active : null;
      } finally {
        redis.disconnect();
      }
    };
    const active = (await stack.status()).upstreams.find(({ name }) => name === "everything")?.active;
    const startEmpty = async (): Promise<void> => {
      await redisServer.kill();
      await redisServer.restart();
      const redis = new Redis(redisServer.url);
      await redis.flushall();
      redis.disconnect();
    };
    await startEmpty();
    assert.equal(await until(current, 5000, "Redis is whole again"), active);

    await sleep(1500); // The backup follows the log within a second.
    const statePid = await stack.pidOf("state-store-1");
    await nats.kill();
    try {
      // A state-store that starts anew without the log has nothing but its backup.
      process.kill(statePid, "SIGKILL");
      await startEmpty();
      assert.equal(await until(current, 5000, "Redis is whole again from the backup"), active);
    } finally {
      await nats.restart();
    }
    await until(async () => (await stack.status()).upstreams.length > 0, 15_000);
  });
});
