import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Random } from "../sim/random.ts";
import { Book } from "../soak/mixed/book.ts";
import { drawFault } from "../soak/mixed/faults.ts";
import { endOf, faultProblems, growthOf, growthProblems, leftovers } from "../soak/mixed/judge.ts";
import type { Look, RouterLook } from "../soak/mixed/look.ts";

const mib = 1024 * 1024;

describe("what the mixed soak says of its requests", () => {
  const begun = (kind: string): { book: Book; mark: string } => {
    const book = new Book("m1", 8000);
    return { book, mark: book.begin(kind) };
  };

  test("S1: a request with one answer is well, one without any or with two is not", () => {
    const { book, mark } = begun("session read");
    assert.match(book.problems([]).join(), /S1: nothing is known of session read m1-1/);
    book.end("session read", mark, Date.now(), "ok");
    assert.deepEqual(book.problems([]), []);
    book.end("session read", mark, Date.now(), "error outcome_unknown");
    assert.match(book.problems([]).join(), /S1: answered twice/);
    const late = begun("session read");
    late.book.end("session read", late.mark, Date.now(), "unanswered");
    assert.match(late.book.problems([]).join(), /S1: no answer/);
  });

  test("S2: a broken connection is forgiven where a router process was ended then, and nowhere else", () => {
    const { book, mark } = begun("http read");
    const nowMs = Date.now();
    book.end("http read", mark, nowMs, "broken");
    assert.match(book.problems([]).join(), /S2/);
    book.routerEnded(nowMs - 60_000);
    assert.match(book.problems([]).join(), /S2/);
    book.routerEnded(nowMs - 1000);
    assert.deepEqual(book.problems([]), []);
  });

  test("S3: an answer to something else is told", () => {
    const { book, mark } = begun("modern read");
    book.end("modern read", mark, Date.now(), "wrong");
    assert.match(book.problems([]).join(), /S3/);
  });

  test("S4: a write that ran twice is told, and one that was said to be done and never ran", () => {
    const { book, mark } = begun("session write");
    book.end("session write", mark, Date.now(), "ok");
    assert.match(book.problems([]).join(), /S4: m1-1 was said to be done, and never ran/);
    assert.match(book.problems([mark, mark]).join(), /S4: m1-1 ran 2 times/);
    assert.deepEqual(book.problems([mark]), []);
  });
});

test("F: a run without its faults is told, one that missed some of many is not", () => {
  const of = (done: number, undone: number) => [
    ...Array.from({ length: done }, () => ({ problem: null })),
    ...Array.from({ length: undone }, () => ({ problem: "nobody there" })),
  ];
  const minutes = 60_000;
  assert.deepEqual(faultProblems(of(25, 5), 10 * minutes, 20_000), []);
  assert.deepEqual(faultProblems(of(3, 2), minutes, 10_000), []);
  for (const faults of [of(0, 0), of(0, 30), of(20, 10), of(14, 0)]) {
    assert.match(faultProblems(faults, 10 * minutes, 20_000).join(), /^F: \d+ of \d+ faults were done, in 600 s$/);
  }
  assert.equal(faultProblems([], 5000, 20_000).length, 1, "a run too short for any fault");
});

test("a run in which too little was done or seen shows nothing and may be tried again; one broken invariant is a failure whatever else there is", () => {
  const noFaults = faultProblems([], 60_000, 10_000);
  const notLooked = growthProblems(growthOf([], 0));
  assert.equal(endOf([]), 0);
  assert.equal(endOf([...noFaults, ...notLooked]), 75);
  const book = new Book("m1", 8000);
  book.answeredTwice("session read", "m1-1");
  for (const broken of [
    ...book.problems([]),
    "S5: only good answers again",
    "M1: the heap of router-1 grew",
    "M2: router-1 has 9 sessions",
  ])
    assert.equal(endOf([...noFaults, broken, ...notLooked]), 1, broken);
});

describe("what the mixed soak says of what is kept", () => {
  const router = (change: Partial<RouterLook> = {}): RouterLook => ({
    ...{ pid: 1, rssBytes: 100 * mib, fds: 40, sockets: 20, children: 2 },
    ...{ sessions: 0, heapBytes: 40 * mib, timers: 3, tcp: 10 },
    ...change,
  });
  const look = (atMs: number, change: Partial<RouterLook> = {}): Look => ({ atMs, routers: { "router-1": router(change) }, services: {} });

  test("M1: memory that grows from look to look is told, memory that comes and goes is not", () => {
    const of = (heapBytes: (n: number) => number): Look[] =>
      Array.from({ length: 20 }, (_, n) => look(n * 1000, { heapBytes: heapBytes(n) }));
    assert.match(
      growthProblems(
        growthOf(
          of((n) => (40 + 4 * n) * mib),
          0,
        ),
      ).join(),
      /M1: the heap of router-1 grew/,
    );
    assert.deepEqual(
      growthProblems(
        growthOf(
          of((n) => (40 + 20 * (n % 2)) * mib),
          0,
        ),
      ),
      [],
    );
  });

  test("M1: a router that was looked at too seldom is no router whose memory is flat", () => {
    assert.match(growthProblems(growthOf([], 0)).join(), /M1: router-1 was looked at too seldom/);
    assert.match(growthProblems(growthOf([look(1), look(2)], 0)).join(), /M1: router-1 was looked at too seldom/);
  });

  test("M2: a session, a child, sockets or timers that stay are told", () => {
    const before = look(0);
    assert.deepEqual(leftovers(before, look(1)), []);
    for (const change of [{ sessions: 1 }, { children: 4 }, { sockets: 60 }, { timers: 30 }]) {
      assert.match(leftovers(before, look(1, change)).join(), new RegExp(`M2: router-1 has \\d+ ${Object.keys(change)[0]}`));
    }
    assert.match(leftovers(before, { atMs: 1, routers: {}, services: {} }).join(), /M2: router-1 could not be asked/);
  });
});

test("a seed gives the same faults again, and in time all kinds of them", () => {
  const drawn = (seed: number): string[] => {
    const random = new Random(seed);
    return Array.from({ length: 400 }, () => drawFault(random).what);
  };
  assert.deepEqual(drawn(7), drawn(7));
  const all = drawn(7).join("\n");
  for (const kind of [
    "SIGKILL",
    "SIGTERM",
    "stands still",
    "status",
    "reset",
    "blackhole",
    "nats is",
    "redis is",
    "prober-",
    "router-2",
    "forgets",
    "configuration",
    "stdio",
  ])
    assert.ok(all.includes(kind), kind);
});
