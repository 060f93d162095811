import { createPrivateKey, createPublicKey, sign } from "node:crypto";
import { nkeys } from "nats";

// NKeys of users (https://github.com/nats-io/nkeys: base32 without padding of a prefix, the key and a CRC-16) by Node's own Ed25519:
// nkeys.js computes it in JavaScript, where the first proof takes a process about 40 ms of CPU.

/** Of RFC 4648. */
const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/** The first byte of a user's public key, which makes its first letter a U. */
const userPrefix = 20 << 3;
/** What a seed has before the key: its own prefix, with that of the user in it. */
const seedPrefixBytes = 2;
const keyBytes = 32;
/** PKCS#8 around the 32 bytes of an Ed25519 key (RFC 8410, section 7). */
const pkcs8Head = Buffer.from("302e020100300506032b657004220420", "hex");

/** A key pair that proves who a connection is. */
interface UserKey {
  /** `U…`, as the server's configuration names it. */
  readonly publicKey: string;
  /** The signature of `text`, in base64. */
  prove(text: string): string;
}

/** The key pair of a seed. Throws what `nkeys` throws for anything else. */
export function userKey(seed: Uint8Array): UserKey {
  // Checks the check sum, and that it is a seed.
  nkeys.fromSeed(seed);
  const raw = fromBase32(new TextDecoder().decode(seed)).subarray(seedPrefixBytes, seedPrefixBytes + keyBytes);
  const key = createPrivateKey({ key: Buffer.concat([pkcs8Head, raw]), format: "der", type: "pkcs8" });
  // The key is the last that there is in SPKI.
  const body = Buffer.concat([Buffer.from([userPrefix]), createPublicKey(key).export({ format: "der", type: "spki" }).subarray(-keyBytes)]);
  const sum = Buffer.alloc(2);
  sum.writeUInt16LE(crc16(body));
  return {
    publicKey: toBase32(Buffer.concat([body, sum])),
    prove: (text) => sign(null, Buffer.from(text), key).toString("base64"),
  };
}

function toBase32(bytes: Uint8Array): string {
  let text = "";
  let held = 0;
  let bits = 0;
  for (const byte of bytes) {
    held = (held << 8) | byte;
    for (bits += 8; bits >= 5; bits -= 5) text += letters[(held >> (bits - 5)) & 31];
    held &= (1 << bits) - 1;
  }
  return bits === 0 ? text : text + letters[(held << (5 - bits)) & 31];
}

function fromBase32(text: string): Buffer {
  const bytes: number[] = [];
  let held = 0;
  let bits = 0;
  for (const letter of text) {
    held = (held << 5) | letters.indexOf(letter);
    bits += 5;
    if (bits < 8) continue;
    bits -= 8;
    bytes.push(held >> bits);
    held &= (1 << bits) - 1;
  }
  return Buffer.from(bytes);
}

/** CRC-16/XMODEM. */
function crc16(bytes: Uint8Array): number {
  let sum = 0;
  for (const byte of bytes) {
    sum ^= byte << 8;
    for (let bit = 0; bit < 8; bit += 1) sum = (sum & 0x8000 ? (sum << 1) ^ 0x1021 : sum << 1) & 0xffff;
  }
  return sum;
}
