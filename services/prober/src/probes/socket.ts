import { connect as connectTcp, isIP, type Socket } from "node:net";
import { connect as connectTls, type TLSSocket } from "node:tls";
import { lookUp } from "@mcp-failover/service-kit";
import type { CheckContext } from "./check.ts";
import { secured } from "./secured.ts";

/** One connection of one probe: gone when the probe ends, however it ends. */
export interface Connection {
  readonly socket: Socket;
  /** Days until the peer's certificate ends; null without TLS. */
  readonly certificateDays: number | null;
  write(bytes: Uint8Array | string): void;
  /** So many bytes, as soon as they are there. Throws what the transport threw. */
  read(count: number): Promise<Buffer>;
  /** What comes up to the line's end, without it. */
  readLine(bytesMax: number): Promise<string>;
}

interface Address {
  readonly host: string;
  readonly port: number;
  readonly isTls: boolean;
}

const dayMs = 86_400_000;

/** Connects, hands the connection to `use`, and destroys it. The signal ends it at any moment. */
export async function withConnection<T>(
  { host, port, isTls }: Address,
  { signal, ca, check, nowMs }: Pick<CheckContext, "signal" | "ca" | "check" | "nowMs">,
  use: (connection: Connection) => Promise<T>,
): Promise<T> {
  const bare = host.replace(/^\[(.*)\]$/, "$1");
  const serverName = check.serverName ?? (isIP(bare) === 0 ? bare : undefined);
  const own = ca !== null ? { ca } : check.tls === null ? {} : secured(check.tls);
  const socket: Socket = isTls
    ? connectTls({
        host: bare,
        port,
        lookup: lookUp,
        ...(serverName === undefined ? {} : { servername: serverName }),
        ...own,
        // What the probe names itself stands over what the endpoint has.
        ...(check.serverName === null ? {} : { servername: check.serverName }),
      })
    : connectTcp({ host: bare, port, lookup: lookUp });
  const stream = openStream(socket);
  const abort = (): void => {
    socket.destroy(new DOMException("the probe has ended", "AbortError"));
  };
  if (signal.aborted) abort();
  signal.addEventListener("abort", abort, { once: true });
  try {
    await stream.ready(isTls ? "secureConnect" : "connect");
    return await use({
      socket,
      certificateDays: isTls ? certificateDaysOf(socket as TLSSocket, nowMs) : null,
      write: (bytes) => {
        socket.write(bytes);
      },
      read: stream.read,
      readLine: stream.readLine,
    });
  } finally {
    signal.removeEventListener("abort", abort);
    socket.destroy();
  }
}

/** Whole days until a peer's certificate ends, rounded down; negative once it has. */
function certificateDaysOf(socket: TLSSocket, nowMs: number): number | null {
  const until = Date.parse(socket.getPeerCertificate().valid_to);
  return Number.isNaN(until) ? null : Math.floor((until - nowMs) / dayMs);
}

/** Bytes of a socket on demand; its errors go to whoever waits for them, once. */
function openStream(socket: Socket) {
  let buffered: Buffer = Buffer.alloc(0);
  let failed: Error | null = null;
  let wake: (() => void) | null = null;
  const signalChange = (): void => {
    wake?.();
    wake = null;
  };
  socket.on("data", (chunk: Buffer) => {
    buffered = Buffer.concat([buffered, chunk]);
    signalChange();
  });
  socket.on("error", (error) => {
    failed ??= error;
    signalChange();
  });
  socket.on("close", () => {
    failed ??= Object.assign(new Error("the connection was closed"), { code: "UND_ERR_SOCKET" });
    signalChange();
  });
  const changed = (): Promise<void> =>
    new Promise((resolve) => {
      wake = resolve;
    });

  return {
    async ready(event: "connect" | "secureConnect"): Promise<void> {
      let isReady = false;
      socket.once(event, () => {
        isReady = true;
        signalChange();
      });
      while (!isReady) {
        if (failed !== null) throw failed;
        await changed();
      }
    },
    async read(count: number): Promise<Buffer> {
      while (buffered.length < count) {
        if (failed !== null) throw failed;
        await changed();
      }
      const taken = buffered.subarray(0, count);
      buffered = buffered.subarray(count);
      return taken;
    },
    async readLine(bytesMax: number): Promise<string> {
      for (;;) {
        const end = buffered.indexOf("\r\n");
        if (end >= 0) {
          const line = buffered.subarray(0, end).toString("utf8");
          buffered = buffered.subarray(end + 2);
          return line;
        }
        if (failed !== null) throw failed;
        if (buffered.length > bytesMax) throw Object.assign(new Error("a line without end"), { code: "HPE_PROBE_LINE" });
        await changed();
      }
    },
  };
}
