import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
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
      z.object({ generation: z.number().int().nonnegative(), scope: rollbackScope, name: z.string(), state: rollbackState }),
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

/** Changes that come closer together are written once. */
const debounceMs = 200;

/**
 * The last known routes on disk: what a router that starts without NATS serves on. Written whole and renamed, so that a crash leaves the
 * file before or the file after. A disk that does not take it costs a warning, never a call.
 */
export class RouteCache {
  readonly #path: string;
  readonly #log: CacheLog;
  #pending: (() => CachedRoutes) | null = null;
  #timer: NodeJS.Timeout | undefined;
  #writing: Promise<void> = Promise.resolve();

  constructor(path: string, log: CacheLog) {
    this.#path = path;
    this.#log = log;
  }

  /** Null: there is none that can be used. */
  async load(): Promise<CachedRoutes | null> {
    let text: string;
    try {
      text = await readFile(this.#path, "utf8");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") this.#log.warn({ err: error }, "the kept routes cannot be read");
      return null;
    }
    try {
      return cacheFile.parse(JSON.parse(text));
    } catch (error) {
      this.#log.warn({ path: this.#path, err: error }, "the kept routes are damaged, or of another version, and are not used");
      return null;
    }
  }

  /** Writes soon. `read` is called when the time has come. */
  saveSoon(read: () => CachedRoutes): void {
    this.#pending = read;
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.#writing = this.#writing.then(() => this.#write());
    }, debounceMs);
  }

  /** Writes what is pending, and waits for it. */
  async flush(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#writing = this.#writing.then(() => this.#write());
    await this.#writing;
  }

  async #write(): Promise<void> {
    const read = this.#pending;
    this.#pending = null;
    if (read === null) return;
    const { confirmedAtMs, table } = read();
    const temporary = `${this.#path}.${process.pid}.tmp`;
    try {
      await mkdir(dirname(this.#path), { recursive: true, mode: 0o700 });
      await writeFile(temporary, JSON.stringify({ format: 1, confirmedAtMs, table }), { mode: 0o600 });
      await rename(temporary, this.#path);
    } catch (error) {
      this.#log.warn({ path: this.#path, err: error }, "the routes cannot be kept on disk; a restart without NATS would have none");
      await rm(temporary, { force: true }).catch((cause: unknown) => this.#log.warn({ err: cause }, "a temporary file was left behind"));
    }
  }
}
