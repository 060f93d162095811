import { createHash } from "node:crypto";
import { promisify } from "node:util";
import { deflateRaw, inflateRaw } from "node:zlib";
import { z } from "zod";
import type { Sealer } from "../mcp/seal.ts";
import { type SharedBucketOptions, sharedBucket } from "../mcp/shared-bucket.ts";

/** What an upstream gave last for a list. */
export interface LastList {
  readonly items: readonly Record<string, unknown>[];
  readonly hash: string;
  readonly atMs: number;
}

/**
 * What upstreams gave last, for router processes that have not asked them themselves: the tools of a dead upstream stay listed in each of them, and
 * after a restart. Sealed, because tools may be for one agent's eyes. Nothing waits for `keep`, and for `find` nobody longer than the bucket's time.
 */
export interface LastLists {
  /** False: others cannot find it, and it is worth another try. */
  keep(key: string, last: LastList): Promise<boolean>;
  find(key: string): Promise<LastList | null>;
}

const lastList = z.object({ key: z.string(), items: z.array(z.record(z.string(), z.unknown())), hash: z.string(), atMs: z.number() });
/** Below what an entry of the bucket may have, sealed. */
const packedBytesMax = 32 * 1024;
const textCharsMax = 4 * 1024 * 1024;
const writesMax = 16;
/** A client asks for the lists of all upstreams at once. */
const waitingMax = 1000;

const pack = promisify(deflateRaw);
const unpack = promisify<Buffer, { maxOutputLength: number }, Buffer>(inflateRaw);

export function createLastLists(options: SharedBucketOptions & { readonly sealer: Sealer }): LastLists {
  const shared = sharedBucket(options);
  let writes = 0;
  const waiting = new Map<string, { readonly last: LastList; readonly told: (isKept: boolean) => void }>();
  const write = async (key: string, last: LastList): Promise<boolean> => {
    const text = JSON.stringify({ key, ...last });
    // Of so many tools each process knows what it has asked for itself.
    if (text.length > textCharsMax) return true;
    const packed = await pack(Buffer.from(text));
    if (packed.length > packedBytesMax) return true;
    return (await shared((bucket) => bucket.put(nameOf(key), options.sealer.wrap(packed.toString("base64"))))) !== null;
  };
  const writeNext = (): void => {
    const [next] = waiting;
    if (next === undefined || writes >= writesMax) return;
    const [key, { last, told }] = next;
    waiting.delete(key);
    writes += 1;
    void write(key, last)
      .catch((error: unknown) => {
        options.onTrouble(error);
        return false;
      })
      .then((isKept) => {
        writes -= 1;
        told(isKept);
        writeNext();
      });
  };
  const read = async (key: string, sealed: string): Promise<LastList | null> => {
    const packed = options.sealer.unwrap(sealed);
    if (packed === null) return null;
    const text = await unpack(Buffer.from(packed, "base64"), { maxOutputLength: 4 * textCharsMax });
    const last = lastList.parse(JSON.parse(text.toString("utf8")));
    // Whoever may write to the bucket cannot give one agent what another one was given.
    return last.key === key ? last : null;
  };
  return {
    keep(key, last) {
      return new Promise((told) => {
        // Where one waits already, the newer one is told in its place.
        waiting.get(key)?.told(true);
        waiting.set(key, { last, told });
        if (waiting.size > waitingMax) {
          const [oldest, { told: toldOldest }] = waiting.entries().next().value as [string, { told: (isKept: boolean) => void }];
          waiting.delete(oldest);
          toldOldest(false);
        }
        writeNext();
      });
    },
    async find(key) {
      const found = await shared((bucket) => bucket.get(nameOf(key)));
      if (!found?.value) return null;
      // An entry that cannot be read is none: the next one who lists writes it anew.
      return read(key, found.value.value).catch((error: unknown) => {
        options.onTrouble(error);
        return null;
      });
    },
  };
}

function nameOf(key: string): string {
  return `list-${createHash("sha256").update(key).digest("base64url")}`;
}
