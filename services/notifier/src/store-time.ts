import { randomUUID } from "node:crypto";
import { BusError, StoreClock } from "@mcp-failover/bus";
import { buckets } from "@mcp-failover/contracts";
import type { Kit } from "@mcp-failover/service-kit";

const bucketName = "store-check";

/**
 * The store's clock, by which events were stored and waits are counted: this machine's may be days wrong. It is heard in every event that is
 * stored while this process runs; where AUDIT is silent, the time at which a key of our own was stored says it.
 */
export class StoreTime {
  readonly #kit: Kit;
  readonly #clock = new StoreClock(() => performance.now());
  /** By how much it is ahead of the clock that nobody sets, from what was stored here; until an event says it. */
  #offsetMs: number | null = null;
  #learning: Promise<number> | null = null;

  constructor(kit: Kit) {
    this.#kit = kit;
  }

  /** Null until anything was heard. */
  get nowMs(): number | null {
    const nowMs = this.#clock.nowMs() ?? (this.#offsetMs === null ? null : performance.now() + this.#offsetMs);
    return nowMs === null ? null : Math.floor(nowMs);
  }

  /** An event was stored just now. */
  hear(timeMs: number): void {
    this.#clock.hear(timeMs);
  }

  /** The connection is back: what comes at first may have been stored long ago. */
  reconnected(): void {
    this.#clock.reconnected();
  }

  /** The time, which is asked for where nothing was heard yet. Throws {@link BusError}. */
  async known(): Promise<number> {
    if (this.nowMs !== null) return this.nowMs;
    this.#learning ??= this.#learn().finally(() => {
      this.#learning = null;
    });
    const storedMs = await this.#learning;
    return this.nowMs ?? storedMs;
  }

  async #learn(): Promise<number> {
    const bucket = await this.#kit.bus.bucket(bucketName, buckets[bucketName]);
    const key = `${this.#kit.service}-time`;
    const revision = await bucket.put(key, randomUUID());
    const found = await bucket.get(key);
    // A copy that lags has what was stored at an earlier start.
    if (found === null || found.revision < revision)
      throw new BusError("timeout", `the bucket ${bucketName} does not give back yet what was stored`, { retriable: true });
    this.#offsetMs = found.storedMs - performance.now();
    return found.storedMs;
  }
}
