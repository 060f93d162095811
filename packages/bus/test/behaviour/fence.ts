import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { integrityHeader, sha256, streams, subjectFor } from "@mcp-failover/contracts";
import { type Bus, BusError, type Fenced } from "../../src/index.ts";
import { idOf, inWorld, type MakeWorld, note, numberOf } from "./world.ts";

const subject = subjectFor("notify.sent", "pager");

async function racers(connect: (name: string) => Promise<Bus>, count: number): Promise<Bus[]> {
  return Promise.all(Array.from({ length: count }, (_, index) => connect(`racer-${index}`)));
}

async function count(bus: Bus): Promise<number> {
  let messages = 0;
  for await (const _stored of bus.read("AUDIT", { filter: subject })) messages += 1;
  return messages;
}

export function fence(makeWorld: MakeWorld): void {
  test(
    "B1: of eight racers over fifty rounds exactly one wins each, and the seven others are told who did",
    inWorld(makeWorld, async (world) => {
      const buses = await racers((name) => world.connect(name), 8);
      let expected = 0;
      for (let round = 0; round < 50; round += 1) {
        const outcomes = await Promise.all(
          buses.map((bus, index) => bus.appendFenced(note("pager", round, `${round}/${index}`), expected)),
        );
        const winners = outcomes.flatMap((outcome, index) => (outcome.outcome === "won" ? [{ index, seq: outcome.seq }] : []));
        assert.equal(winners.length, 1, `round ${round}`);
        const [winner] = winners;
        for (const outcome of outcomes) {
          if (outcome.outcome !== "lost") continue;
          assert.equal(outcome.last?.seq, winner?.seq);
          assert.equal(idOf(outcome.last), `${round}/${winner?.index}`);
        }
        expected = winner?.seq ?? -1;
      }
      assert.equal(await count(buses[0] as Bus), 50);
    }),
  );

  test(
    "B1: the fence is the subject's: what happens on others does not disturb it",
    inWorld(makeWorld, async (world) => {
      const bus = await world.connect();
      const first = await bus.appendFenced(note("pager", 1), 0);
      assert.equal(first.outcome, "won");
      for (let n = 0; n < 5; n += 1) await bus.append(note("mail", n));
      assert.equal((await bus.appendFenced(note("pager", 2), first.outcome === "won" ? first.seq : -1)).outcome, "won");
      const behind = await bus.appendFenced(note("pager", 3), 1);
      assert.equal(behind.outcome, "lost");
      assert.equal(behind.outcome === "lost" ? numberOf(behind.last) : null, 2);
      assert.deepEqual(await bus.appendFenced(note("chat", 1), 7), { outcome: "lost", last: null });
    }),
  );

  test(
    "B2: an acknowledgement that was lost is settled as won, and the event is stored once",
    inWorld(makeWorld, async (world) => {
      const bus = await world.connect();
      let expected = 0;
      for (let n = 1; n <= 3; n += 1) {
        world.loseNextPublish(bus, { stored: true });
        const outcome = await bus.appendFenced(note("pager", n), expected);
        assert.equal(outcome.outcome, "won");
        expected = outcome.outcome === "won" ? outcome.seq : -1;
        assert.equal(await count(bus), n);
      }
    }),
  );

  test(
    "B2: a publish that never arrived finds the sequence unchanged and is published again, once",
    inWorld(makeWorld, async (world) => {
      const bus = await world.connect();
      world.loseNextPublish(bus, { stored: false });
      const outcome = await bus.appendFenced(note("pager", 1), 0);
      assert.equal(outcome.outcome, "won");
      assert.equal(await count(bus), 1);
    }),
  );

  test(
    "B2: a publish that never arrived is lost when another has come first meanwhile",
    inWorld(makeWorld, async (world) => {
      const [slow, quick] = (await racers((name) => world.connect(name), 2)) as [Bus, Bus];
      world.loseNextPublish(slow, { stored: false });
      const late = slow.appendFenced(note("pager", 1, "late"), 0);
      const prompt = await quick.appendFenced(note("pager", 2, "prompt"), 0);
      const outcome = await late;
      assert.deepEqual([prompt.outcome, outcome.outcome].sort(), ["lost", "won"]);
      assert.equal(await count(quick), 1);
    }),
  );

  test(
    "B2: with lost acknowledgements and lost publishes among racers there is still exactly one winner a round",
    inWorld(makeWorld, async (world) => {
      const buses = await racers((name) => world.connect(name), 4);
      let expected = 0;
      for (let round = 0; round < 6; round += 1) {
        world.loseNextPublish(buses[round % 4] as Bus, { stored: round % 2 === 0 });
        const outcomes: Fenced[] = await Promise.all(
          buses.map((bus, index) => bus.appendFenced(note("pager", round, `${round}/${index}`), expected)),
        );
        const winners = outcomes.filter((outcome) => outcome.outcome === "won");
        assert.equal(winners.length, 1, `round ${round}: ${JSON.stringify(outcomes.map(({ outcome }) => outcome))}`);
        expected = winners[0]?.outcome === "won" ? winners[0].seq : -1;
      }
      assert.equal(await count(buses[0] as Bus), 6);
    }),
  );

  test(
    "B2: when the log stays out of reach the caller is told within the time-out, and nothing is stored afterwards",
    inWorld(makeWorld, async (world) => {
      const [bus, other] = (await racers((name) => world.connect(name), 2)) as [Bus, Bus];
      await world.cut(bus);
      const startMs = Date.now();
      await assert.rejects(
        bus.appendFenced(note("pager", 1), 0, { timeoutMs: 600 }),
        (error) => error instanceof BusError && error.code === "unreachable" && error.retriable,
      );
      assert.ok(Date.now() - startMs < 1600);
      await world.restore(bus);
      await sleep(300);
      assert.equal(await other.lastOf("AUDIT", subject), null);
    }),
  );

  test(
    "B3: eight racers with one message id have one winner, because a duplicate's acknowledgement is no win",
    inWorld(makeWorld, async (world) => {
      const buses = await racers((name) => world.connect(name), 8);
      let expected = 0;
      for (let round = 0; round < 10; round += 1) {
        const outcomes = await Promise.all(buses.map((bus, index) => bus.appendFenced(note("pager", index, `same/${round}`), expected)));
        const winners = outcomes.filter((outcome) => outcome.outcome === "won");
        assert.equal(winners.length, 1);
        expected = winners[0]?.outcome === "won" ? winners[0].seq : -1;
      }
    }),
  );

  test(
    "B3: one's own retry that meets its earlier self as a duplicate has won, even when the id was shared",
    inWorld(makeWorld, async (world) => {
      const [unlucky, other] = (await racers((name) => world.connect(name), 2)) as [Bus, Bus];
      world.loseNextPublish(unlucky, { stored: true });
      const outcomes = await Promise.all([
        unlucky.appendFenced(note("pager", 1, "shared"), 0),
        sleep(1).then(() => other.appendFenced(note("pager", 2, "shared"), 0)),
      ]);
      assert.deepEqual(outcomes.map(({ outcome }) => outcome).sort(), ["lost", "won"]);
      const winner = outcomes.findIndex(({ outcome }) => outcome === "won");
      assert.equal(numberOf(await other.lastOf("AUDIT", subject)), winner + 1);
    }),
  );

  test(
    "B3: one's own retry that meets somebody else's message under its id has lost",
    inWorld(makeWorld, async (world) => {
      const [unlucky, other] = (await racers((name) => world.connect(name), 2)) as [Bus, Bus];
      world.loseNextPublish(unlucky, { stored: false });
      const late = unlucky.appendFenced(note("pager", 1, "shared"), 0);
      assert.equal((await other.appendFenced(note("pager", 2, "shared"), 0)).outcome, "won");
      const outcome = await late;
      assert.ok(outcome.outcome === "lost" && numberOf(outcome.last) === 2);
      assert.equal(await count(other), 1);
    }),
  );

  test(
    "an event appended twice with one id is stored once, also when its acknowledgement was lost",
    inWorld(makeWorld, async (world) => {
      const bus = await world.connect();
      const event = note("pager", 1, "once");
      const first = await bus.append(event);
      assert.deepEqual(await bus.append(event), { seq: first.seq, duplicate: true });
      world.loseNextPublish(bus, { stored: true });
      await bus.append(note("pager", 2));
      assert.equal(await count(bus), 2);
    }),
  );

  test(
    "a stored event carries its id, its content type, the SHA-256 of its bytes and the expectation it was fenced with",
    inWorld(makeWorld, async (world) => {
      const bus = await world.connect();
      await bus.append(note("mail", 1));
      await bus.appendFenced(note("pager", 1, "the-id"), 0);
      const stored = await bus.lastOf("AUDIT", subject);
      assert.ok(stored);
      assert.equal(stored.headers["Nats-Msg-Id"], "the-id");
      assert.equal(stored.headers["Content-Type"], "application/cloudevents+json");
      assert.equal(stored.headers["Nats-Expected-Last-Subject-Sequence"], "0");
      assert.equal(stored.headers[integrityHeader], sha256(stored.bytes));
      assert.ok(Math.abs(stored.timeMs - Date.now()) < 60_000);
      const again = await bus.at("AUDIT", stored.seq);
      assert.deepEqual({ ...again, bytes: null }, { ...stored, bytes: null });
      assert.deepEqual(Buffer.from(again?.bytes ?? []), Buffer.from(stored.bytes));
      assert.equal(await bus.at("AUDIT", 999), null);
      for await (const read of bus.read("AUDIT", { filter: subject })) {
        assert.deepEqual({ ...read, bytes: null }, { ...stored, bytes: null });
      }
    }),
  );

  test(
    "an event that a reader would refuse is not published, and one that is too large is refused before it is sent",
    inWorld(makeWorld, async (world) => {
      const bus = await world.connect();
      const bad = { ...note("pager", 1), data: { nothing: "right" } } as unknown as ReturnType<typeof note>;
      await assert.rejects(bus.append(bad), (error) => error instanceof BusError && error.code === "rejected" && !error.retriable);
      const large = { ...note("pager", 1), data: { ...note("pager", 1).data, padding: "x".repeat(1024 * 1024) } };
      await assert.rejects(bus.append(large), (error) => error instanceof BusError && error.code === "too_large" && !error.retriable);
      assert.equal((await bus.info("AUDIT")).lastSeq, 0);
    }),
  );

  const small = streams.map((definition) => (definition.name === "AUDIT" ? { ...definition, maxBytes: 4096 } : definition));
  test(
    "a full AUDIT refuses what is new and keeps what is old",
    inWorld(
      makeWorld,
      async (world) => {
        const bus = await world.connect();
        let stored = 0;
        await assert.rejects(
          async () => {
            for (; stored < 100; stored += 1) await bus.append(note("pager", stored));
          },
          (error) => error instanceof BusError && error.code === "stream_full",
        );
        assert.ok(stored > 2 && stored < 20);
        await assert.rejects(bus.appendFenced(note("chat", 1), 0), (error) => error instanceof BusError && error.code === "stream_full");
        assert.equal(await count(bus), stored);
        assert.equal((await bus.info("AUDIT")).firstSeq, 1);
      },
      { streams: small },
    ),
  );
}
