import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { nkeyAuthenticator, nkeys } from "nats";
import { makeUserKey, publicKeyOf } from "../src/index.ts";
import { userKey } from "../src/nkey.ts";

test("a key proves itself with the very signature that nkeys.js gives, under the same name", () => {
  fc.assert(
    fc.property(fc.string({ minLength: 1, maxLength: 64, size: "max" }), (nonce) => {
      const seed = nkeys.createUser().getSeed();
      const mine = userKey(seed);
      assert.deepEqual({ nkey: mine.publicKey, sig: mine.prove(nonce) }, nkeyAuthenticator(seed)(nonce));
    }),
    { numRuns: 40 },
  );
});

test("a new key is a user's, and its seed leads back to it", () => {
  const { seed, publicKey } = makeUserKey();
  assert.match(seed, /^SU[A-Z2-7]{56}$/);
  assert.match(publicKey, /^U[A-Z2-7]{55}$/);
  assert.equal(publicKeyOf(seed), publicKey);
  assert.equal(nkeys.fromPublic(publicKey).getPublicKey(), publicKey, "its check sum holds");
});

test("what is no seed is refused: a public key, another letter, nothing", () => {
  const { seed, publicKey } = makeUserKey();
  const altered = `${seed.slice(0, 20)}${seed[20] === "A" ? "B" : "A"}${seed.slice(21)}`;
  for (const text of [publicKey, altered, "", "seed"]) assert.throws(() => publicKeyOf(text), Error, text);
});
