import type { Server } from "node:http";
import type { Socket } from "node:net";
import { Server as TlsServer } from "node:tls";
import { FrontConnection, type FrontOptions } from "./front-connection.ts";

/**
 * Stands before a server of node:http, on its port: takes the requests that {@link readStrict} takes, and gives a connection to node:http, with
 * every byte that it has not answered, as soon as anything else comes on it. Guarantees:
 * F6  A connection is given away only while no answer is outstanding, once, and for good: each byte is read by one of the two.
 * F7  A request that is not whole after two sweeps is given away, so that time-outs of slow clients are those of node:http.
 */
export interface Front {
  /** Connections that it reads now. */
  readonly count: number;
  /** The first request of some may be on its way: a stop waits for it. */
  readonly expecting: boolean;
  /** Gives away what comes slowly, and closes what is idle or not read. Called now and then. */
  sweep(): void;
  closeIdle(): void;
  closeAll(): void;
}

/** Everything that listens to the server's connections before is for those that are given away alone. */
export function standBefore(server: Server, options: FrontOptions): Front {
  // Requests over TLS come on the socket of TLS, not on the one below it.
  const event = server instanceof TlsServer ? "secureConnection" : "connection";
  const others = server.listeners(event) as ((this: Server, socket: Socket) => void)[];
  const connections = new Set<FrontConnection>();
  server.removeAllListeners(event);
  server.on(event, (socket: Socket) => {
    const connection = new FrontConnection(socket, options, {
      closed: () => connections.delete(connection),
      giveAway: () => {
        connections.delete(connection);
        for (const other of others) other.call(server, socket);
      },
    });
    connections.add(connection);
  });
  return {
    get count() {
      return connections.size;
    },
    get expecting() {
      for (const connection of connections) if (connection.isExpecting) return true;
      return false;
    },
    sweep() {
      const nowMs = performance.now();
      for (const connection of connections) connection.sweep(nowMs);
    },
    closeIdle() {
      for (const connection of connections) connection.closeIdle();
    },
    closeAll() {
      for (const connection of connections) connection.destroy();
    },
  };
}
