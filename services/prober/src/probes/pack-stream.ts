import { MalformedError } from "./check.ts";

/**
 * PackStream, the values of Bolt messages: as much of it as logging on needs. https://neo4j.com/docs/bolt/current/packstream/
 * Reading is bounded in depth, and never goes beyond the message.
 */
const depthMax = 16;

/** A structure without fields, or with one map of texts and maps. */
export function packMessage(tag: number, fields?: PackMap): Buffer {
  return fields === undefined ? Buffer.from([0xb0, tag]) : Buffer.concat([Buffer.from([0xb1, tag]), packMap(fields)]);
}
export interface PackMap {
  readonly [key: string]: string | PackMap;
}

function packMap(map: PackMap): Buffer {
  const entries = Object.entries(map);
  const packed = entries.flatMap(([key, value]) => [packText(key), typeof value === "string" ? packText(value) : packMap(value)]);
  return Buffer.concat([Buffer.from([0xa0 | entries.length]), ...packed]);
}

function packText(text: string): Buffer {
  const bytes = Buffer.from(text, "utf8");
  const { length } = bytes;
  const head = length < 16 ? [0x80 | length] : length < 256 ? [0xd0, length] : [0xd1, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.from(head), bytes]);
}

/** The tag of a message and its first field. Throws {@link MalformedError}. */
export function unpackMessage(bytes: Buffer): { readonly tag: number; readonly fields: Readonly<Record<string, unknown>> } {
  const [head, tag] = bytes;
  if (head === undefined || tag === undefined || head >> 4 !== 0xb) throw new MalformedError("a Bolt message that is no structure");
  const first = (head & 0x0f) === 0 ? {} : new Unpacker(bytes.subarray(2)).value(0);
  return { tag, fields: first !== null && typeof first === "object" && !Array.isArray(first) ? (first as Record<string, unknown>) : {} };
}

class Unpacker {
  readonly #bytes: Buffer;
  #at = 0;
  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  value(depth: number): unknown {
    const head = this.#unsigned(1);
    if (depth > depthMax) throw new MalformedError("a Bolt message that is nested too deeply");
    if (head < 0x80) return head;
    if (head >= 0xf0) return head - 256;
    const low = head & 0x0f;
    switch (head >> 4) {
      case 0x8:
        return this.#text(low);
      case 0x9:
        return this.#list(low, depth);
      case 0xa:
        return this.#map(low, depth);
      case 0xb:
        this.#unsigned(1);
        return this.#list(low, depth);
      default:
        return this.#long(head, depth);
    }
  }

  #long(head: number, depth: number): unknown {
    switch (head) {
      case 0xc0:
        return null;
      case 0xc1:
        return this.#take(8).readDoubleBE(0);
      case 0xc2:
        return false;
      case 0xc3:
        return true;
      case 0xc8:
        return this.#take(1).readInt8(0);
      case 0xc9:
        return this.#take(2).readInt16BE(0);
      case 0xca:
        return this.#take(4).readInt32BE(0);
      case 0xcb:
        return Number(this.#take(8).readBigInt64BE(0));
      case 0xcc:
      case 0xcd:
      case 0xce:
        return this.#take(this.#unsigned(2 ** (head - 0xcc)));
      case 0xd0:
      case 0xd1:
      case 0xd2:
        return this.#text(this.#unsigned(2 ** (head - 0xd0)));
      case 0xd4:
      case 0xd5:
      case 0xd6:
        return this.#list(this.#unsigned(2 ** (head - 0xd4)), depth);
      case 0xd8:
      case 0xd9:
      case 0xda:
        return this.#map(this.#unsigned(2 ** (head - 0xd8)), depth);
      default:
        throw new MalformedError("a Bolt message with an unknown marker");
    }
  }

  #take(count: number): Buffer {
    const end = this.#at + count;
    if (end > this.#bytes.length) throw new MalformedError("a Bolt message that ends too early");
    const taken = this.#bytes.subarray(this.#at, end);
    this.#at = end;
    return taken;
  }

  #unsigned(size: number): number {
    return this.#take(size).readUIntBE(0, size);
  }

  #text(length: number): string {
    return this.#take(length).toString("utf8");
  }

  #list(length: number, depth: number): unknown[] {
    const list: unknown[] = [];
    for (let n = 0; n < length; n += 1) list.push(this.value(depth + 1));
    return list;
  }

  #map(length: number, depth: number): Record<string, unknown> {
    const entries: [string, unknown][] = [];
    for (let n = 0; n < length; n += 1) entries.push([String(this.value(depth + 1)), this.value(depth + 1)]);
    return Object.fromEntries(entries);
  }
}
