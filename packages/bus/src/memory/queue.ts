import type { RawMessage } from "../message.ts";
import type { MemoryStream } from "./store.ts";

/** A durable consumer of a work queue: what was handed to whom, and when it comes back. */
export class MemoryQueue {
  readonly filter: string;
  readonly #stream: MemoryStream;
  /** By sequence: not to be handed out before `dueMs`. */
  readonly #waiting = new Map<number, { attempt: number; dueMs: number }>();

  constructor(stream: MemoryStream, filter: string) {
    this.#stream = stream;
    this.filter = filter;
  }

  /** Hands out the first message that is due, for `ackWaitMs`. */
  take(nowMs: number, ackWaitMs: number): { message: RawMessage; attempt: number } | null {
    for (let message = this.#stream.next(1, this.filter); message !== null; message = this.#stream.next(message.seq + 1, this.filter)) {
      const waiting = this.#waiting.get(message.seq);
      if (waiting !== undefined && waiting.dueMs > nowMs) continue;
      const attempt = (waiting?.attempt ?? 0) + 1;
      this.#waiting.set(message.seq, { attempt, dueMs: nowMs + ackWaitMs });
      return { message, attempt };
    }
    return null;
  }

  /** Still at work on it. */
  extend(seq: number, untilMs: number): void {
    const waiting = this.#waiting.get(seq);
    if (waiting !== undefined) this.#waiting.set(seq, { ...waiting, dueMs: untilMs });
  }

  done(seq: number): void {
    this.#waiting.delete(seq);
    this.#stream.remove(seq);
  }

  /** When something that waits is due, or null. */
  nextDueMs(): number | null {
    const due = [...this.#waiting.values()].map(({ dueMs }) => dueMs);
    return due.length === 0 ? null : Math.min(...due);
  }
}
