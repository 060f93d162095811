import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { type Bus, BusError, connectBus, type Fenced } from "@mcp-failover/bus";
import { streams, subjectFor } from "@mcp-failover/contracts";
import { becomes } from "@mcp-failover/testkit";
import { idOf, note, numberOf } from "../../packages/bus/test/behaviour/world.ts";
import { until } from "../harness/wait.ts";
import { skip } from "./compose.ts";
import { type ContainerWorld, containerWorld, startNatsIn } from "./container-world.ts";

/** A server that starts again reads its store first, on a machine that may be busy. */
const backMs = 120_000;

/**
 * Where one's own event stands. After an attempt of which nothing was known a further one may find that it is there already: lost to
 * oneself.
 */
function placeOf(outcome: Fenced, id: string): number {
  if (outcome.outcome === "won") return outcome.seq;
  assert.equal(outcome.last === null ? null : idOf(outcome.last), id, "nobody else writes here");
  return outcome.last?.seq ?? -1;
}

describe("the bus on nats-server in a container", { skip, concurrency: false }, () => {
  let world: ContainerWorld;
  let nats: Awaited<ReturnType<typeof startNatsIn>>;
  const buses: Bus[] = [];
  const connect = async (name: string): Promise<Bus> => {
    const bus = connectBus({ servers: nats.url, name, instance: name });
    buses.push(bus);
    await until(() => bus.status.kind === "connected", backMs, `${name} is connected`);
    return bus;
  };
  /** All of one channel, in the order of the log. */
  const stored = async (bus: Bus, channel: string): Promise<{ id: string; n: number }[]> => {
    const found: { id: string; n: number }[] = [];
    for await (const one of bus.read("AUDIT", { filter: subjectFor("notify.sent", channel) })) {
      found.push({ id: idOf(one), n: numberOf(one) });
    }
    return found;
  };
  const follow = (bus: Bus, channel: string): { heard: number[]; stop(): Promise<void> } => {
    const heard: number[] = [];
    const following = bus.follow("AUDIT", { from: { seq: 1 }, filter: subjectFor("notify.sent", channel) }, (one) => {
      heard.push(numberOf(one));
    });
    return { heard, stop: async () => following.stop() };
  };
  /** Stores one event after the other under the fence, each until it is known to be there, and goes on until it is told to stop. */
  const writeUnderFence = (bus: Bus, channel: string) => {
    const acknowledged: number[] = [];
    let unknown = 0;
    let stopped = false;
    const done = (async () => {
      let expected = (await bus.lastOf("AUDIT", subjectFor("notify.sent", channel)))?.seq ?? 0;
      for (let n = 1; !stopped; n += 1) {
        const event = note(channel, n, `${channel}/${n}`);
        for (let known = false; !known; ) {
          try {
            expected = placeOf(await bus.appendFenced(event, expected, { timeoutMs: 2000 }), event.id);
            known = true;
          } catch (error) {
            if (!(error instanceof BusError) || !error.retriable) throw error;
            unknown += 1; // The same event with the same expectation again: it is settled then.
          }
        }
        acknowledged.push(n);
      }
    })();
    let problem: unknown = null;
    done.catch((error: unknown) => {
      problem = error;
    });
    return {
      /** Waits until so many more are stored. */
      async more(count: number): Promise<void> {
        const before = acknowledged.length;
        await until(
          () => problem !== null || acknowledged.length >= before + count,
          backMs,
          () => `${count} more are stored after ${before}; ${unknown} times the outcome was unknown`,
        );
        if (problem !== null) throw problem;
      },
      acknowledged,
      async stop() {
        stopped = true;
        await done;
      },
    };
  };

  before(async () => {
    world = await containerWorld();
    nats = await startNatsIn(world);
    await (await connect("bootstrap")).ensureStreams(streams, { replicas: 1 });
  });
  after(async () => {
    await Promise.all(buses.map((bus) => bus.close()));
    await world?.stop();
  });

  test("of eight racers with one expectation exactly one wins, and the others are told who did", async () => {
    const racers = await Promise.all(Array.from({ length: 8 }, (_, index) => connect(`racer-${index}`)));
    let expected = 0;
    for (let round = 0; round < 20; round += 1) {
      const outcomes = await Promise.all(
        racers.map((bus, index) => bus.appendFenced(note("race", round, `${round}/${index}`), expected, { timeoutMs: 60_000 })),
      );
      const winners = outcomes.flatMap((outcome, index) => (outcome.outcome === "won" ? [{ index, seq: outcome.seq }] : []));
      assert.equal(winners.length, 1, `round ${round}`);
      for (const outcome of outcomes) {
        if (outcome.outcome === "lost") assert.equal(idOf(outcome.last), `${round}/${winners[0]?.index}`);
      }
      expected = winners[0]?.seq ?? -1;
    }
    assert.equal((await stored(racers[0] as Bus, "race")).length, 20);
  });

  test("what is stored twice under one id is there once, also when the server was killed between", async () => {
    const bus = await connect("repeater");
    const first = await bus.append(note("repeat", 1, "the-same"));
    assert.deepEqual(await bus.append(note("repeat", 1, "the-same")), { seq: first.seq, duplicate: true });
    await nats.kill();
    await nats.start();
    await until(async () => (await bus.append(note("repeat", 1, "the-same"))).duplicate, backMs, "the server is back, and knows the id");
    assert.deepEqual(await stored(bus, "repeat"), [{ id: "the-same", n: 1 }]);
  });

  test("the server killed and back, twice, under a writer: nothing acknowledged is lost, nothing is there twice, a follower hears all in order", async () => {
    const [writing, reading] = [await connect("writer"), await connect("reader")];
    const follower = follow(reading, "killed");
    const writer = writeUnderFence(writing, "killed");
    const more = async (count: number): Promise<void> => {
      const before = writer.acknowledged.length;
      await until(
        () => writer.acknowledged.length >= before + count,
        backMs,
        () => `${count} more are stored after ${before}`,
      );
    };
    await more(20);
    for (let round = 0; round < 2; round += 1) {
      await nats.kill();
      await nats.start();
      await more(20);
    }
    await nats.restart();
    await more(20);
    await writer.stop();
    const numbers = (await stored(reading, "killed")).map(({ n }) => n);
    assert.deepEqual(numbers, writer.acknowledged);
    await becomes(
      () => follower.heard,
      (heard) => heard.length >= numbers.length,
      { withinMs: backMs },
    );
    assert.deepEqual(follower.heard, numbers);
    await follower.stop();
  });

  test("the server stopped in the middle of a publish: the caller is told that nothing is known, and asking again settles it, once", async () => {
    const [bus, reading] = [await connect("patient"), await connect("listener")];
    const follower = follow(reading, "paused");
    const first = await bus.appendFenced(note("paused", 1, "paused/1"), 0);
    assert.ok(first.outcome === "won");
    const event = note("paused", 2, "paused/2");
    await nats.pause();
    try {
      await assert.rejects(
        bus.appendFenced(event, first.seq, { timeoutMs: 1500 }),
        (error) => error instanceof BusError && error.retriable,
      );
    } finally {
      await nats.unpause();
    }
    // The server may find the first attempt in its buffers now: whichever of both it stores, it is one.
    const settled = await until(
      async () => {
        try {
          return placeOf(await bus.appendFenced(event, first.seq, { timeoutMs: 5000 }), event.id);
        } catch (error) {
          if (error instanceof BusError && error.retriable) return false;
          throw error;
        }
      },
      backMs,
      "the outcome is known",
    );
    assert.equal((await bus.lastOf("AUDIT", subjectFor("notify.sent", "paused")))?.seq, settled);
    const rival = await reading.appendFenced(note("paused", 3, "paused/3"), first.seq, { timeoutMs: 60_000 });
    assert.ok(rival.outcome === "lost" && idOf(rival.last) === "paused/2", "whoever knew only the first has lost");
    assert.deepEqual(
      (await stored(bus, "paused")).map(({ id }) => id),
      ["paused/1", "paused/2"],
    );
    await becomes(
      () => follower.heard,
      (heard) => heard.length >= 2,
      { withinMs: backMs },
    );
    assert.deepEqual(follower.heard, [1, 2]);
    await follower.stop();
  });
});
