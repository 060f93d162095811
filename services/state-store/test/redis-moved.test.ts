import assert from "node:assert/strict";
import { connect, createServer, type Socket } from "node:net";
import { type TestContext, test } from "node:test";
import { memoryBroker } from "@mcp-failover/bus";
import { type RunningServer, startRedis } from "@mcp-failover/testkit";
import { Redis } from "ioredis";
import { Log, startStore, until } from "./world.ts";

/** One address of Redis, as a name, a virtual address or a managed service is one: new connections go where it points, old ones stay where they are. */
async function frontOf(
  t: TestContext,
  first: RunningServer,
): Promise<{ url: string; pointTo(server: RunningServer): void; dials(): number }> {
  let { port } = first;
  let dials = 0;
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    dials += 1;
    const redis = connect({ host: "127.0.0.1", port });
    for (const [socket, other] of [
      [client, redis],
      [redis, client],
    ] as const) {
      sockets.add(socket);
      socket.on("error", () => other.destroy());
      socket.on("close", () => other.destroy());
      socket.pipe(other);
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  const address = server.address();
  return {
    url: `redis://127.0.0.1:${typeof address === "object" && address !== null ? address.port : 0}`,
    pointTo: (server) => {
      ({ port } = server);
    },
    dials: () => dials,
  };
}

/** A state-store that has written to the first of two, behind one address. */
async function world(t: TestContext) {
  const [first, second] = [await startRedis(), await startRedis()];
  t.after(() => Promise.all([first.stop(), second.stop()]));
  const [inFirst, inSecond] = [first, second].map(({ url }) => {
    const client = new Redis(url, { retryStrategy: () => 50 });
    client.on("error", () => undefined);
    t.after(() => client.disconnect());
    return client;
  }) as [Redis, Redis];
  const front = await frontOf(t, first);
  const broker = memoryBroker();
  const log = new Log(broker.connect());
  t.after(() => log.bus.close());
  await log.begin();
  await log.configure("shop");
  const store = await startStore({ bus: broker.connect(), redis: { REDIS_URL: front.url } });
  t.after(() => store.stop());
  const active = (client: Redis, wanted: string, ms?: number) =>
    until(
      () => client.get("mcp:current:shop"),
      (found) => found === wanted,
      ms,
    );
  await active(inFirst, "primary");
  return { first, second, inFirst, inSecond, front, log, store, active };
}

test("a Redis that hangs, while its address leads to another one by now, is left: what the log says stands in that one", async (t) => {
  const { first, second, inSecond, front, log, active, store } = await world(t);
  process.kill(first.pid, "SIGSTOP");
  try {
    front.pointTo(second);
    await log.move("shop", "secondary");
    await active(inSecond, "secondary", 15_000);
    await until(
      () => store.readiness().conditions["redis"]?.ok,
      (ok) => ok === true,
    );
  } finally {
    await first.kill();
  }
});

test("a Redis that became a replica, while its address leads to the one that takes writes by now, is left: what the log says stands in that one", async (t) => {
  const { first, second, inFirst, inSecond, front, log, active, store } = await world(t);
  front.pointTo(second);
  await inFirst.call("REPLICAOF", "127.0.0.1", String(second.port));
  await log.move("shop", "secondary");
  await active(inSecond, "secondary", 15_000);
  await until(
    () => store.readiness().conditions["redis"]?.ok,
    (ok) => ok === true,
  );
  // Where nobody takes writes it is asked again, and not dialled without end.
  front.pointTo(first);
  await inSecond.call("REPLICAOF", "127.0.0.1", String(first.port));
  const before = front.dials();
  await log.move("shop", "primary");
  await until(
    () => store.readiness().conditions["redis"]?.reason ?? "",
    (reason) => reason.includes("READONLY"),
  );
  await new Promise((resolve) => setTimeout(resolve, 3000));
  assert.ok(front.dials() - before <= 6, `${front.dials() - before} connections`);
  await inFirst.call("REPLICAOF", "NO", "ONE");
  await active(inFirst, "primary", 15_000);
});
