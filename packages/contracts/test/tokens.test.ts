import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { decodeToken, encodeToken, keysOf, subjectFor, subjectOf } from "../src/index.ts";

/** Well-formed text of any kind, and much of what means something to NATS or to the encoding itself. */
const id = fc.oneof(
  fc.string({ minLength: 1, unit: "grapheme" }),
  fc.string({ minLength: 1, unit: fc.constantFrom(".", "*", ">", " ", "~", "/", "-", "_", "a", "\n", "\0", "é", "漢", "🙂") }),
  fc.string({ minLength: 120, maxLength: 140, unit: fc.constantFrom("a", "B", "7"), size: "max" }),
);

test("any id comes back from its token, and no token has a dot, a wildcard, a space or a control character in it", () => {
  fc.assert(
    fc.property(id, (text) => {
      const token = encodeToken(text);
      assert.equal(decodeToken(token), text);
      assert.match(token, /^[^.*>\s\p{Cc}]+$/u);
    }),
  );
});

test("different ids have different tokens", () => {
  fc.assert(fc.property(id, id, (a, b) => assert.equal(encodeToken(a) === encodeToken(b), a === b)));
});

test("the keys of a subject come back, however many and whatever they are", () => {
  fc.assert(
    fc.property(fc.constantFrom("health.changed", "outbox", "a"), fc.array(id, { maxLength: 4 }), (type, keys) => {
      const subject = subjectOf(type, ...keys);
      assert.deepEqual(keysOf(type, subject), keys);
      assert.equal(subject.split(".").length, type.split(".").length + keys.length);
    }),
  );
});

test("the words of ordinary names stay readable, and these tokens are pinned", () => {
  assert.equal(subjectFor("health.changed", "pinecone", "primary"), "health.changed.pinecone.primary");
  assert.equal(encodeToken("get_inventory"), "get_inventory");
  assert.equal(encodeToken("stock clerk"), "~c3RvY2sgY2xlcms");
  assert.equal(encodeToken("v1.2"), "~djEuMg");
  assert.equal(encodeToken("~"), "~fg");
  assert.equal(encodeToken("ünïcode"), "~w7xuw69jb2Rl");
});

test("an empty id is no token, and a subject of another type has no keys", () => {
  assert.throws(() => encodeToken(""), RangeError);
  assert.equal(keysOf("health.changed", "health.changedx.a.b"), null);
  assert.equal(keysOf("health.changed", "breaker.changed.a.b"), null);
  assert.deepEqual(keysOf("log.started", "log.started"), []);
});
