import assert from "node:assert/strict";
import { test } from "node:test";
import { fractionOf, hashText, ownerOf } from "@mcp-failover/domain";
import fc from "fast-check";

const members = fc.uniqueArray(fc.string({ minLength: 1, maxLength: 12, size: "max" }), { minLength: 1, maxLength: 12, size: "max" });
const key = fc.string({ maxLength: 30, size: "max" });

test("the hash of a text is pinned: probers of two versions must name the same owner", () => {
  assert.deepEqual(
    ["", "everything/primary", "warehouse/secondary"].map(hashText),
    [3_338_908_027_751_811, 6_252_391_230_724_918, 7_301_005_149_113_548],
  );
});

test("R1, R2: one owner among the members, whatever the order and however often one is named", () => {
  fc.assert(
    fc.property(key, members, fc.infiniteStream(fc.double({ min: 0, max: 1, noNaN: true })), (k, all, random) => {
      const owner = ownerOf(k, all);
      assert.ok(owner !== null && all.includes(owner));
      const shuffled = [...all, ...all.slice(0, 3)].map((m) => [random.next().value, m] as const).sort((a, b) => a[0] - b[0]);
      assert.equal(
        ownerOf(
          k,
          shuffled.map(([, m]) => m),
        ),
        owner,
      );
    }),
  );
  assert.equal(ownerOf("a/b", []), null);
});

test("R3: taking a member away moves only its own keys, adding one moves keys only to it", () => {
  fc.assert(
    fc.property(fc.array(key, { maxLength: 40, size: "max" }), members, fc.nat(), (keys, all, pick) => {
      const gone = all[pick % all.length] as string;
      const rest = all.filter((m) => m !== gone);
      for (const k of keys) {
        const before = ownerOf(k, all);
        const after = ownerOf(k, rest);
        if (before !== gone) assert.equal(after, before);
        else assert.ok(rest.length === 0 ? after === null : after !== gone);
      }
    }),
  );
});

test("R4: ten thousand keys spread over 3 and over 7 members within 10 % of even", () => {
  const keys = Array.from({ length: 10_000 }, (_, index) => `upstream-${index >> 2}/endpoint-${index & 3}`);
  for (const count of [3, 7]) {
    const names = Array.from({ length: count }, (_, index) => `prober-${index + 1}`);
    const owned = new Map<string, number>();
    for (const k of keys) {
      const owner = ownerOf(k, names) as string;
      owned.set(owner, (owned.get(owner) ?? 0) + 1);
    }
    for (const name of names) {
      const share = (owned.get(name) ?? 0) / (keys.length / count);
      assert.ok(share > 0.9 && share < 1.1, `${name} of ${count} owns ${share} of an even share`);
    }
  }
});

test("the fraction of a text is at least 0 and below 1", () => {
  fc.assert(
    fc.property(fc.string(), (text) => {
      const fraction = fractionOf(text);
      assert.ok(fraction >= 0 && fraction < 1);
    }),
  );
});
