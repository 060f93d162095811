import { createServer, connect as openSocket, type Server, type Socket } from "node:net";
import type { FaultKind } from "@mcp-failover/contracts";
import { type Fault, faultOf } from "./fault.ts";
import { type Relay, relay } from "./relay.ts";

/**
 * A TCP proxy on loopback that can make its upstream slow, silent, broken or absent. What it keeps:
 * P1  Bytes pass unchanged and in order, in both directions, whatever the latency does meanwhile; what a `blackhole` held back passes after it.
 * P2  While the upstream refuses connections, so does the proxy: callers have to be able to tell "refused" (did not run) from "reset".
 * P3  A fault is a lease: it ends at its `ttlMs` without anybody's doing.
 * P4  What waits in the proxy is bounded for each connection; a slow reader slows the writer.
 * P5  An end or reset of one side reaches the other; a half-closed connection stays half open.
 */
export interface TcpProxy {
  readonly name: string;
  readonly listenPort: number;
  readonly targetPort: number;
  /** Begins or replaces the fault. Throws {@link RangeError} on a negative latency, no status of an error, or a lease that is not positive. */
  setFault(fault: { kind?: FaultKind; latencyMs?: number; status?: number; ttlMs: number }): void;
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
  readonly fault: (Fault & { readonly remainingMs: number }) | null;
}

export interface ProxyOptions {
  readonly name: string;
  readonly listenPort: number;
  readonly targetPort: number;
  readonly host?: string;
  readonly onChange?: (what: string, details: object) => void;
}

const loopback = "127.0.0.1";
const connectionsMax = 4096;
const connectMsMax = 5000;
/** How often a refusing upstream is asked whether it is back. */
const askAgainMs = 50;

/** Starts a proxy. It opens its port as soon as the upstream accepts, and closes it whenever the upstream refuses (P2). */
export function startProxy(options: ProxyOptions): TcpProxy {
  const host = options.host ?? loopback;
  const say = options.onChange ?? (() => undefined);
  const relays = new Set<Relay>();
  const sockets = new Set<Socket>();
  let fault: (Fault & { readonly endsAtMs: number }) | null = null;
  let lease: NodeJS.Timeout | null = null;
  let server: Server | null = null;
  let asking = false;
  let askAgain = false;
  let later: NodeJS.Timeout | null = null;
  let closed = false;

  const change = (to: typeof fault): void => {
    if (lease !== null) clearTimeout(lease);
    lease = null;
    fault = to;
    if (to?.kind === "refuse") closePort();
    else ask();
    for (const one of [...relays]) one.faultChanged();
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
    if (server !== null || closed || fault?.kind === "refuse") return;
    const opening = createServer({ pauseOnConnect: true, allowHalfOpen: true, noDelay: true }, accept);
    opening.maxConnections = connectionsMax;
    opening.on("error", (error) => {
      say("the port cannot be opened; trying again", { port: options.listenPort, reason: error.message });
      if (server === opening) server = null;
      askLater();
    });
    server = opening;
    opening.listen(options.listenPort, host, () => say("open", { port: options.listenPort }));
  };
  const closePort = (): void => {
    server?.close();
    server = null;
  };
  const refuse = (): void => {
    if (server !== null) say("closed, because the upstream refuses", { port: options.targetPort });
    closePort();
  };
  const askLater = (): void => {
    if (!closed && later === null) later = setTimeout(ask, askAgainMs);
  };

  const accept = (client: Socket): void => {
    const one = relay(client, {
      host,
      port: options.targetPort,
      fault: () => fault,
      sockets,
      // Its process may have died; asking now closes the port before the next caller comes.
      onUpstreamGone: () => {
        if (server !== null) ask();
      },
      onClose: () => relays.delete(one),
    });
    relays.add(one);
  };

  ask();
  return {
    name: options.name,
    listenPort: options.listenPort,
    targetPort: options.targetPort,
    setFault({ ttlMs, ...given }) {
      if (!(ttlMs > 0)) throw new RangeError("ttlMs is more than 0");
      const begun = faultOf(given);
      change({ ...begun, endsAtMs: performance.now() + ttlMs });
      lease = setTimeout(() => {
        change(null);
        say("the fault ended with its lease", {});
      }, ttlMs);
      say("fault set", { ...begun, ttlMs });
    },
    clearFault() {
      change(null);
      say("fault cleared", {});
    },
    view: () => ({
      proxy: options.name,
      listenPort: options.listenPort,
      targetPort: options.targetPort,
      upstream: server === null ? "refusing" : "accepting",
      connections: relays.size,
      fault: viewOf(fault),
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

function viewOf(fault: (Fault & { readonly endsAtMs: number }) | null): ProxyView["fault"] {
  if (fault === null) return null;
  const { endsAtMs, ...rest } = fault;
  return { ...rest, remainingMs: Math.max(0, Math.round(endsAtMs - performance.now())) };
}
