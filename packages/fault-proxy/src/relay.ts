import { connect as openSocket, type Socket } from "node:net";
import { delayLine } from "./delay-line.ts";
import { type Fault, statusAnswer } from "./fault.ts";

/** One client's connection, and ours to the upstream for it. */
export interface Relay {
  /** The fault has begun, changed or ended. */
  faultChanged(): void;
}

export interface RelayOptions {
  readonly host: string;
  readonly port: number;
  readonly fault: () => Fault | null;
  /** The connection to the upstream failed, or ended: it may be gone. */
  readonly onUpstreamGone: () => void;
  /** Both sides are closed, or about to be. */
  readonly onClose: () => void;
  /** Every socket, so that the proxy can close them. */
  readonly sockets: Set<Socket>;
}

/** Bytes that wait for their time in one connection. */
const waitingBytesMax = 1024 * 1024;
const connectMsMax = 5000;
/** A client that was answered with a status may still send its body; reading on keeps the answer from being lost to a reset. */
const answeredMsMax = 5000;

/** Carries bytes both ways between the client and a new connection to the upstream, as the fault lets them. */
export function relay(client: Socket, options: RelayOptions): Relay {
  const { sockets, fault } = options;
  sockets.add(client);
  const upstream = openSocket({ host: options.host, port: options.port, allowHalfOpen: true, noDelay: true });
  sockets.add(upstream);
  let connected = false;
  let answered = false;
  const line = delayLine({
    latencyMs: () => (fault()?.kind === "blackhole" ? Number.POSITIVE_INFINITY : (fault()?.latencyMs ?? 0)),
    bytesMax: waitingBytesMax,
    nowMs: () => performance.now(),
    onChunk: (chunk) => client.write(chunk),
    onEnd: () => client.end(),
    onRoom: () => upstream.resume(),
  });

  /** What the client sends now is a request, or more of one: it gets this answer, and the connection is over. */
  const answer = (status: number): void => {
    answered = true;
    line.destroy();
    upstream.destroy();
    client.end(statusAnswer(status));
    client.resume();
    client.setTimeout(answeredMsMax, () => client.destroy());
  };
  const obey = (): void => {
    if (answered || client.destroyed) return;
    line.retime();
    switch (fault()?.kind) {
      case "reset":
        client.resetAndDestroy();
        return;
      case "refuse":
        client.end();
        client.destroySoon();
        return;
      case "blackhole":
        client.pause();
        return;
      default:
        if (connected) client.resume();
    }
  };

  upstream.setTimeout(connectMsMax, () => {
    if (!connected) upstream.destroy(new Error("no connection in time"));
  });
  upstream.once("connect", () => {
    connected = true;
    upstream.setTimeout(0);
    obey();
  });
  client.on("data", (chunk: Buffer) => {
    if (answered) return;
    const now = fault();
    if (now?.kind === "status") answer(now.status);
    else if (!upstream.write(chunk)) client.pause();
  });
  client.on("end", () => {
    if (!answered) upstream.end();
  });
  upstream.on("drain", obey);
  upstream.on("data", (chunk: Buffer) => {
    if (!line.push(chunk)) upstream.pause();
  });
  upstream.on("end", () => line.end());
  client.on("drain", () => line.resume());
  // What one side suffers, the other sees as a reset; the cause is on the upstream's side or the caller's, not here.
  upstream.on("error", () => {
    if (!answered) client.resetAndDestroy();
    options.onUpstreamGone();
  });
  client.on("error", () => upstream.resetAndDestroy());
  upstream.once("close", () => {
    sockets.delete(upstream);
    if (!answered) options.onUpstreamGone();
  });
  client.once("close", () => {
    sockets.delete(client);
    line.destroy();
    upstream.destroy();
    options.onClose();
  });
  obey();
  return { faultChanged: obey };
}
