import { z } from "zod";
import { actor } from "./primitives.ts";

/** `log.started`, the first event of AUDIT, and again at `mcpf log adopt`: carries the generation of the log. */
export const logStarted = z.looseObject({
  generation: z.number().int().positive(),
  timestamp: z.iso.datetime(),
  by: actor,
  reason: z.string(),
});
export type LogStarted = z.infer<typeof logStarted>;

/**
 * How large a configuration may be, as JSON. Up to `inlineBytesMax` it travels in its event (NATS takes 1 MiB a message), above that it lies in the object
 * store; 16 MiB are about 50,000 endpoints, and what a process can parse and hold without a pause that its timers would feel as a fault.
 */
export const configurationLimits = { inlineBytesMax: 512 * 1024, bytesMax: 16 * 1024 * 1024 } as const;

/** Where a topology lies that is too large for its event: an object of NATS's object store, named by the SHA-256 (hex) of its bytes, which are JSON. */
export const topologyObject = z.looseObject({
  bucket: z.string().min(1).max(128),
  name: z.string().min(1).max(128),
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
  bytes: z.number().int().positive().max(configurationLimits.bytesMax),
});
export type TopologyObject = z.infer<typeof topologyObject>;

/**
 * `config.applied`, fenced: a version of the configuration. `topology` is the parsed file, secrets by name only; on the wire it is null where
 * `topologyObject` says where it lies, and readers of the bus get it filled in.
 */
export const configApplied = z.looseObject({
  version: z.number().int().positive(),
  /** SHA-256 (hex) of the canonical JSON of the topology. */
  hash: z.string(),
  /** The same of the file that it came from, null when it came from a rollback or a patch. */
  fileHash: z.string().nullable(),
  timestamp: z.iso.datetime(),
  by: actor,
  reason: z.string(),
  environment: z.enum(["development", "production"]),
  topology: z.unknown(),
  topologyObject: topologyObject.optional(),
});
export type ConfigApplied = z.infer<typeof configApplied>;
