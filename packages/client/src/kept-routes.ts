import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { parseEvent } from "@mcp-failover/contracts";
import { z } from "zod";
import type { PlacedEvent } from "./fleet-view.ts";

const file = z.object({
  format: z.literal(1),
  events: z.array(z.object({ seq: z.number().int(), subject: z.string(), timeMs: z.number(), event: z.unknown() })).max(100_000),
});
/** Changes that come closer together are written once. */
const debounceMs = 200;

/**
 * The last known events on disk: what a client that starts without NATS goes by. Written whole and renamed, so that a crash leaves the file before or
 * the file after. It is read back as what comes from the wire: a damaged or foreign event is none.
 */
export class KeptRoutes {
  readonly #path: string;
  readonly #onError: (error: unknown) => void;
  #read: (() => readonly PlacedEvent[]) | null = null;
  #timer: NodeJS.Timeout | undefined;
  #writing: Promise<void> = Promise.resolve();

  constructor(path: string, onError: (error: unknown) => void) {
    this.#path = path;
    this.#onError = onError;
  }

  async load(): Promise<readonly PlacedEvent[]> {
    try {
      const { events } = file.parse(JSON.parse(await readFile(this.#path, "utf8")));
      return events.flatMap(({ seq, subject, timeMs, event }) => {
        const parsed = parseEvent(subject, new TextEncoder().encode(JSON.stringify(event)));
        return parsed.ok ? [{ seq, subject, timeMs, event: parsed.event }] : [];
      });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") this.#onError(error);
      return [];
    }
  }

  /** Writes soon; `read` is called when the time has come. */
  saveSoon(read: () => readonly PlacedEvent[]): void {
    this.#read = read;
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.#writing = this.#writing.then(() => this.#write());
    }, debounceMs);
  }

  async flush(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#writing = this.#writing.then(() => this.#write());
    await this.#writing;
  }

  async #write(): Promise<void> {
    const read = this.#read;
    this.#read = null;
    if (read === null) return;
    const temporary = `${this.#path}.${process.pid}.tmp`;
    try {
      await mkdir(dirname(this.#path), { recursive: true });
      await writeFile(temporary, JSON.stringify({ format: 1, events: read() }), { mode: 0o600 });
      await rename(temporary, this.#path);
    } catch (error) {
      this.#onError(error);
    }
  }
}
