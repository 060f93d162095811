import { z } from "zod";
import { breakerStatus, healthStatus, implementation } from "./primitives.ts";

/** `mcpf status -o json`, pinned. Times are ISO 8601; `responseTime` is in milliseconds. */
export const statusView = z.looseObject({
  upstreams: z.array(
    z.looseObject({
      name: z.string(),
      critical: z.boolean(),
      active: z.string(),
      epoch: z.number().int(),
      since: z.string(),
      mode: z.enum(["active_standby", "pool"]),
      held: z.looseObject({ by: z.string(), reason: z.string(), until: z.string().nullable() }).nullable(),
      endpoints: z.array(
        z.looseObject({
          name: z.string(),
          tier: z.number().int(),
          health: healthStatus,
          score: z.number(),
          breaker: breakerStatus,
          responseTime: z.number().nullable(),
          reason: z.string().nullable(),
        }),
      ),
    }),
  ),
  rollback: z.looseObject({
    system: implementation,
    agents: z.record(z.string(), implementation),
    tools: z.record(z.string(), implementation),
  }),
  services: z.array(z.looseObject({ name: z.string(), instances: z.number().int() })),
  /** Of a state-store that cannot read the log: it shows a backup, which knows nothing after this event of AUDIT. */
  backupUpToSeq: z.number().int().optional(),
});
export type StatusView = z.infer<typeof statusView>;
