import { connect, createServer, type Socket } from "node:net";

/** A TCP proxy in front of nats-server that hurts one connection as networks do. */
export interface TcpProxy {
  readonly url: string;
  /** Ends what is open and refuses what is new, until `restore`. */
  cut(): void;
  restore(): void;
  /** The next publish with headers that wants an answer does not get it: it is let through, or dropped, and the connection ends. */
  loseNextPublish(options: { stored: boolean }): void;
  /** Swallows the next chunk to the server with this text in it, and nothing else. */
  swallow(text: string): void;
  close(): Promise<void>;
}

export async function tcpProxy(targetPort: number): Promise<TcpProxy> {
  const sockets = new Set<Socket>();
  let isCut = false;
  const losses: { stored: boolean }[] = [];
  let swallowed: string | null = null;

  const server = createServer((client) => {
    if (isCut) {
      client.destroy();
      return;
    }
    const upstream = connect({ host: "127.0.0.1", port: targetPort });
    let deaf = false;
    for (const [socket, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      sockets.add(socket);
      socket.setNoDelay(true);
      socket.on("error", () => other.destroy());
      socket.on("close", () => {
        sockets.delete(socket);
        other.destroy();
      });
    }
    upstream.on("data", (chunk: Buffer) => !deaf && client.write(chunk));
    client.on("data", (chunk: Buffer) => {
      if (swallowed !== null && chunk.includes(swallowed)) {
        swallowed = null;
        return;
      }
      // One write of nats.js is one chunk here, as long as it is small: the publish is whole.
      const loss = chunk.includes("HPUB ") && chunk.includes("Nats-Expected-Stream") ? losses.shift() : undefined;
      if (loss === undefined) {
        upstream.write(chunk);
        return;
      }
      deaf = true;
      if (loss.stored) upstream.write(chunk);
      setTimeout(() => client.destroy(), 50);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  const port = typeof address === "object" && address !== null ? address.port : 0;
  const endAll = () => {
    for (const socket of sockets) socket.destroy();
  };
  return {
    url: `nats://127.0.0.1:${port}`,
    cut() {
      isCut = true;
      endAll();
    },
    restore() {
      isCut = false;
    },
    loseNextPublish: (options) => losses.push(options),
    swallow(text) {
      swallowed = text;
    },
    close() {
      endAll();
      return new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}
