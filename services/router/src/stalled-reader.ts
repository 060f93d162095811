import type { Socket } from "node:net";

/** What node:net goes by itself, to tell in its time-outs whether a write goes on: bytes that the system has not taken. TLS has them one below. */
interface Handle {
  readonly writeQueueSize?: number;
  readonly _parent?: Handle;
}

/** Watches whether a client takes what is written to it. One a connection. */
export class StalledReader {
  #queued = 0;
  #sinceMs = 0;

  /** Whether it has taken nothing of what waits for it for so long. Called now and then. */
  isFor(ms: number, socket: Socket, nowMs: number): boolean {
    const queued = socket.writableLength === 0 ? 0 : queuedOf(socket);
    if (queued === 0 || queued !== this.#queued) {
      this.#queued = queued;
      this.#sinceMs = nowMs;
      return false;
    }
    return nowMs - this.#sinceMs >= ms;
  }
}

function queuedOf(socket: Socket): number {
  const { _handle: handle } = socket as unknown as { readonly _handle?: Handle | null };
  return (handle?._parent ?? handle)?.writeQueueSize ?? 0;
}
