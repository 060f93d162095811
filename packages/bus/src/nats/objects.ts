import { sha256 } from "@mcp-failover/contracts";
import type { ObjectStore } from "nats";
import { BusError } from "../bus.ts";
import { type ObjectPort, objectBucket, objectBucketBytesMax } from "../claim-check.ts";
import { ApiError, apiCodes, callApi, type StreamInfoWire, toBusError } from "./api.ts";
import type { NatsLink } from "./link.ts";
import type { NatsLog } from "./log.ts";
import { untilLost } from "./until-lost.ts";

const reachMs = 5000;
const apiMs = 5000;
/** One object; nats.js waits for ever where chunks are gone. */
const objectMs = 20_000;
/** Whether what is there is whole: one that does not come in this time is written again. */
const wholeMs = 5000;
export const objectStream = `OBJ_${objectBucket}`;

/** NATS's object store, in the format of `nats object`. The bucket is made with the first object, as replicated as AUDIT is. */
export function natsObjects(link: NatsLink, log: NatsLog): ObjectPort {
  async function there(): Promise<boolean> {
    try {
      await callApi<StreamInfoWire>(link, `STREAM.INFO.${objectStream}`, undefined, apiMs);
      return true;
    } catch (error) {
      if (error instanceof ApiError && error.errCode === apiCodes.streamNotFound) return false;
      throw error;
    }
  }

  async function open(replicas: number): Promise<ObjectStore> {
    const nc = await link.reach(reachMs);
    return nc.jetstream({ timeout: apiMs }).views.os(objectBucket, { max_bytes: objectBucketBytesMax, replicas });
  }

  async function get(name: string): Promise<Uint8Array | null> {
    return (await there()) ? (await open(1)).getBlob(name) : null;
  }

  async function put(name: string, bytes: Uint8Array): Promise<void> {
    const { config } = await log.streamInfo("AUDIT", apiMs);
    const store = await open(config.num_replicas);
    const before = (await store.info(name)) === null ? null : await shortly(get(name));
    // Written again only where it is not whole: others may be reading it.
    if (before === null || sha256(before) !== name) await store.putBlob({ name, description: "a configuration" }, bytes);
  }

  /** Null: it failed, or did not come. */
  async function shortly(reading: Promise<Uint8Array | null>): Promise<Uint8Array | null> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<null>((resolve) => {
      timer = setTimeout(resolve, wholeMs, null);
    });
    return Promise.race([reading.catch(() => null), late]).finally(() => clearTimeout(timer));
  }

  async function bounded<T>(what: string, act: () => Promise<T>): Promise<T> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => reject(new BusError("timeout", `no answer about ${what} in ${objectMs} ms`, { retriable: true })), objectMs);
    });
    try {
      return await untilLost(link, what, Promise.race([act(), late]));
    } catch (error) {
      throw explained(error, what);
    } finally {
      clearTimeout(timer);
    }
  }

  return {
    get: (name) => bounded(`the object ${name.slice(0, 12)}`, () => get(name)),
    put: (name, bytes) => bounded(`the object ${name.slice(0, 12)}`, () => put(name, bytes)),
    sleep: (ms) => link.sleep(ms),
  };
}

function explained(error: unknown, what: string): BusError {
  if (error instanceof BusError) return error;
  const { code, api_error: api } = error as { code?: unknown; api_error?: { err_code?: number } };
  const text = error instanceof Error ? error.message : String(error);
  if (code === "TIMEOUT" || code === "503" || code === "CONNECTION_CLOSED") {
    return new BusError("unreachable", `JetStream does not answer about ${what}`, { retriable: true, cause: error });
  }
  if (api?.err_code === apiCodes.streamStoreFailed || api?.err_code === apiCodes.insufficientStorage) {
    return new BusError("stream_full", `there is no room for ${what} in ${objectStream} (${text}): free some disk, or raise its limit`, {
      retriable: false,
      cause: error,
    });
  }
  const told = toBusError(error, `use ${what}`);
  // A time-out says that the object does not come whole; who is not answered at all has not asked for it yet.
  return told.code === "timeout" ? new BusError("unreachable", told.message, { retriable: true, cause: error }) : told;
}
