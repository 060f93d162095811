import { objectStream, type StreamName, sha256 } from "@mcp-failover/contracts";
import type { ObjectStore } from "nats";
import { BusError } from "../bus.ts";
import { type ObjectPort, objectBucket, objectBucketBytesMax } from "../claim-check.ts";
import { ApiError, apiCodes, callApi, type StoredWire, toBusError } from "./api.ts";
import type { NatsLink } from "./link.ts";
import type { NatsLog } from "./log.ts";
import { openConsumer } from "./pull.ts";
import { UnansweredError } from "./unanswered.ts";
import { untilLost } from "./until-lost.ts";

const reachMs = 5000;
const apiMs = 5000;
/** One object; nats.js waits for ever where chunks are gone. */
const objectMs = 20_000;
/** Whether what is there is whole: one that does not come in this time is written again. */
const wholeMs = 5000;
/** Pieces (of 128 KiB) that wait in this process at most. */
const batch = 64;

/** NATS's object store, in the format of `nats object`. The bucket is made with the first object, as replicated as AUDIT is. */
export function natsObjects(link: NatsLink, log: NatsLog): ObjectPort {
  async function open(): Promise<ObjectStore> {
    const nc = await link.reach(reachMs);
    return nc.jetstream({ timeout: apiMs, apiPrefix: link.apiPrefix }).views.os(objectBucket);
  }

  /** nats.js reads an object by a consumer that pushes, which no client may make; the pieces are pulled here. */
  async function get(name: string): Promise<Uint8Array | null> {
    const about = await meta(name);
    if (about === null || about.deleted === true) return null;
    const pieces: Uint8Array[] = [];
    let length = 0;
    if (about.chunks > 0) {
      const consumer = await openConsumer(link, objectStream as StreamName, {
        filter: `$O.${objectBucket}.C.${about.nuid}`,
        from: { kind: "all" },
      });
      try {
        while (pieces.length < about.chunks) {
          const pull = consumer.pull({ batch: Math.min(batch, about.chunks - pieces.length), wait: false });
          const before = pieces.length;
          for (let step = await pull.next(); ; step = await pull.next()) {
            if (step.done) {
              // What is gone does not come later either: the hash of what is there tells.
              if (step.value.kind === "broken") throw new UnansweredError("disconnected", true, step.value.reason);
              break;
            }
            pieces.push(step.value.raw.bytes);
            length += step.value.raw.bytes.length;
            if (length > objectBucketBytesMax) break;
          }
          if (pieces.length === before) break;
        }
      } finally {
        consumer.close();
      }
    }
    return new Uint8Array(Buffer.concat(pieces));
  }

  /** What NATS's object store keeps beside an object, or null where there is none. */
  async function meta(name: string): Promise<{ nuid: string; chunks: number; deleted?: boolean } | null> {
    const subject = `$O.${objectBucket}.M.${Buffer.from(name).toString("base64url")}`;
    const padded = subject.padEnd(subject.length + ((4 - ((subject.length - `$O.${objectBucket}.M.`.length) % 4)) % 4), "=");
    try {
      const { message } = await callApi<StoredWire>(link, `STREAM.MSG.GET.${objectStream}`, { last_by_subj: padded }, apiMs);
      return JSON.parse(Buffer.from(message.data ?? "", "base64").toString("utf8"));
    } catch (error) {
      if (error instanceof ApiError && (error.errCode === apiCodes.streamNotFound || error.errCode === apiCodes.messageNotFound))
        return null;
      throw error;
    }
  }

  async function put(name: string, bytes: Uint8Array): Promise<void> {
    const { config } = await log.streamInfo("AUDIT", apiMs);
    // Clients of a bus with permissions find it made.
    if (link.client === null) await ensureObjects(link, config.num_replicas);
    const store = await open();
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

/** Makes the bucket where it is missing. By hand: nats.js sends a field that nats-server 2.12 and newer refuse. Throws {@link ApiError}. */
export async function ensureObjects(link: NatsLink, replicas: number): Promise<void> {
  const config = {
    name: objectStream,
    subjects: [`$O.${objectBucket}.C.>`, `$O.${objectBucket}.M.>`],
    retention: "limits",
    discard: "new",
    storage: "file",
    max_bytes: objectBucketBytesMax,
    max_age: 0,
    max_consumers: -1,
    max_msgs: -1,
    num_replicas: replicas,
    allow_rollup_hdrs: true,
    allow_direct: true,
  };
  try {
    // Looked for first: a server without room to reserve it once more refuses that before it sees that it is there.
    const there = await callApi(link, `STREAM.INFO.${objectStream}`, undefined, apiMs).catch((error: unknown) => {
      if (error instanceof ApiError && error.errCode === apiCodes.streamNotFound) return null;
      throw error;
    });
    if (there === null) await callApi(link, `STREAM.CREATE.${objectStream}`, config, apiMs);
  } catch (error) {
    // Made with other settings meanwhile: they stay.
    if (!(error instanceof ApiError && error.errCode === apiCodes.streamNameInUse)) throw error;
  }
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
