import { createServer, connect as openSocket, type Server, type Socket } from "node:net";
import { type DelayLine, delayLine } from "./delay-line.ts";

/**
 * A TCP proxy on loopback that can make its upstream slow. What it keeps:
 * P1  Bytes pass unchanged and in order, in both directions, whatever the latency does meanwhile.
 * P2  While the upstream refuses connections, so does the proxy: callers have to be able to tell "refused" (did not run) from "reset".
 * P3  A fault is a lease: it ends at its `ttlMs` without anybody's doing.
 * P4  What waits in the proxy is bounded for each connection; a slow reader slows the writer.
 * P5  An end or reset of one side reaches the other; a half-closed connection stays half open.
 */
export interface TcpProxy {
  readonly name: string;
  readonly listenPort: number;
  readonly targetPort: number;
  /** Begins or replaces the fault. Throws {@link RangeError} on a negative latency or a lease that is not positive. */
  setFault(fault: { latencyMs: number; ttlMs: number }): void;
  clearFault(): void;
  view(): ProxyView;
  close(): Promise<void>;
}

export interface ProxyView {
  readonly proxy: string;
  readonly listenPort: number;
  readonly targetPort: number;
  readonly upstream: "accepting" | "refusing";
  readonly connections: number;
  readonly fault: { readonly latencyMs: number; readonly remainingMs: number } | null;
}

export interface ProxyOptions {
  readonly name: string;
  readonly listenPort: number;
  readonly targetPort: number;
  readonly host?: string;
  readonly onChange?: (what: string, details: object) => void;
}

const loopback = "127.0.0.1";
/** Bytes that wait for their time in one connection. */
const waitingBytesMax = 1024 * 1024;
const connectionsMax = 4096;
const connectMsMax = 5000;
/** How often a refusing upstream is asked whether it is back. */
const askAgainMs = 50;

/** Starts a proxy. It opens its port as soon as the upstream accepts, and closes it whenever the upstream refuses (P2). */
export function startProxy(options: ProxyOptions): TcpProxy {
  const host = options.host ?? loopback;
  const say = options.onChange ?? (() => undefined);
  const lines = new Set<DelayLine>();
  const sockets = new Set<Socket>();
  let fault: { latencyMs: number; endsAtMs: number } | null = null;
  let lease: NodeJS.Timeout | null = null;
  let server: Server | null = null;
  let asking = false;
  let askAgain = false;
  let later: NodeJS.Timeout | null = null;
  let closed = false;

  const latencyMs = (): number => fault?.latencyMs ?? 0;
  const retimeAll = (): void => {
    for (const line of lines) line.retime();
  };

  /** Asks the upstream whether it accepts: one question at a time, and once more when one came up meanwhile. */
  const ask = (): void => {
    if (later !== null) clearTimeout(later);
    later = null;
    if (closed) return;
    if (asking) {
      askAgain = true;
      return;
    }
    asking = true;
    askAgain = false;
    const probe = openSocket({ host, port: options.targetPort });
    sockets.add(probe);
    let accepted = false;
    probe.setTimeout(connectMsMax, () => probe.destroy());
    probe.once("connect", () => {
      accepted = true;
      probe.destroy();
      open();
    });
    // "close" always follows and goes on from there.
    probe.on("error", () => undefined);
    probe.once("close", (refused) => {
      sockets.delete(probe);
      asking = false;
      if (!accepted && refused) refuse();
      if (!accepted || askAgain) askLater();
    });
  };
  const open = (): void => {
    if (server !== null || closed) return;
    const opening = createServer({ pauseOnConnect: true, allowHalfOpen: true, noDelay: true }, relay);
    opening.maxConnections = connectionsMax;
    opening.on("error", (error) => {
      say("the port cannot be opened; trying again", { port: options.listenPort, reason: error.message });
      if (server === opening) server = null;
      askLater();
    });
    server = opening;
    opening.listen(options.listenPort, host, () => say("open", { port: options.listenPort }));
  };
  const refuse = (): void => {
    if (server !== null) {
      server.close();
      server = null;
      say("closed, because the upstream refuses", { port: options.targetPort });
    }
  };
  const askLater = (): void => {
    if (!closed && later === null) later = setTimeout(ask, askAgainMs);
  };

  const relay = (client: Socket): void => {
    sockets.add(client);
    const upstream = openSocket({ host, port: options.targetPort, allowHalfOpen: true, noDelay: true });
    sockets.add(upstream);
    let connected = false;
    const line = delayLine({
      latencyMs,
      bytesMax: waitingBytesMax,
      nowMs: () => performance.now(),
      onChunk: (chunk) => client.write(chunk),
      onEnd: () => client.end(),
      onRoom: () => upstream.resume(),
    });
    lines.add(line);
    upstream.setTimeout(connectMsMax, () => {
      if (!connected) upstream.destroy(new Error("no connection in time"));
    });
    upstream.once("connect", () => {
      connected = true;
      upstream.setTimeout(0);
      client.pipe(upstream);
    });
    upstream.on("data", (chunk: Buffer) => {
      if (!line.push(chunk)) upstream.pause();
    });
    upstream.on("end", () => line.end());
    client.on("drain", () => line.resume());
    // What one side suffers, the other sees as a reset; the cause is on the upstream's side or the caller's, not here.
    upstream.on("error", () => {
      client.resetAndDestroy();
      ask();
    });
    client.on("error", () => upstream.resetAndDestroy());
    upstream.once("close", () => {
      sockets.delete(upstream);
      // Its process may have died; asking now closes the port before the next caller comes.
      if (server !== null) ask();
    });
    client.once("close", () => {
      sockets.delete(client);
      lines.delete(line);
      line.destroy();
      upstream.destroy();
    });
  };

  ask();
  return {
    name: options.name,
    listenPort: options.listenPort,
    targetPort: options.targetPort,
    setFault({ latencyMs: addedMs, ttlMs }) {
      if (!(addedMs >= 0) || !(ttlMs > 0)) throw new RangeError("latencyMs is 0 or more, ttlMs is more than 0");
      if (lease !== null) clearTimeout(lease);
      fault = { latencyMs: addedMs, endsAtMs: performance.now() + ttlMs };
      lease = setTimeout(() => {
        lease = null;
        fault = null;
        retimeAll();
        say("the fault ended with its lease", {});
      }, ttlMs);
      retimeAll();
      say("fault set", { latencyMs: addedMs, ttlMs });
    },
    clearFault() {
      if (lease !== null) clearTimeout(lease);
      lease = null;
      fault = null;
      retimeAll();
      say("fault cleared", {});
    },
    view: () => ({
      proxy: options.name,
      listenPort: options.listenPort,
      targetPort: options.targetPort,
      upstream: server === null ? "refusing" : "accepting",
      connections: lines.size,
      fault:
        fault === null ? null : { latencyMs: fault.latencyMs, remainingMs: Math.max(0, Math.round(fault.endsAtMs - performance.now())) },
    }),
    async close() {
      closed = true;
      if (lease !== null) clearTimeout(lease);
      if (later !== null) clearTimeout(later);
      const closing = server;
      server = null;
      for (const socket of sockets) socket.destroy();
      if (closing !== null) await new Promise<void>((resolve) => closing.close(() => resolve()));
    },
  };
}
