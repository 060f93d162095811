import { z } from "zod";
import { breakerStatus, healthStatus, implementation, name } from "./primitives.ts";

/**
 * Pages of `state.status`, by bytes of JSON: half of a message (1 MiB, NATS' default), to leave room.
 * An upstream that is larger than a page has one of its own, up to `upstreamBytesMax`. `pagesMax` is for whoever reads them all: 100 MiB, more than
 * a configuration of 16 MiB comes to.
 */
export const statusLimits = { pageBytesMax: 512 * 1024, upstreamBytesMax: 960 * 1024, pagesMax: 200 } as const;

/** `page` of a request `state.status`. `{}` is the first page. */
export const statusPageRequest = z.looseObject({
  /** At most so many names of upstreams and agents; a page has fewer where no more fit. */
  limit: z.number().int().min(1).max(10_000).optional(),
  /** What is named after this, by code unit: `next` of the page before. The name need not be configured (any more). */
  after: name.optional(),
});
export type StatusPageRequest = z.infer<typeof statusPageRequest>;

/**
 * `page` of an answer to it. The answer then has the upstreams, the agents and the upstreams' tools of these names alone; `system` and `services` are
 * whole. Pages are of different moments, and maybe of different instances: each says its own. An upstream that is there all the time is
 * on exactly one page, whole, whatever is added, removed or moved in between.
 */
const statusPage = z.looseObject({
  /** The last event of AUDIT that this page knows. */
  seq: z.number().int().nonnegative(),
  /** `after` of the next page; null: nothing is named after this one. */
  next: name.nullable(),
  /** Place of each of this page's upstreams, which are in the order of their names, in the configuration. */
  places: z.array(z.number().int().nonnegative()),
});
export type StatusPage = z.infer<typeof statusPage>;

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
  /** Of a request with a `page` alone. */
  page: statusPage.optional(),
});
export type StatusView = z.infer<typeof statusView>;
