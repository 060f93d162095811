import type { SimProcess } from "../clock.ts";
import type { QueuedEvent } from "../event-queue.ts";

/** One TCP connection. */
export interface Connection {
  openAtClient: boolean;
  openAtServer: boolean;
  outAtMs: number;
  inAtMs: number;
  heldOut: (() => void)[];
  heldIn: (() => void)[];
  cutSinceMs: number | null;
}

/** What the server has sent, on its way to a process. */
export class Arrival implements QueuedEvent {
  atMs: number;
  order = 0;
  readonly process: SimProcess;
  cancelled = false;
  readonly quiet = false;
  readonly #connection: Connection;
  readonly #take: () => void;

  constructor(atMs: number, process: SimProcess, connection: Connection, take: () => void) {
    this.atMs = atMs;
    this.process = process;
    this.#connection = connection;
    this.#take = take;
  }

  run(): void {
    if (this.#connection.openAtClient) this.#take();
  }
}
