import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { streams, subjectFor } from "@mcp-failover/contracts";
import fc from "fast-check";
import type { Bus, FollowOptions, Stored } from "../../src/index.ts";
import { connected, inWorld, type MakeWorld, note, numberOf, until } from "./world.ts";

/** Follows and writes down what came. */
function record(bus: Bus, options: Partial<FollowOptions> = {}) {
  const seen: Stored[] = [];
  let caughtUpAfter: number | null = null;
  let timesCaughtUp = 0;
  const following = bus.follow(
    "AUDIT",
    {
      from: "last_per_subject",
      ...options,
      onCaughtUp: () => {
        caughtUpAfter = seen.length;
        timesCaughtUp += 1;
      },
    },
    (stored) => {
      seen.push(stored);
    },
  );
  return {
    seen,
    following,
    seqs: () => seen.map(({ seq }) => seq),
    caughtUpAfter: () => caughtUpAfter,
    timesCaughtUp: () => timesCaughtUp,
    caughtUp: () => until(() => caughtUpAfter !== null, "the follower has caught up"),
  };
}

const range = (first: number, last: number): number[] => Array.from({ length: last - first + 1 }, (_, index) => first + index);

export function following(makeWorld: MakeWorld): void {
  test(
    "B4: from the last of each subject: those first, in the order of the log, then one word that it has caught up, then all that follows",
    inWorld(makeWorld, async (world) => {
      const bus = await world.connect();
      // "pager" 1, "mail" 2, "pager" 3, "chat" 4, "mail" 5: the last ones are 3, 4, 5.
      for (const [index, channel] of ["pager", "mail", "pager", "chat", "mail"].entries()) await bus.append(note(channel, index + 1));
      const follower = record(bus);
      await follower.caughtUp();
      assert.deepEqual(follower.seqs(), [3, 4, 5]);
      assert.equal(follower.caughtUpAfter(), 3);
      await bus.append(note("pager", 6));
      await bus.append(note("pager", 7));
      await until(() => follower.seen.length === 5, "both new events have come");
      assert.deepEqual(follower.seqs(), [3, 4, 5, 6, 7]);
      assert.equal(follower.following.seq, 7);
      assert.equal(follower.timesCaughtUp(), 1);
    }),
  );

  test(
    "B4: what is appended while the last ones are handed over comes too, each once, in the order of the log",
    inWorld(makeWorld, async (world) => {
      const bus = await world.connect();
      for (const channel of ["pager", "mail"]) await bus.append(note(channel, 1));
      const seqs: number[] = [];
      const following = bus.follow("AUDIT", { from: "last_per_subject" }, async ({ seq }) => {
        seqs.push(seq);
        if (seq <= 2) for (const channel of ["mail", "chat"]) await bus.append(note(channel, seq));
      });
      await until(() => seqs.includes(6), "the last one has come");
      assert.equal(new Set(seqs).size, seqs.length);
      assert.deepEqual(seqs, range(1, 6));
      await following.stop();
    }),
  );

  test(
    "B4: whatever was written in whatever order, the last of each subject comes before the word that it has caught up",
    inWorld(makeWorld, async (world) => {
      const bus = await world.connect();
      let last = 0;
      await fc.assert(
        fc.asyncProperty(fc.array(fc.constantFrom("a", "b", "c", "d", "e"), { maxLength: 12 }), async (channels) => {
          for (const channel of channels) last = (await bus.append(note(channel, 1))).seq;
          const expected = new Map<string, number>();
          for await (const { subject, seq } of bus.read("AUDIT")) expected.set(subject, seq);
          const follower = record(bus);
          await follower.caughtUp();
          assert.deepEqual(
            follower.seqs(),
            [...expected.values()].sort((a, b) => a - b),
          );
          assert.equal(follower.following.seq, last);
          await follower.following.stop();
        }),
        { numRuns: 15 },
      );
    }),
  );

  test(
    "B4: an empty stream is caught up with at once",
    inWorld(makeWorld, async (world) => {
      const follower = record(await world.connect());
      await follower.caughtUp();
      assert.equal(follower.seen.length, 0);
    }),
  );

  test(
    "B4: a follower starts at a sequence, at a time, at what is new, and with a filter",
    inWorld(makeWorld, async (world) => {
      const bus = await world.connect();
      for (let n = 1; n <= 4; n += 1) await bus.append(note(n % 2 === 0 ? "even" : "odd", n));
      await sleep(20);
      const timeMs = Date.now();
      await sleep(20);
      for (let n = 5; n <= 8; n += 1) await bus.append(note(n % 2 === 0 ? "even" : "odd", n));
      const followers = {
        seq: record(bus, { from: { seq: 3 } }),
        beyond: record(bus, { from: { seq: 10 } }),
        time: record(bus, { from: { timeMs } }),
        fresh: record(bus, { from: "new" }),
        filtered: record(bus, { from: { seq: 1 }, filter: subjectFor("notify.sent", "even") }),
        lastFiltered: record(bus, { filter: subjectFor("notify.sent", "odd") }),
      };
      for (const follower of Object.values(followers)) await follower.caughtUp();
      assert.deepEqual(followers.seq.seqs(), range(3, 8));
      assert.deepEqual(followers.time.seqs(), range(5, 8));
      assert.deepEqual(followers.fresh.seqs(), []);
      assert.deepEqual(followers.filtered.seqs(), [2, 4, 6, 8]);
      assert.deepEqual(followers.lastFiltered.seqs(), [7]);
      await bus.append(note("odd", 9));
      await bus.append(note("even", 10));
      await until(
        () => followers.filtered.seen.length === 5 && followers.fresh.seen.length === 2 && followers.beyond.seen.length === 1,
        "the new events have come",
      );
      assert.deepEqual(followers.fresh.seqs(), [9, 10]);
      assert.deepEqual(followers.filtered.seqs(), [2, 4, 6, 8, 10]);
      assert.deepEqual(followers.beyond.seqs(), [10]);
    }),
  );

  test(
    "B4: a stream that does not exist yet is followed as soon as bootstrap has made it",
    inWorld(
      makeWorld,
      async (world) => {
        const bus = await world.connect();
        const follower = record(bus);
        await sleep(300);
        assert.equal(follower.caughtUpAfter(), null);
        await bus.ensureStreams(streams, { replicas: 1 });
        await bus.append(note("pager", 1));
        await until(() => follower.seen.length === 1, "the first event has come");
        await follower.caughtUp();
      },
      { streams: [] },
    ),
  );

  test(
    "B4: handlers run one at a time in the order of the log, and one that throws is reported and does not stop the next",
    inWorld(makeWorld, async (world) => {
      const bus = await world.connect();
      const order: number[] = [];
      const failed: number[] = [];
      let running = 0;
      let most = 0;
      bus.follow("AUDIT", { from: { seq: 1 }, onError: (_error, { seq }) => failed.push(seq) }, async (stored) => {
        running += 1;
        most = Math.max(most, running);
        await sleep(stored.seq % 3);
        order.push(stored.seq);
        running -= 1;
        if (stored.seq % 4 === 0) throw new Error("on purpose");
      });
      await Promise.all(range(1, 40).map((n) => bus.append(note("pager", n))));
      await until(() => order.length === 40, "all have been handled");
      assert.deepEqual(order, range(1, 40));
      assert.equal(most, 1);
      assert.deepEqual(
        failed,
        range(1, 10).map((n) => n * 4),
      );
    }),
  );

  test(
    "B4: a restart of the server in the middle of following loses nothing and repeats nothing",
    inWorld(makeWorld, async (world) => {
      const [writer, reader] = [await world.connect("writer"), await world.connect("reader")];
      for (let n = 1; n <= 20; n += 1) await writer.append(note("pager", n));
      const followers = [
        record(reader, { from: { seq: 1 } }),
        record(reader),
        record(reader, { from: "new" }),
        record(reader, { from: { timeMs: Date.now() - 60_000 } }),
      ];
      for (const follower of followers) await follower.caughtUp();
      let written = 20;
      const writing = (async () => {
        for (let n = 21; n <= 120; n += 1) {
          written = (await writer.append(note(`channel-${n % 3}`, n))).seq;
          if (n % 10 === 0) await sleep(10);
        }
      })();
      await sleep(40);
      await world.restartServer(400);
      await writing;
      await until(() => followers.every(({ following }) => following.seq === written), "all followers have reached the end");
      const [all, lasts, fresh, timed] = followers.map((follower) => follower.seqs());
      assert.deepEqual(all, range(1, written));
      assert.deepEqual(timed, range(1, written));
      assert.deepEqual(lasts, range(20, written));
      assert.deepEqual(fresh, range(21, written));
      assert.ok(followers.every((follower) => follower.timesCaughtUp() === 1));
    }),
  );

  test(
    "B4, B7: after five seconds without a connection following goes on with what was missed, each once, and `status` has told of it",
    inWorld(makeWorld, async (world) => {
      const [writer, reader] = [await world.connect("writer"), await world.connect("reader")];
      const kinds: string[] = [];
      reader.onStatus(({ kind }) => kinds.push(kind));
      const follower = record(reader);
      const fresh = record(reader, { from: "new" });
      await Promise.all([follower.caughtUp(), fresh.caughtUp()]);
      await world.cut(reader);
      await until(() => !connected(reader), "the loss is noticed");
      for (let n = 1; n <= 30; n += 1) await writer.append(note("pager", n));
      await sleep(5000);
      assert.equal(reader.status.kind, "disconnected");
      await world.restore(reader);
      const startMs = Date.now();
      await until(() => follower.seen.length >= 1 && fresh.seen.length === 30, "what was missed has come", 4000);
      await writer.append(note("pager", 31));
      await until(() => fresh.seen.length === 31 && follower.following.seq === 31, "what is new has come");
      assert.deepEqual(fresh.seqs(), range(1, 31));
      // Nothing had been handed over before the cut, so this one may begin with the last of each subject.
      assert.equal(follower.seen.at(-1)?.seq, 31);
      assert.deepEqual(
        follower.seqs(),
        [...new Set(follower.seqs())].sort((a, b) => a - b),
      );
      assert.ok(Date.now() - startMs < 4000);
      assert.deepEqual(kinds, ["disconnected", "connected"]);
    }),
  );

  test(
    "B4: after `stop` nothing is handed over, and a handler may stop its own following",
    inWorld(makeWorld, async (world) => {
      const bus = await world.connect();
      const stopped = record(bus);
      await stopped.caughtUp();
      await stopped.following.stop();
      const own: number[] = [];
      const following = bus.follow("AUDIT", { from: { seq: 1 } }, ({ seq }) => {
        own.push(seq);
        if (seq === 2) void following.stop();
      });
      for (let n = 1; n <= 5; n += 1) await bus.append(note("pager", n));
      const witness = record(bus, { from: { seq: 1 } });
      await until(() => witness.seen.length === 5, "another follower has all");
      await sleep(50);
      assert.equal(stopped.seen.length, 0);
      assert.deepEqual(own, [1, 2]);
    }),
  );

  test(
    "reading ends at what was the end when it began, and honours its range and filter",
    inWorld(makeWorld, async (world) => {
      const bus = await world.connect();
      for (let n = 1; n <= 10; n += 1) await bus.append(note(n % 2 === 0 ? "even" : "odd", n));
      const numbers = async (options?: Parameters<Bus["read"]>[1]) => {
        const found: number[] = [];
        for await (const stored of bus.read("AUDIT", options)) {
          found.push(numberOf(stored));
          await bus.append(note("later", 0)); // Must not keep it going for ever.
        }
        return found;
      };
      assert.deepEqual(await numbers(), range(1, 10));
      assert.deepEqual(await numbers({ fromSeq: 3, toSeq: 6 }), range(3, 6));
      assert.deepEqual(await numbers({ toSeq: 9, filter: "notify.sent.even" }), [2, 4, 6, 8]);
      assert.deepEqual(await numbers({ fromSeq: 100_000 }), []);
      assert.deepEqual(await numbers({ filter: "notify.sent.nobody" }), []);
    }),
  );
}
