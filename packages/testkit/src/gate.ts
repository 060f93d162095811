import { connect, createServer, type Socket } from "node:net";

/** A TCP port before another one. Traffic can be held as by a network that drops everything: nothing is closed or comes through. */
export interface Gate {
  readonly port: number;
  /** Looks again at what may pass, for what is open already too. */
  settle(): void;
  close(): Promise<void>;
}

export interface GateOptions {
  readonly targetPort: number;
  /** `caller` is what `callerOf` found; null without it. */
  readonly passes: (caller: string | null) => boolean;
  /** Who calls, from the first of what it sends; null: not said yet. Nothing it sends is let through before. */
  readonly callerOf?: (said: string) => string | null;
}

interface Pair {
  readonly client: Socket;
  readonly target: Socket;
  caller: string | null;
  /** What was sent before it could pass. */
  readonly held: Buffer[];
}

export async function openGate({ targetPort, passes, callerOf }: GateOptions): Promise<Gate> {
  const pairs = new Set<Pair>();

  function settle(pair: Pair): void {
    const { client, target, held } = pair;
    if (!passes(pair.caller)) {
      client.pause();
      target.pause();
      return;
    }
    // An end that came while nothing passed is told now.
    if (client.destroyed || target.destroyed) {
      client.destroy();
      target.destroy();
      pairs.delete(pair);
      return;
    }
    if (callerOf === undefined || pair.caller !== null) for (const chunk of held.splice(0)) target.write(chunk);
    client.resume();
    target.resume();
  }

  const server = createServer((client) => {
    const pair: Pair = { client, target: connect({ host: "127.0.0.1", port: targetPort }), caller: null, held: [] };
    const { target } = pair;
    pairs.add(pair);
    for (const socket of [client, target]) {
      socket.setNoDelay(true);
      socket.on("error", () => undefined); // Its close follows.
      socket.on("close", () => settle(pair));
    }
    target.on("data", (chunk: Buffer) => client.write(chunk));
    client.on("data", (chunk: Buffer) => {
      if (callerOf === undefined || pair.caller !== null) {
        target.write(chunk);
        return;
      }
      pair.held.push(chunk);
      pair.caller = callerOf(Buffer.concat(pair.held).toString("latin1"));
      if (pair.caller !== null) settle(pair);
    });
    settle(pair);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  return {
    port: typeof address === "object" && address !== null ? address.port : 0,
    settle: () => {
      for (const pair of pairs) settle(pair);
    },
    close: () => {
      for (const { client, target } of pairs) {
        client.destroy();
        target.destroy();
      }
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
}
