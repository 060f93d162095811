import assert from "node:assert/strict";
import { createHmac, randomBytes } from "node:crypto";
import { test } from "node:test";
import { deflateRawSync } from "node:zlib";
import fc from "fast-check";
import { capabilityPaths, createSealer, newSessionKey, type SealedSession, SessionTooLargeError } from "../src/mcp/seal.ts";
import { legibleIn } from "./support/legible.ts";

const sealer = createSealer("a key of at least sixteen characters");
const session: SealedSession = {
  key: newSessionKey(),
  upstream: "u",
  version: "2025-11-25",
  clientParams: { clientInfo: { name: "x" } },
  capabilities: ["tools"],
  endpoint: "secret-endpoint",
  upstreamSession: "secret-upstream-id",
  issuedAtMs: 1,
  principal: "secret-principal",
};

test("what was sealed is opened again with the same key, in any process", () => {
  fc.assert(
    fc.property(fc.string(), fc.option(fc.string()), fc.dictionary(fc.string(), fc.jsonValue()), (endpoint, upstreamSession, params) => {
      const before = { ...session, endpoint, upstreamSession, clientParams: JSON.parse(JSON.stringify(params)) };
      const id = sealer.seal(before);
      assert.match(id, /^[\x21-\x7e]+$/, "visible ASCII, as the protocol asks");
      assert.deepEqual(createSealer("a key of at least sixteen characters").open(id), before);
    }),
  );
});

test("a sealed id that was changed anywhere, or sealed with another key, opens nothing", () => {
  const id = sealer.seal(session);
  assert.equal(createSealer("another key of sixteen characters").open(id), null);
  fc.assert(
    fc.property(fc.nat({ max: id.length - 1 }), fc.constantFrom("A", "B", "_", ".", "0"), (at, character) => {
      const changed = id.slice(0, at) + character + id.slice(at + 1);
      // The last character of base64url carries bits that mean nothing: another one there may be the same bytes.
      const same = Buffer.from(changed.slice(6), "base64url").equals(Buffer.from(id.slice(6), "base64url")) && changed.startsWith("mcpf1.");
      assert.equal(sealer.open(changed) === null, !same);
    }),
  );
  fc.assert(fc.property(fc.string(), (text) => assert.equal(sealer.open(text), null)));
});

test("two sealings of one session differ, and neither shows what is in it", () => {
  const [one, two] = [sealer.seal(session), sealer.seal(session)];
  assert.notEqual(one, two);
  for (const id of [one, two]) assert.doesNotMatch(legibleIn(id), /secret-/);
});

test("what is signed and packed, and not encrypted, would be seen as legible", () => {
  const plain = JSON.stringify(session);
  for (const content of [Buffer.from(plain), deflateRawSync(plain)]) {
    const signature = createHmac("sha256", "key").update(content).digest();
    for (const bytes of [
      [signature, content],
      [content, signature],
      [randomBytes(12), signature, content],
    ]) {
      assert.match(legibleIn(`mcpf1.${Buffer.concat(bytes).toString("base64url")}`), /secret-upstream-id/);
    }
  }
});

test("a session too large for a header is refused", () => {
  const noise = Array.from({ length: 2000 }, () => newSessionKey()).join("");
  assert.throws(() => sealer.seal({ ...session, clientParams: { noise } }), SessionTooLargeError);
});

test("what is wrapped for another router is no session id, and the other way round", () => {
  const wrapped = sealer.wrap("text");
  assert.equal(sealer.unwrap(wrapped), "text");
  assert.equal(sealer.open(`mcpf1.${wrapped}`), null);
  assert.equal(sealer.unwrap(sealer.seal(session).slice(6)), null);
  assert.equal(createSealer("another key of sixteen characters").unwrap(wrapped), null);
});

test("capabilities are compared by what is declared, not by what is switched off or experimental", () => {
  assert.deepEqual(
    capabilityPaths({ tools: { listChanged: true }, resources: { subscribe: false }, experimental: { x: {} }, logging: {} }),
    ["logging", "resources", "tools", "tools.listChanged"],
  );
  assert.deepEqual(capabilityPaths(undefined), []);
});
