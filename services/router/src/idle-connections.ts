import type { Server } from "node:http";
import type { Socket } from "node:net";
import { Server as TlsServer } from "node:tls";
import { StalledReader } from "./stalled-reader.ts";

/** The clients' connections that have no request on them. */
export interface IdleConnections {
  /** All that are watched, idle or not. */
  readonly count: number;
  /** Some are so young that their first request may be on its way: a stop waits for it. */
  readonly expecting: boolean;
  /** A request came on a connection; returns what to call when its answer is over. */
  begin(socket: Socket): () => void;
  /** Closes what has been idle for too long, and what is not read. Called now and then. */
  sweep(): void;
}

/** The first request of a connection comes within this time; who takes longer may find it closed by a stop. */
const youngMs = 500;

export function isYoung(sinceMs: number): boolean {
  return performance.now() - sinceMs < youngMs;
}

/** Watches the connections of a server. `idleMs`, and `stalledMs` without a byte read of an answer, are kept to within the time between two sweeps. */
export function watchIdle(server: Server, idleMs: number, stalledMs: number): IdleConnections {
  const lines = new Map<Socket, Line>();
  // Requests over TLS come on the socket of TLS, not on the one below it.
  server.on(server instanceof TlsServer ? "secureConnection" : "connection", (socket: Socket) => {
    lines.set(socket, new Line());
    socket.once("close", () => lines.delete(socket));
  });
  return {
    get count() {
      return lines.size;
    },
    get expecting() {
      for (const line of lines.values()) if (!line.wasAsked && isYoung(line.idleSinceMs)) return true;
      return false;
    },
    begin(socket) {
      const line = lines.get(socket) ?? new Line();
      line.wasAsked = true;
      // A client may send the next request before the answer to the last.
      line.requests += 1;
      return line.over;
    },
    sweep() {
      const nowMs = performance.now();
      for (const [socket, line] of lines) {
        const isIdle = line.requests === 0 && line.idleSinceMs < nowMs - idleMs;
        if (isIdle || line.reader.isFor(stalledMs, socket, nowMs)) socket.destroy();
      }
    },
  };
}

class Line {
  requests = 0;
  wasAsked = false;
  idleSinceMs = performance.now();
  readonly reader = new StalledReader();
  readonly over = (): void => {
    this.requests -= 1;
    this.idleSinceMs = performance.now();
  };
}
