import assert from "node:assert/strict";
import { describe, type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { memorySeams } from "@mcp-failover/bus/internal";
import type { Event, Notification } from "@mcp-failover/contracts";
import { until, World } from "./world.ts";

const by = { kind: "operator", id: "ann" } as const;
const reason = "its provider moves house";
let orders = 0;
const silence = async (one: World, more: { target?: string; forMs?: number | null; commandId?: string; untilMs?: number } = {}) => {
  orders += 1;
  const reply = await one.bus.request("command.silence", { commandId: `s-${orders}`, by, reason, target: "shop", forMs: 60_000, ...more });
  return reply.ok ? (reply.result as { id: string; until: string; status: string }) : reply.error.code;
};
const unsilence = async (one: World, target = "shop") => {
  orders += 1;
  const reply = await one.bus.request("command.unsilence", { commandId: `u-${orders}`, by, reason: "it stays", target });
  return reply.ok ? (reply.result as { status: string }).status : reply.error.code;
};
const world = async (t: TestContext, channels?: readonly object[]): Promise<World> => {
  const one = await new World().open(t);
  await one.configure(channels);
  await one.healthy();
  return one;
};
const taken = (one: World, count: number): Promise<string[]> =>
  until(
    () => one.taken,
    ({ length }) => length >= count,
  );
const silences = async (one: World) => (await one.events("notify.silenced")).map((event) => (event as Event<"notify.silenced">).data);
const deadEnd = "opened shop has no healthy endpoint to go to";
const ended = "unsilenced shop is not silenced any more";

describe("a silence", { concurrency: 8 }, () => {
  test("mutes an upstream until its time, is told once, and so is its end, and what is still wrong then, by two notifiers", async (t) => {
    const one = await world(t);
    await one.start(t, "notifier-1");
    await one.start(t, "notifier-2");
    const given = await silence(one, { forMs: 4000 });
    assert.ok(typeof given === "object");
    const begun = `silenced shop is silenced until ${given.until}`;
    assert.deepEqual(await taken(one, 1), [begun]);
    assert.match(one.received[0]?.text ?? "", /^silenced by ann until .+: its provider moves house\n/);
    await one.failing(true);
    await sleep(2500);
    assert.deepEqual(one.taken, [begun], "and what happens is told nobody");
    assert.equal((await one.events("incident.changed")).length > 0, true, "it is on record");
    const all = await taken(one, 3);
    assert.deepEqual([...all.slice(1)].sort(), [deadEnd, ended].sort());
    await sleep(2500); // Long enough for one to take over what the other has told already.
    assert.equal(one.received.length, 3);
    const [last] = (await silences(one)).slice(-1);
    assert.deepEqual([last?.status, last?.telling, last?.endedBy, last?.by, last?.reason], ["ended", null, null, by, reason]);
  });

  test("what was over by its end is told nobody, and the end of what was told before is told meanwhile", async (t) => {
    const one = await world(t);
    await one.start(t);
    await one.health("primary", "unhealthy");
    await taken(one, 1);
    await silence(one, { forMs: 60_000 });
    await taken(one, 2);
    await one.health("primary", "healthy");
    assert.match((await taken(one, 3))[2] ?? "", /^resolved Resolved: shop/);
    await one.failing(true);
    await one.failing(false);
    await until(
      async () => (await one.events("incident.changed")).map((event) => (event as Event<"incident.changed">).data).at(-1),
      (incident) => incident?.status === "resolved" && incident.notifyAtMs === null,
    );
    assert.equal(await unsilence(one), "ended");
    assert.equal((await taken(one, 4))[3], ended);
    await sleep(1000);
    assert.equal(one.received.length, 4);
    assert.match(one.received[3]?.text ?? "", /^ended by ann: it stays\n/);
  });

  test("of an upstream it mutes its tools, of a tool that tool alone, and nothing else", async (t) => {
    const one = await new World().open(t);
    const legacy = { url: "http://127.0.0.1:9/" };
    await one.configure(undefined, { tools: { stock: { legacy }, price: { legacy } } });
    await one.healthy();
    await one.start(t);
    await silence(one, { target: "rollback/tool/stock" });
    await taken(one, 1);
    await one.rolledBack("stock");
    await one.rolledBack("price");
    await one.failing(true);
    const all = await until(
      () => one.taken.slice(1).sort(),
      ({ length }) => length >= 2,
    );
    assert.deepEqual(all, [deadEnd, "opened the tool price was rolled back to its legacy implementation"].sort());
    await one.failing(false);
    await taken(one, 4);
    await silence(one);
    await taken(one, 5);
    await one.rollback("paused", "price");
    await sleep(1000);
    assert.equal(one.received.length, 5);
  });

  test("outlives the notifier: who starts anew mutes what is silenced, and ends what is over", async (t) => {
    const one = await world(t);
    const first = await one.start(t);
    await silence(one, { forMs: 6000 });
    await taken(one, 1);
    await first.stop();
    await one.failing(true);
    await one.start(t, "notifier-2");
    await sleep(1500);
    assert.equal(one.received.length, 1);
    assert.deepEqual((await taken(one, 3)).slice(1).sort(), [deadEnd, ended].sort());
  });

  test("whose telling died with its notifier is told by another one", async (t) => {
    const one = await world(t);
    const { bus, stop } = await one.start(t);
    const append = bus.append.bind(bus);
    bus.append = (event) => (event.type === "outbox" ? new Promise(() => undefined) : append(event));
    await silence(one);
    await until(
      () => silences(one),
      ({ length }) => length === 1,
    );
    memorySeams(bus).cut();
    void stop();
    await one.start(t, "notifier-2");
    assert.match((await taken(one, 1))[0] ?? "", /^silenced shop is silenced until/);
    await sleep(1000);
    assert.equal(one.received.length, 1);
  });

  test("is refused for what is not there, without an end, for too long, and for another command's id; a repeat gets the first answer", async (t) => {
    const one = await world(t);
    await one.start(t);
    assert.deepEqual(
      [
        await silence(one, { target: "shp" }),
        await silence(one, { forMs: null }),
        await silence(one, { forMs: null, untilMs: Date.now() - 1000 }),
        await silence(one, { forMs: 31 * 86_400_000 }),
        await unsilence(one),
      ],
      ["unknown_target", "bad_request", "until_over", "bad_request", "not_silenced"],
    );
    const given = await silence(one, { commandId: "one" });
    assert.deepEqual(await silence(one, { commandId: "one" }), given);
    const reused = await one.bus.request("command.unsilence", { commandId: "one", by, reason, target: "shop" });
    assert.equal(reused.ok ? "ok" : reused.error.code, "command_id_reused");
    await taken(one, 1);
    await sleep(500);
    assert.equal(one.received.length, 1);
    const accepted = (await one.events("command.accepted")).map((event) => (event as Event<"command.accepted">).data);
    assert.deepEqual(accepted.find(({ commandId }) => commandId === "one")?.parameters, { target: "shop", forMs: 60_000, untilMs: null });
  });

  test("ends where nobody hears notifications, too, and pages come again", async (t) => {
    const one = await new World().open(t);
    await one.configure([one.webhook({ severities: ["page"] })]);
    await one.healthy();
    await one.start(t);
    await silence(one, { forMs: 2000 });
    await one.failing(true);
    await sleep(1000);
    assert.deepEqual(one.received, []);
    assert.deepEqual(await taken(one, 1), [deadEnd]);
    const outbox = one.received.map(({ kind }) => kind as Notification["kind"]);
    assert.deepEqual(outbox, ["opened"]);
  });
});
