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

/** `config.applied`, fenced: a version of the configuration. `topology` is the parsed file, secrets by name only. */
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
});
export type ConfigApplied = z.infer<typeof configApplied>;
