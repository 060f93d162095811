import type { Socket } from "node:net";
import { isYoung } from "../idle-connections.ts";
import { KnownHead } from "../known-head.ts";
import { StalledReader } from "../stalled-reader.ts";
import { sendWritten, writeTogether } from "../write-together.ts";
import { type AnswerLine, FrontResponse } from "./front-response.ts";
import { type KnownRequest, readStrict, requestBytesMax, type StrictRequest } from "./strict-request.ts";

export interface FrontOptions {
  readonly serve: (request: StrictRequest, response: FrontResponse, socket: Socket) => void;
  /** An answer is over, or its client is gone; once a request. */
  readonly over: () => void;
  /** A connection without a request is closed after this time. */
  readonly idleMs: number;
  /** One whose client reads nothing of its answer is closed after this time. */
  readonly stalledMs: number;
  readonly onTrouble: (error: Error) => void;
}

/** What becomes of a connection. */
export interface ConnectionOwner {
  closed(): void;
  giveAway(): void;
}

/** Pieces of one request that are put together here; who sends more of them is not in a hurry. */
const piecesMax = 32;
/** What node:http says to a request that ends in its midst. */
const badRequest = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";

/** One connection, while the front has it: one request at a time. */
export class FrontConnection implements AnswerLine {
  readonly #socket: Socket;
  readonly #options: FrontOptions;
  readonly #owner: ConnectionOwner;
  #response: FrontResponse | null = null;
  /** The answer is written, and the client has not taken it yet. */
  #isFlushing = false;
  /** Bytes that no one has read. */
  #waiting: Buffer | null = null;
  #pieces = 0;
  readonly #known: KnownRequest = new KnownHead();
  readonly #reader = new StalledReader();
  #sweepsWaited = 0;
  #idleSinceMs = performance.now();
  #wasAsked = false;

  constructor(socket: Socket, options: FrontOptions, owner: ConnectionOwner) {
    this.#socket = socket;
    this.#options = options;
    this.#owner = owner;
    socket.on("data", this.#onData);
    socket.on("end", this.#onEnd);
    socket.on("drain", this.#onDrain);
    socket.on("error", this.#onError);
    socket.on("close", this.#onClose);
  }

  sweep(nowMs: number): void {
    if (this.#reader.isFor(this.#options.stalledMs, this.#socket, nowMs)) {
      this.#socket.destroy();
      return;
    }
    if (this.#response !== null || this.#isFlushing) return;
    if (this.#waiting !== null) {
      this.#sweepsWaited += 1;
      if (this.#sweepsWaited > 1) this.#giveAway(this.#waiting);
    } else if (this.#idleSinceMs < nowMs - this.#options.idleMs) this.#socket.destroy();
  }

  /** Its first request may be on its way. */
  get isExpecting(): boolean {
    return !this.#wasAsked && isYoung(this.#idleSinceMs);
  }

  closeIdle(): void {
    if (this.isExpecting || this.#response !== null || this.#isFlushing || this.#waiting !== null || !this.#socket.writable) return;
    // The end of the last answer may still be on its way.
    this.#socket.destroySoon();
  }

  destroy(): void {
    this.#socket.destroy();
  }

  write(text: string, encoding: "latin1" | "utf8"): boolean {
    if (!this.#socket.writable) return true;
    writeTogether(this.#socket);
    return this.#socket.write(text, encoding);
  }

  writeBytes(before: string, bytes: Buffer, after: string): boolean {
    const socket = this.#socket;
    if (!socket.writable) return true;
    writeTogether(socket);
    // One segment and one system call, as text of single bytes.
    if (bytes.length <= joinedBytesMax) return socket.write(before + bytes.toString("latin1") + after, "latin1");
    if (before !== "") socket.write(before, "latin1");
    let more = socket.write(bytes);
    if (after !== "") more = socket.write(after, "latin1");
    return more;
  }

  answered(keepAlive: boolean): void {
    this.#response = null;
    this.#options.over();
    if (!keepAlive) {
      this.#socket.off("data", this.#onData);
      this.#waiting = null;
      this.#isFlushing = true;
      this.#socket.destroySoon();
      return;
    }
    // What the client has not taken is bounded by one answer: the next request is read after it.
    if (this.#socket.writableNeedDrain) this.#isFlushing = true;
    else this.#next();
  }

  #next(): void {
    this.#isFlushing = false;
    this.#idleSinceMs = performance.now();
    // Who sends a request before the answer to the last one gets what node:http makes of that.
    if (this.#waiting !== null) this.#giveAway(this.#waiting);
  }

  readonly #onData = (chunk: Buffer): void => {
    const bytes = this.#waiting === null ? chunk : Buffer.concat([this.#waiting, chunk]);
    if (this.#response !== null || this.#isFlushing) {
      this.#waiting = bytes;
      if (bytes.length > requestBytesMax) this.#socket.pause();
      return;
    }
    const read = readStrict(bytes, this.#known);
    if (read === "more") {
      this.#waiting = bytes;
      this.#pieces += 1;
      if (this.#pieces > piecesMax) this.#giveAway(bytes);
      return;
    }
    if (read === "other") {
      this.#giveAway(bytes);
      return;
    }
    this.#waiting = read.end === bytes.length ? null : bytes.subarray(read.end);
    this.#pieces = 0;
    this.#sweepsWaited = 0;
    this.#wasAsked = true;
    const response = new FrontResponse(this, read.keepAlive);
    this.#response = response;
    this.#options.serve(read, response, this.#socket);
  };

  /** All that was not answered goes to node:http, which reads the connection from now on. */
  #giveAway(bytes: Buffer): void {
    const socket = this.#socket;
    if (socket.readableEnded || !socket.writable) {
      // Nobody is there who would read an answer.
      socket.destroySoon();
      return;
    }
    this.#leave();
    // Paused, so that nothing of it is lost before the other one listens.
    socket.pause();
    socket.unshift(bytes);
    // node:http destroys the socket over what it cannot read, and the last answer is not to be lost with that.
    sendWritten(socket);
    this.#owner.giveAway();
    process.nextTick(() => socket.resume());
  }

  #leave(): void {
    const socket = this.#socket;
    socket.off("data", this.#onData);
    socket.off("end", this.#onEnd);
    socket.off("drain", this.#onDrain);
    socket.off("error", this.#onError);
    socket.off("close", this.#onClose);
    this.#waiting = null;
  }

  readonly #onDrain = (): void => {
    if (this.#isFlushing) {
      if (this.#socket.writable) this.#next();
    } else this.#response?.emit("drain");
  };

  /** The client sends no more; as with node:http, it does not wait for an answer either. */
  readonly #onEnd = (): void => {
    if (this.#waiting !== null && this.#response === null && !this.#isFlushing) this.#socket.end(badRequest);
    else this.#socket.end();
  };

  readonly #onError = (error: Error): void => this.#options.onTrouble(error);

  readonly #onClose = (): void => {
    this.#owner.closed();
    const response = this.#response;
    this.#response = null;
    if (response === null) return;
    this.#options.over();
    response.gone();
  };
}

const joinedBytesMax = 64 * 1024;
