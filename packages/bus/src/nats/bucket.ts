import { buckets } from "@mcp-failover/contracts";
import type { KV, KvOptions, NatsConnection } from "nats";
import { type Bucket, BusError } from "../bus.ts";
import { ApiError, apiCodes, callApi, type StreamInfoWire, toBusError } from "./api.ts";
import type { NatsLink } from "./link.ts";
import { ensureObjects } from "./objects.ts";
import { UnansweredError } from "./unanswered.ts";
import { untilLost } from "./until-lost.ts";

const reachMs = 5000;
const againMs = 100;

interface BucketLimits {
  readonly ttlMs?: number;
  readonly maxValueBytes?: number;
  readonly maxBytes?: number;
  readonly replicas?: number;
}

/** Makes all that the services keep things in, and the object store. Throws {@link BusError}. */
export async function makeBuckets(link: NatsLink, replicas: number): Promise<void> {
  for (const [name, limits] of Object.entries(buckets)) {
    await openBucket(link, name, { ...limits, replicas }).get("made");
    await replicate(link, `KV_${name}`, replicas);
  }
  try {
    await ensureObjects(link, replicas);
  } catch (error) {
    throw toBusError(error, "make the object store");
  }
}

/** What was made before there was a cluster is on one server, and lost with that. What is not there is left to who makes it. */
export async function replicate(link: NatsLink, stream: string, replicas: number): Promise<void> {
  try {
    const { config } = await callApi<StreamInfoWire>(link, `STREAM.INFO.${stream}`, undefined, reachMs);
    if (config.num_replicas < replicas) await callApi(link, `STREAM.UPDATE.${stream}`, { ...config, num_replicas: replicas }, reachMs);
  } catch (error) {
    if (error instanceof ApiError && error.errCode === apiCodes.streamNotFound) return;
    throw toBusError(error, `replicate ${stream}`);
  }
}

/** JetStream KV. The bucket is made at first use; it is opened anew on a new connection, and after nobody answered: it may have been lost. */
export function openBucket(link: NatsLink, name: string, limits: BucketLimits): Bucket {
  let opened: { nc: NatsConnection; kv: Promise<KV> } | null = null;
  const options: Partial<KvOptions> = {
    history: 1,
    // Clients find it made.
    bindOnly: link.client !== null,
    ...(limits.ttlMs === undefined ? {} : { ttl: limits.ttlMs }),
    ...(limits.maxValueBytes === undefined ? {} : { maxValueSize: limits.maxValueBytes }),
    ...(limits.replicas === undefined ? {} : { replicas: limits.replicas }),
    ...(limits.maxBytes === undefined ? {} : { max_bytes: limits.maxBytes }),
  };

  async function open(): Promise<KV> {
    const nc = await link.reach(reachMs);
    if (opened?.nc !== nc) {
      const kv = nc.jetstream({ timeout: reachMs, apiPrefix: link.apiPrefix }).views.kv(name, options);
      opened = { nc, kv };
      kv.catch(() => {
        opened = null; // The next use tries again; this one throws.
      });
    }
    return opened.kv;
  }

  /** "Nobody listens" is certain not to have been stored, and passes: the server has just started, or the bucket was just made. */
  async function through<T>(key: string, act: (kv: KV) => Promise<T>): Promise<T> {
    const endMs = performance.now() + reachMs;
    for (;;) {
      try {
        return await once(key, act);
      } catch (error) {
        if (!(error instanceof BusError && error.code === "no_responders")) throw error;
        if (performance.now() > endMs) throw new BusError("unreachable", error.message, { retriable: true, cause: error });
        await link.sleep(againMs);
      }
    }
  }

  async function once<T>(key: string, act: (kv: KV) => Promise<T>): Promise<T> {
    try {
      return await untilLost(link, `the key ${JSON.stringify(key)}`, act(await open()));
    } catch (error) {
      const told = explain(error, name, key);
      if (told.code === "no_responders" || told.code === "timeout") opened = null;
      throw told;
    }
  }

  /** Null when somebody else was first. */
  async function fenced(write: Promise<number>): Promise<number | null> {
    try {
      return await write;
    } catch (error) {
      const code = errCodeOf(error);
      if (code === apiCodes.wrongLastSequence || code === apiCodes.sequenceInFlight) return null;
      throw error;
    }
  }

  return {
    get: (key) =>
      through(key, async (kv) => {
        const entry = await kv.get(key);
        if (entry === null || entry.operation !== "PUT") return null;
        return { value: entry.string(), revision: entry.revision, storedMs: entry.created.getTime() };
      }),
    create: (key, value) => through(key, (kv) => fenced(kv.create(key, value))),
    update: (key, value, revision) => through(key, (kv) => fenced(kv.update(key, value, revision))),
    put: (key, value) => through(key, (kv) => kv.put(key, value)),
    delete: (key) => through(key, (kv) => kv.delete(key)),
  };
}

function errCodeOf(error: unknown): number | undefined {
  return (error as { api_error?: { err_code?: number } } | null)?.api_error?.err_code;
}

function explain(error: unknown, bucket: string, key: string): BusError {
  if (error instanceof BusError) return error;
  const text = error instanceof Error ? error.message : String(error);
  const code = (error as { code?: unknown } | null)?.code;
  const what = `the key ${JSON.stringify(key)} of the bucket ${bucket}`;
  if (error instanceof UnansweredError || code === "TIMEOUT") {
    return new BusError("timeout", `no answer about ${what}; a write may have happened: read it again`, { retriable: true, cause: error });
  }
  if (code === "503") return new BusError("no_responders", `JetStream does not answer about ${what}`, { retriable: true, cause: error });
  if (errCodeOf(error) === apiCodes.messageTooLarge || code === "MAX_PAYLOAD_EXCEEDED") {
    return new BusError("too_large", `the value for ${what} is larger than the bucket takes`, { retriable: false, cause: error });
  }
  return new BusError("rejected", `${what}: ${text}`, { retriable: false, cause: error });
}
