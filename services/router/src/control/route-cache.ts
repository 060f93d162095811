import { KeptFile } from "@mcp-failover/bus";
import { breakerState, failoverState, healthState, rollbackScope, rollbackState, topology } from "@mcp-failover/contracts";
import { z } from "zod";
import type { TableSnapshot } from "./route-table.ts";

/** What stands in the file. It is read back through the schema: a file of another version, or a damaged one, is no route. */
const cacheFile = z.object({
  format: z.literal(1),
  /** Last moment at which the log was known to be in reach, so that nothing newer had been missed. */
  confirmedAtMs: z.number().int().nonnegative(),
  table: z.object({
    generation: z.number().int().nonnegative(),
    config: z
      .object({
        version: z.number().int().positive(),
        hash: z.string(),
        environment: z.enum(["development", "production"]),
        topology,
        seq: z.number().int().nonnegative(),
      })
      .nullable(),
    routes: z.record(z.string(), z.object({ state: failoverState, eventId: z.string().nullable() })),
    health: z.record(z.string(), healthState),
    breakers: z.record(z.string(), breakerState),
    rollbacks: z.record(
      z.string(),
      z.object({
        generation: z.number().int().nonnegative(),
        scope: rollbackScope,
        name: z.string(),
        state: rollbackState,
        /** Not in files from before it was kept. */
        eventId: z.string().nullable().default(null),
      }),
    ),
  }),
});
export interface CachedRoutes {
  readonly confirmedAtMs: number;
  readonly table: TableSnapshot;
}

/** Where the last known routes are kept. */
export type RouteStore = Pick<RouteCache, "load" | "saveSoon" | "flush">;

interface CacheLog {
  warn(details: object, message: string): void;
}

const problems = {
  unreadable: "the kept routes cannot be read",
  unusable: "the kept routes are damaged, or of another version, and are not used",
  unwritten: "the routes cannot be kept on disk; a restart without NATS would have none",
} as const;

/** The last known routes on disk: what a router that starts without NATS serves on. A disk that does not take them costs a warning, never a call. */
export class RouteCache {
  readonly #file: KeptFile<CachedRoutes>;

  constructor(path: string, log: CacheLog) {
    this.#file = new KeptFile<CachedRoutes>({
      path,
      parse: (value) => cacheFile.parse(value),
      onProblem: (problem, error) => log.warn({ path, err: error }, problems[problem]),
    });
  }

  /** Null: there is none that can be used. */
  load(): Promise<CachedRoutes | null> {
    return this.#file.load();
  }

  /** Writes soon. `read` is called when the time has come. */
  saveSoon(read: () => CachedRoutes): void {
    this.#file.saveSoon(() => ({ format: 1, ...read() }));
  }

  /** Writes what is pending, and waits for it. */
  flush(): Promise<void> {
    return this.#file.flush();
  }
}
