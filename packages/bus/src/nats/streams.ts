import { buckets, objectStream, type StreamDefinition } from "@mcp-failover/contracts";
import { BusError } from "../bus.ts";
import { refuseReplicas } from "../replicas.ts";
import { widened } from "../widened.ts";
import { ApiError, apiCodes, callApi, type StreamInfoWire, toBusError } from "./api.ts";
import { openBucket, replicate } from "./bucket.ts";
import type { NatsLink } from "./link.ts";
import { storeCheckBucket } from "./store-check.ts";

const reachMs = 5000;
const apiMs = 10_000;

/** Makes what is missing and widens what is there; asking again changes nothing. B8. */
export async function ensureStreams(link: NatsLink, definitions: readonly StreamDefinition[], replicas: number): Promise<void> {
  await link.reach(reachMs);
  const { status } = link;
  if (status.kind !== "connected") throw link.unreachable();
  refuseReplicas(replicas, status.serverVersion);
  for (const definition of definitions) {
    try {
      await ensure(link, definition, replicas);
    } catch (error) {
      if (error instanceof ApiError && error.errCode === apiCodes.insufficientStorage) {
        throw new BusError(
          "rejected",
          `the server has no room to reserve ${definition.maxBytes} bytes for ${definition.name}: set max_file_store under jetstream in its configuration (16GB is enough for all; without it, it takes three quarters of the free disk), or free some disk`,
          { retriable: false, cause: error },
        );
      }
      throw toBusError(error, `make the stream ${definition.name}`, definition.name);
    }
  }
  // The bucket of large configurations is made with the first of them; where it is there, it is as safe as the log that points at it.
  await replicate(link, objectStream, replicas);
  // Services only look for it: one that they made would be on one server, and lost with that.
  await openBucket(link, storeCheckBucket, { ...buckets[storeCheckBucket], replicas }).get("made");
  await replicate(link, `KV_${storeCheckBucket}`, replicas);
}

async function ensure(link: NatsLink, definition: StreamDefinition, replicas: number): Promise<void> {
  const { name } = definition;
  const there = await callApi<StreamInfoWire>(link, `STREAM.INFO.${name}`, undefined, apiMs).catch((error: unknown) => {
    if (error instanceof ApiError && error.errCode === apiCodes.streamNotFound) return null;
    throw error;
  });
  if (there === null) {
    // Two that make it at once both succeed, because they ask for the same.
    await callApi(link, `STREAM.CREATE.${name}`, { ...limitsOf(definition), ...fixed(definition), num_replicas: replicas }, apiMs);
    return;
  }
  const { config } = there;
  const have: StreamDefinition = {
    ...definition,
    subjects: config.subjects ?? [],
    maxAgeMs: config.max_age / 1e6,
    maxBytes: config.max_bytes,
    maxMessages: config.max_msgs ?? -1,
    maxMsgBytes: config.max_msg_size ?? definition.maxMsgBytes,
    duplicateWindowMs: (config.duplicate_window ?? 0) / 1e6,
  };
  const want = widened(have, definition);
  const num_replicas = Math.max(config.num_replicas, replicas);
  const same = JSON.stringify(limitsOf(want)) === JSON.stringify(limitsOf(have)) && num_replicas === config.num_replicas;
  if (!same) await callApi(link, `STREAM.UPDATE.${name}`, { ...config, ...limitsOf(want), num_replicas }, apiMs);
}

function limitsOf(definition: StreamDefinition): Record<string, unknown> {
  return {
    subjects: definition.subjects,
    max_age: definition.maxAgeMs * 1e6,
    max_bytes: definition.maxBytes,
    max_msgs: definition.maxMessages,
    max_msg_size: definition.maxMsgBytes,
    duplicate_window: definition.duplicateWindowMs * 1e6,
  };
}

function fixed(definition: StreamDefinition): Record<string, unknown> {
  return {
    name: definition.name,
    retention: definition.retention,
    discard: definition.discard,
    storage: "file",
    max_consumers: -1,
  };
}
