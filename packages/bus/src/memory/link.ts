import { setTimeout as sleep } from "node:timers/promises";
import { BusError, type BusStatus } from "../bus.ts";
import { guarded } from "../hand-over.ts";
import type { BusLog } from "../log.ts";
import type { LogPort, PublishOutcome } from "../log-port.ts";
import type { Outgoing } from "../message.ts";
import { type BrokerState, type CoreMessage, missingStream } from "./broker.ts";

const defaultReachMs = 5000;

/** One connection to a memory broker, which tests can cut, slow down, and rob of answers. */
export class MemoryLink implements LogPort {
  status: BusStatus;
  /** Core messages that were published while there was no connection. */
  dropped = 0;
  delayMs = 0;
  readonly #state: BrokerState;
  readonly #log: BusLog;
  readonly #listeners = new Set<(status: BusStatus) => void>();
  readonly #losses: { stored: boolean }[] = [];

  constructor(state: BrokerState, log: BusLog) {
    this.#state = state;
    this.#log = log;
    this.status = { kind: "connected", server: "memory", serverVersion: state.serverVersion };
  }

  get nowMs(): () => number {
    return this.#state.nowMs;
  }

  get connected(): boolean {
    return this.status.kind === "connected";
  }

  onStatus(listener: (status: BusStatus) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  cut(reason: string): void {
    this.#become({ kind: "disconnected", sinceMs: this.#state.nowMs(), reason });
  }

  restore(): void {
    this.#become({ kind: "connected", server: "memory", serverVersion: this.#state.serverVersion });
  }

  shut(): void {
    this.#become({ kind: "closed" });
  }

  /** The next publishes end with an unknown outcome, after or before they were stored. */
  losePublishes(count: number, stored: boolean): void {
    for (let index = 0; index < count; index += 1) this.#losses.push({ stored });
  }

  /** Waits for the connection. Throws {@link BusError} `unreachable`. */
  async reach(timeoutMs: number = defaultReachMs): Promise<void> {
    const endMs = Date.now() + timeoutMs;
    if (this.delayMs > 0) await sleep(Math.min(this.delayMs, timeoutMs));
    while (!this.connected) {
      const leftMs = endMs - Date.now();
      if (this.status.kind === "closed" || leftMs <= 0) throw unreachable(this.status);
      await this.#state.changed(leftMs);
    }
  }

  async publish(message: Outgoing, timeoutMs: number): Promise<PublishOutcome> {
    try {
      await this.reach(timeoutMs);
    } catch (cause) {
      return { kind: "unknown", sent: false, cause };
    }
    if (!this.#state.streams.has(message.stream)) return { kind: "unknown", sent: false, cause: missingStream(message.stream) };
    const loss = this.#losses.shift();
    const lost: PublishOutcome = { kind: "unknown", sent: true, cause: new Error("the acknowledgement was lost") };
    if (loss !== undefined && !loss.stored) return lost;
    const outcome = this.#state.ingest(message) ?? lost;
    return loss === undefined ? outcome : lost;
  }

  async lastOf(stream: Outgoing["stream"], subject: string, timeoutMs: number) {
    await this.reach(timeoutMs);
    return this.#state.stream(stream).lastOf(subject);
  }

  async at(stream: Outgoing["stream"], seq: number, timeoutMs: number) {
    await this.reach(timeoutMs);
    return this.#state.stream(stream).messages.get(seq) ?? null;
  }

  /** At most once: without a connection it is dropped and counted. */
  send(message: CoreMessage): void {
    if (!this.connected) {
      this.dropped += 1;
      return;
    }
    try {
      this.#state.ingest(message);
    } catch (err) {
      this.#log.warn({ err, subject: message.subject }, "the stream did not take a message"); // As in NATS, the publisher is not told.
    }
  }

  async sleep(ms: number): Promise<void> {
    await sleep(ms);
  }

  #become(status: BusStatus): void {
    if (this.status.kind === "closed") return;
    this.status = status;
    this.#state.wake();
    for (const listener of [...this.#listeners]) guarded(() => listener(status), this.#log, "a status listener failed");
  }
}

function unreachable(status: BusStatus): BusError {
  if (status.kind === "closed")
    return new BusError("unreachable", "this connection to the bus is closed: connect anew", { retriable: false });
  const why = status.kind === "disconnected" ? ` (${status.reason})` : "";
  return new BusError("unreachable", `the bus cannot be reached${why}: see that NATS runs and that NATS_URL is right`, { retriable: true });
}
