import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { InOrder, type Linked } from "../src/in-order.ts";
import { newHold, RunningCalls } from "../src/mcp/session.ts";

class Member implements Linked<Member> {
  before: Member | null = null;
  after: Member | null = null;
  within: object | null = null;
}

test("members come and go as in a Set, in the order in which they came", () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.boolean(), fc.nat(7)), { maxLength: 60, size: "max" }), (steps) => {
      const members = Array.from({ length: 8 }, () => new Member());
      const list = new InOrder<Member>();
      const set = new Set<Member>();
      for (const [isAdded, index] of steps) {
        const member = members[index] as Member;
        if (isAdded) {
          list.add(member);
          set.add(member);
        } else {
          list.delete(member);
          set.delete(member);
        }
        assert.deepEqual(
          [[...list].map((one) => members.indexOf(one)), list.size],
          [[...set].map((one) => members.indexOf(one)), set.size],
        );
        assert.equal(list.first, [...set][0] ?? null);
      }
    }),
  );
});

test("a member that was taken out keeps no other one alive", () => {
  const [first, second] = [new Member(), new Member()];
  const list = new InOrder<Member>();
  list.add(first);
  list.add(second);
  list.delete(first);
  assert.deepEqual([first.before, first.after, first.within, second.before], [null, null, null, null]);
});

test("who is told may take others out, and a member of one list is not put into another one", () => {
  const members = [new Member(), new Member(), new Member()];
  const list = new InOrder<Member>();
  for (const member of members) list.add(member);
  let told = 0;
  for (const _ of list) {
    told += 1;
    for (const member of members) list.delete(member);
  }
  assert.deepEqual([told, list.size], [3, 0]);
  list.add(members[0] as Member);
  assert.throws(() => new InOrder<Member>().add(members[0] as Member), /another list/);
});

test("the running requests of a session are found by their ids as in a Map", () => {
  const holds = ["a", "b", "c"].map((endpoint) => newHold(endpoint, null, 0));
  const id = fc.oneof(fc.nat(3), fc.constantFrom("0", "1", "x"));
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.boolean(), id, fc.nat(2)), { maxLength: 40, size: "max" }), (steps) => {
      const running = new RunningCalls();
      const map = new Map<string | number, unknown>();
      for (const [isSet, key, index] of steps) {
        const hold = holds[index];
        if (hold === undefined) continue;
        if (isSet) {
          running.set(key, hold);
          map.set(key, hold);
        } else {
          running.delete(key);
          map.delete(key);
        }
        assert.equal(running.size, map.size);
        for (const one of [0, 1, 2, 3, "0", "1", "x"]) assert.equal(running.get(one), map.get(one));
      }
    }),
  );
});
