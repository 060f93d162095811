import type { Server } from "node:http";
import type { Socket } from "node:net";
import { Server as TlsServer } from "node:tls";

/** The clients' connections that have no request on them. */
export interface IdleConnections {
  /** All that are watched, idle or not. */
  readonly count: number;
  /** A request came on a connection; returns what to call when its answer is over. */
  begin(socket: Socket): () => void;
  /** Closes what has been idle for too long. Called now and then. */
  sweep(): void;
}

/** Watches the connections of a server. `idleMs` is kept to within the time between two sweeps. */
export function watchIdle(server: Server, idleMs: number): IdleConnections {
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
    begin(socket) {
      const line = lines.get(socket) ?? new Line();
      // A client may send the next request before the answer to the last.
      line.requests += 1;
      return line.over;
    },
    sweep() {
      const beforeMs = performance.now() - idleMs;
      for (const [socket, line] of lines) if (line.requests === 0 && line.idleSinceMs < beforeMs) socket.destroy();
    },
  };
}

class Line {
  requests = 0;
  idleSinceMs = performance.now();
  readonly over = (): void => {
    this.requests -= 1;
    this.idleSinceMs = performance.now();
  };
}
