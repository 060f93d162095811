import { type Bucket, BusError } from "../bus.ts";

export interface BucketLimits {
  readonly ttlMs?: number;
  readonly maxValueBytes?: number;
  readonly maxBytes?: number;
}

/** Keys as JetStream KV takes them. */
const bucketKey = /^[-/=.\w]+$/;

export class MemoryBucket {
  readonly #limits: BucketLimits;
  readonly #entries = new Map<string, { value: string | null; revision: number; atMs: number }>();
  readonly #nowMs: () => number;
  #revision = 0;

  constructor(limits: BucketLimits, nowMs: () => number) {
    this.#limits = limits;
    this.#nowMs = nowMs;
  }

  /** The face of one connection; `reach` throws where that is cut. */
  face(reach: () => Promise<void>): Bucket {
    const through = async <T>(key: string, act: () => T): Promise<T> => {
      if (!bucketKey.test(key))
        throw new BusError("rejected", `${JSON.stringify(key)} is no key: use letters, digits and - / = . _`, { retriable: false });
      await reach();
      return act();
    };
    return {
      get: (key) =>
        through(key, () => {
          const entry = this.#live(key);
          return entry === undefined || entry.value === null
            ? null
            : { value: entry.value, revision: entry.revision, storedMs: entry.atMs };
        }),
      create: (key, value) => through(key, () => ((this.#live(key)?.value ?? null) === null ? this.#set(key, value) : null)),
      update: (key, value, revision) => through(key, () => ((this.#live(key)?.revision ?? 0) === revision ? this.#set(key, value) : null)),
      put: (key, value) => through(key, () => this.#set(key, value)),
      delete: (key) =>
        through(key, () => {
          this.#set(key, null);
        }),
    };
  }

  #live(key: string): { value: string | null; revision: number; atMs: number } | undefined {
    const entry = this.#entries.get(key);
    if (entry !== undefined && this.#limits.ttlMs !== undefined && entry.atMs + this.#limits.ttlMs <= this.#nowMs()) {
      this.#entries.delete(key);
      return undefined;
    }
    return entry;
  }

  #set(key: string, value: string | null): number {
    const sizeBytes = Buffer.byteLength(value ?? "");
    if (this.#limits.maxValueBytes !== undefined && sizeBytes > this.#limits.maxValueBytes) {
      throw new BusError("too_large", `${sizeBytes} bytes are more than the ${this.#limits.maxValueBytes} of the bucket`, {
        retriable: false,
      });
    }
    this.#revision += 1;
    this.#entries.set(key, { value, revision: this.#revision, atMs: this.#nowMs() });
    return this.#revision;
  }
}
