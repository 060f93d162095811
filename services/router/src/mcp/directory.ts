import { z } from "zod";
import { type SharedBucketOptions, sharedBucket } from "./shared-bucket.ts";

/**
 * Where a session went after its id was sealed. Most sessions never get an entry: the id itself says where they live. Guarantees:
 * D1  Of several router processes that move one session at once, the first writer wins and the others adopt what it wrote.
 * D2  Nothing waits for it longer than `timeoutMs`: without NATS each process goes on with what it knows, and the upstreams' own "unknown
 *     session" sends it back here later.
 * D3  The entries are bounded in number and age; one that was dropped costs one more replay.
 */
export interface SessionDirectory {
  /** Null: nothing known. */
  read(key: string): Promise<SessionRecord | null>;
  /**
   * Applies a change to the record as it is now, and again when another process was faster. `change` returns null to leave it.
   * Returns the record that stands afterwards.
   */
  change(key: string, change: (record: SessionRecord) => SessionRecord | null): Promise<SessionRecord>;
}

const sessionRecord = z.object({
  /** The client ended the session. */
  ended: z.boolean(),
  /** Upstream session id by endpoint; null for an endpoint that has no ids. */
  holds: z.record(z.string(), z.string().nullable()),
  /** `params` of the last logging/setLevel. */
  level: z.unknown().optional(),
  subscriptions: z.array(z.string()),
});
export interface SessionRecord {
  readonly ended: boolean;
  readonly holds: Readonly<Record<string, string | null>>;
  readonly level?: unknown;
  readonly subscriptions: readonly string[];
}
const emptyRecord: SessionRecord = { ended: false, holds: {}, subscriptions: [] };

const recordsMax = 20_000;
const attemptsMax = 5;

/** Of one process alone: the memory twin, and what the shared directory falls back to. */
export function createMemoryDirectory(): SessionDirectory {
  const records = new Map<string, SessionRecord>();
  return {
    read: async (key) => records.get(key) ?? null,
    async change(key, change) {
      const before = records.get(key) ?? emptyRecord;
      const after = change(before);
      if (after === null) return before;
      records.delete(key);
      records.set(key, after);
      // The oldest change goes first (D3).
      if (records.size > recordsMax) records.delete(records.keys().next().value as string);
      return after;
    },
  };
}

/** Shared through a KV bucket. */
export function createSharedDirectory(options: SharedBucketOptions): SessionDirectory {
  const local = createMemoryDirectory();
  const shared = sharedBucket(options);

  return {
    async read(key) {
      const found = await shared((bucket) => bucket.get(key));
      const record = found?.value ? parse(found.value.value) : null;
      return record ?? (await local.read(key));
    },
    async change(key, change) {
      const stands = await shared(async (bucket) => {
        for (let attempt = 1; attempt <= attemptsMax; attempt++) {
          const entry = await bucket.get(key);
          const before = (entry && parse(entry.value)) ?? emptyRecord;
          const after = change(before);
          if (after === null) return before;
          const text = JSON.stringify(after);
          const revision = entry === null ? await bucket.create(key, text) : await bucket.update(key, text, entry.revision);
          if (revision !== null) return after;
        }
        throw new Error(`the session's record changed ${attemptsMax} times under our hands`);
      });
      if (stands === null) return local.change(key, change);
      // Kept here too, for the time when the bus is away.
      await local.change(key, () => stands.value);
      return stands.value;
    },
  };
}

function parse(text: string): SessionRecord | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    // A damaged entry is as good as none: the next change writes it anew.
    return null;
  }
  const parsed = sessionRecord.safeParse(value);
  return parsed.success ? parsed.data : null;
}
