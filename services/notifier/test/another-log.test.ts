import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type Bus, connectBus } from "@mcp-failover/bus";
import { jetStreamApi } from "@mcp-failover/bus/internal";
import { streams } from "@mcp-failover/contracts";
import { startNats } from "@mcp-failover/testkit";
import { until, World } from "./world.ts";

const moved = "opened shop failed over from primary to secondary";
const taken = (one: World, count: number): Promise<string[]> =>
  until(
    () => one.taken,
    ({ length }) => length >= count,
    20_000,
  );

async function onNats(t: TestContext): Promise<World> {
  const server = await startNats();
  t.after(() => server.stop());
  const one = await new World((): Bus => connectBus({ servers: server.url, name: "test", instance: "test" })).open(t);
  await until(
    () => one.bus.status.kind,
    (kind) => kind === "connected",
  );
  await one.bus.ensureStreams(streams, { replicas: 1 });
  return one;
}
const loseLog = async (one: World): Promise<void> => {
  await jetStreamApi(one.bus, "STREAM.DELETE.AUDIT");
  await one.bus.ensureStreams(streams, { replicas: 1 });
};

test("what happens at the same place of the log that was made after one was lost is told, under ids of its own", async (t) => {
  const one = await onNats(t);
  await one.configure();
  await one.healthy();
  await one.start(t);
  const before = await one.executed("secondary");
  await taken(one, 1);
  await until(
    async () => (await one.events("notify.sent")).length + (await one.events("incident.changed")).length,
    (stored) => stored === 4, // All that is said of it, so that nothing comes late, into the next log.
  );
  await loseLog(one);
  await one.configure();
  await one.healthy();
  assert.equal(await one.executed("secondary"), before);
  assert.deepEqual(await taken(one, 2), [moved, moved]);
  const ids = one.received.map(({ id }) => id);
  assert.equal(new Set(ids).size, 2, ids.join(" "));
  await sleep(1500);
  assert.equal(one.received.length, 2);
});

test("a log that takes the place of a lost one is judged once it is read to its end, and silences of the lost one mute nothing", async (t) => {
  const one = await onNats(t);
  await one.configure();
  await one.healthy();
  await one.start(t);
  const by = { kind: "operator", id: "ann" } as const;
  const reply = await one.bus.request("command.silence", { commandId: "s", by, reason: "r", target: "shop", forMs: 600_000 });
  assert.ok(reply.ok, JSON.stringify(reply));
  assert.match((await taken(one, 1))[0] ?? "", /^silenced/);
  await loseLog(one);
  await one.configure();
  await one.healthy();
  await one.failing(true);
  assert.equal((await taken(one, 2))[1], "opened shop has no healthy endpoint to go to");
});
