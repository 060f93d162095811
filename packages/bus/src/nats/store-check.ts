import { clientApiPrefix } from "@mcp-failover/contracts";
import { callApi, readApi } from "./api.ts";
import type { NatsLink } from "./link.ts";

export const storeCheckBucket = "store-check";
const stream = `KV_${storeCheckBucket}`;
/** Who has stored something within this time needs no check. */
const idleMs = 10_000;
/** While NATS does not store, or did not the last time, this often: a bucket that is not made yet answers nobody, where accounts are. */
const againMs = 2000;
const tryMs = 2000;

/**
 * Stores a key of this service's own now and then where it stores nothing else, so that it knows whether it could: a decider may have
 * nothing to say for days, and would learn that it cannot in the hour of need.
 */
export function keepStoreChecked(link: NatsLink, key: string): { stop(): void } {
  const { store } = link;
  let stopped = false;

  async function run(): Promise<void> {
    while (!stopped && !link.closed) {
      if (!link.connected) {
        await link.changed(null);
        continue;
      }
      if (store.isDoubted || performance.now() - store.storedMs >= idleMs) await check();
      await link.sleep((store.isDoubted ? againMs : idleMs) * (0.75 + Math.random() / 2));
    }
  }

  async function check(): Promise<void> {
    const subject = `${link.client === null ? "" : `${clientApiPrefix}.`}$KV.${storeCheckBucket}.${key}`;
    try {
      readApi(await link.request(subject, new TextEncoder().encode(new Date().toISOString()), { timeoutMs: tryMs }));
      store.stored(stream);
    } catch (error) {
      // Nobody listens: JetStream is away, or nobody has made the bucket yet, which says nothing.
      const cause = (error as { reason?: unknown } | null)?.reason === "no_responders" ? await silenceOfJetStream() : error;
      if (cause !== null) store.failed(stream, cause);
    }
  }

  async function silenceOfJetStream(): Promise<unknown> {
    try {
      await callApi(link, "INFO", undefined, tryMs);
      return null;
    } catch (error) {
      return error;
    }
  }

  void run();
  return {
    stop() {
      stopped = true;
    },
  };
}
