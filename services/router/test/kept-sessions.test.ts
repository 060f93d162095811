import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { KeptSessions } from "../src/aggregate/kept-sessions.ts";

interface Fake {
  readonly session: { readonly id: string };
  readonly principal: { readonly holder: string };
  busy: boolean;
  closed: number;
  close(): void;
}

function fake(id: string, holder: string, busy = false): Fake {
  const one: Fake = {
    session: { id },
    principal: { holder },
    busy,
    closed: 0,
    close: () => {
      one.closed += 1;
    },
  };
  return one;
}

describe("the sessions with /mcp that a process has in memory", () => {
  test("R25: are never more than may be: for a further one that leaves, closed, which its agent, who has most, did not use for longest", () => {
    const kept = new KeptSessions<Fake>(4);
    const others = ["x", "y"].map((id) => kept.keep(fake(id, "other")));
    const [one, two] = ["1", "2"].map((id) => kept.keep(fake(id, "flood"))) as [Fake, Fake];
    kept.use("1");
    const three = kept.keep(fake("3", "flood"));
    assert.equal(kept.size, 4);
    assert.deepEqual([one.closed, two.closed, kept.use("2")], [0, 1, undefined]);
    for (let index = 0; index < 100; index++) kept.keep(fake(`f${index}`, "flood"));
    assert.equal(kept.size, 4);
    assert.deepEqual([one.closed, three.closed], [1, 1]);
    assert.deepEqual(
      others.map(({ session, closed }) => [kept.use(session.id)?.session.id, closed]),
      [
        ["x", 0],
        ["y", 0],
      ],
      "nobody else's leaves",
    );
  });

  test("R25: and are in use stay, and so does the one that has just come; as soon as one is free it leaves for the next", () => {
    const kept = new KeptSessions<Fake>(2);
    const busy = ["1", "2"].map((id) => kept.keep(fake(id, "a", true)));
    const late = kept.keep(fake("3", "b"));
    assert.deepEqual([kept.size, late.closed], [3, 0]);
    (busy[0] as Fake).busy = false;
    kept.keep(fake("4", "a"));
    assert.deepEqual(
      [...kept.all()].map(({ session }) => session.id),
      ["2", "3", "4"],
    );
    assert.equal(busy[0]?.closed, 1);
  });
});
