import { KeptFile } from "@mcp-failover/bus";
import { parseEvent } from "@mcp-failover/contracts";
import { z } from "zod";
import type { PlacedEvent } from "./fleet-view.ts";

const file = z.object({
  format: z.literal(1),
  events: z.array(z.object({ seq: z.number().int(), subject: z.string(), timeMs: z.number(), event: z.unknown() })).max(100_000),
});

/** The last known events on disk: what a client that starts without NATS goes by. They are read back as from the wire: a damaged or foreign one is none. */
export class KeptRoutes {
  readonly #file: KeptFile<readonly PlacedEvent[]>;

  constructor(path: string, onError: (error: unknown) => void) {
    this.#file = new KeptFile({ path, parse: eventsOf, onProblem: (_, error) => onError(error) });
  }

  async load(): Promise<readonly PlacedEvent[]> {
    return (await this.#file.load()) ?? [];
  }

  /** Writes soon; `read` is called when the time has come. */
  saveSoon(read: () => readonly PlacedEvent[]): void {
    this.#file.saveSoon(() => ({ format: 1, events: read() }));
  }

  async flush(): Promise<void> {
    await this.#file.flush();
  }
}

function eventsOf(value: unknown): readonly PlacedEvent[] {
  return file.parse(value).events.flatMap(({ seq, subject, timeMs, event }) => {
    const parsed = parseEvent(subject, new TextEncoder().encode(JSON.stringify(event)));
    return parsed.ok ? [{ seq, subject, timeMs, event: parsed.event }] : [];
  });
}
