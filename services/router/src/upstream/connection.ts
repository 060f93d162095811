import { connect as connectTcp, isIP, Socket, type TcpNetConnectOpts } from "node:net";
import { type ConnectionOptions, connect as connectTls } from "node:tls";
import type { EndpointTls } from "@mcp-failover/contracts";
import { lookUp } from "@mcp-failover/service-kit";
import { clientContext } from "../tls/client-tls.ts";
import { writeTogether } from "../write-together.ts";
import { type AnswerHeaders, type AnswerTarget, ResponseParser } from "./response-parser.ts";

/** Where connections of one kind go. */
export interface Origin {
  readonly secure: boolean;
  readonly host: string;
  readonly port: number;
  /** Authorities and a certificate of the router's own; null: those of the system, and none. */
  readonly tls: EndpointTls | null;
}

/** One request and its answer, as a connection sees them. */
export interface Carried extends AnswerTarget {
  readonly method: string;
  /** The connection ended, or never came about, before the answer was whole. */
  onLost(cause: Error): void;
  /** False while the answer is not to be read on. */
  readonly wanted: boolean;
}

/** What becomes of a connection is told to the pool that made it. */
export interface ConnectionOwner {
  readonly headerBytesMax: number;
  connected(connection: Connection): void;
  /** The answer is whole, and the connection can carry another request. */
  free(connection: Connection): void;
  /** It is gone; `cause` where it was never there. */
  gone(connection: Connection, cause: Error | null): void;
}

const readBytes = 64 * 1024;
/** What is read is taken before the next read begins, so that all connections share one buffer; Windows fills them while we are elsewhere. */
const sharedBuffer = process.platform === "win32" ? null : Buffer.allocUnsafeSlow(readBytes);

/**
 * One connection to a server, with at most one request on it. Guarantees:
 * N1  It carries a request only when it stands, and the next one only after the whole answer to the last, with no byte left over (H4).
 * N2  Bytes that nobody asked for, bytes that are no HTTP, and an exchange that is given up close it.
 */
export class Connection implements AnswerTarget {
  readonly madeAtMs = performance.now();
  /** Until when it may wait for another request. */
  idleUntilMs = 0;
  standing = false;
  /** How long the server says it keeps the connection without a request (`Keep-Alive: timeout`); null: it does not say. */
  keptForMs: number | null = null;
  readonly #owner: ConnectionOwner;
  readonly #socket: Socket;
  readonly #parser: ResponseParser;
  #carried: Carried | null = null;
  #cause: Error | null = null;
  #paused = false;
  #retired = false;

  constructor(origin: Origin, owner: ConnectionOwner) {
    this.#owner = owner;
    this.#parser = new ResponseParser(this, owner.headerBytesMax);
    this.#socket = open(origin, (bytes) => this.#take(bytes));
    this.#socket.once(origin.secure ? "secureConnect" : "connect", () => {
      this.standing = true;
      owner.connected(this);
    });
    this.#socket.on("error", (error) => {
      this.#cause ??= error;
    });
    this.#socket.once("end", () => this.#ended());
    this.#socket.once("close", () => this.#closed());
  }

  get usable(): boolean {
    return this.standing && this.#carried === null && this.#socket.writable && !this.#socket.destroyed;
  }

  /** Writes a request; its bytes may have reached the network from here on. */
  carry(carried: Carried, head: string, body: Buffer | null): void {
    this.#carried = carried;
    this.#parser.begin(carried.method);
    writeTogether(this.#socket);
    if (body === null) this.#socket.write(head, "latin1");
    else if (body.length <= joinedBytesMax) {
      // One segment and one system call; text of single bytes is written from the stack, where a buffer would have to be made.
      this.#socket.write(head + body.toString("latin1"), "latin1");
    } else {
      this.#socket.write(head, "latin1");
      this.#socket.write(body);
    }
  }

  /** Reads on, where the exchange has the connection still. */
  resume(carried: Carried): void {
    if (this.#carried !== carried || !this.#paused) return;
    this.#paused = false;
    this.#socket.resume();
  }

  /** The exchange is given up: nothing more of it is written or read. */
  giveUp(carried: Carried): void {
    if (this.#carried !== carried) return;
    this.#carried = null;
    this.#socket.destroy();
  }

  /** It ends with the request that it has, or now. */
  retire(): void {
    this.#retired = true;
    if (this.#carried === null) this.#socket.destroy();
  }

  destroy(): void {
    this.#socket.destroy();
  }

  onHead(status: number, headers: AnswerHeaders): void {
    const hint = headers["keep-alive"];
    if (hint !== undefined) this.keptForMs = keptForMsOf(String(hint));
    this.#carried?.onHead(status, headers);
  }
  onData(chunk: Buffer): void {
    this.#carried?.onData(chunk);
  }
  onEnd(): void {
    const carried = this.#carried;
    // A request that is still being written has an answer that came early: what follows on this connection is not sure.
    if (this.#socket.writableLength > 0) this.#socket.destroy();
    this.#carried = null;
    carried?.onEnd();
  }

  #take(bytes: Buffer): boolean {
    const carried = this.#carried;
    if (carried === null) {
      this.#socket.destroy();
      return false;
    }
    try {
      this.#parser.feed(bytes);
    } catch (error) {
      // Also an error of whoever reads the answer ends this exchange alone, and not the process with all others.
      this.#lose(error instanceof Error ? error : new Error(String(error)));
      return false;
    }
    if (this.#carried === null) {
      // What TLS had read already came all the same: the next exchange must not find the reading stopped.
      if (this.#paused) {
        this.#paused = false;
        this.#socket.resume();
      }
      if (this.#retired || this.#socket.destroyed || !this.#parser.reusable) this.#socket.destroy();
      else this.#owner.free(this);
      return true;
    }
    if (carried.wanted) return true;
    this.#paused = true;
    return false;
  }

  #lose(cause: Error): void {
    const carried = this.#carried;
    this.#carried = null;
    this.#cause ??= cause;
    this.#socket.destroy();
    carried?.onLost(this.#cause);
  }

  #ended(): void {
    if (this.#carried !== null && !this.#parser.close()) this.#lose(cutOff());
    this.#socket.destroy();
  }

  #closed(): void {
    if (this.#carried !== null) this.#lose(this.#cause ?? cutOff());
    this.#owner.gone(this, this.standing ? null : (this.#cause ?? cutOff()));
  }
}

/** Larger bodies are not copied to save a system call. */
const joinedBytesMax = 16 * 1024;

/** Node and many others say the same with every answer. */
let lastHint = "";
let lastHintMs: number | null = null;
function keptForMsOf(hint: string): number | null {
  if (hint === lastHint) return lastHintMs;
  const seconds = /(?:^|[,\s])timeout=(\d{1,6})/i.exec(hint)?.[1];
  lastHint = hint;
  lastHintMs = seconds === undefined ? null : Number(seconds) * 1000;
  return lastHintMs;
}

function cutOff(): Error {
  return Object.assign(new Error("the server closed the connection"), { code: "ERR_STREAM_PREMATURE_CLOSE" });
}

/** Fails as a handshake does, and says why: nothing was sent. */
function failing(cause: unknown): Socket {
  const socket = new Socket();
  const error = Object.assign(new Error("the files of tls cannot be used", { cause }), { code: "ERR_TLS_FILES" });
  process.nextTick(() => socket.destroy(error));
  return socket;
}

/** The one place where connections to servers are made. */
function open(origin: Origin, take: (bytes: Buffer) => boolean): Socket {
  const buffer = sharedBuffer ?? Buffer.allocUnsafeSlow(readBytes / 4);
  const onread = { buffer, callback: (length: number): boolean => take(buffer.subarray(0, length)) };
  const { host, port } = origin;
  if (!origin.secure) return connectTcp({ host, port, noDelay: true, onread, lookup: lookUp });
  const options: ConnectionOptions & Pick<TcpNetConnectOpts, "onread"> = {
    host,
    port,
    ALPNProtocols: ["http/1.1"],
    onread,
    lookup: lookUp,
  };
  if (isIP(host) === 0) options.servername = host;
  if (origin.tls !== null) {
    try {
      options.secureContext = clientContext(origin.tls);
    } catch (cause) {
      return failing(cause);
    }
    if (origin.tls.server_name !== undefined) options.servername = origin.tls.server_name;
  }
  const socket = connectTls(options);
  socket.setNoDelay(true);
  return socket;
}
