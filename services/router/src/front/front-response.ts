import { EventEmitter } from "node:events";
import { STATUS_CODES } from "node:http";
import type { ClientResponse } from "../client-exchange.ts";

/** What an answer uses of its connection. */
export interface AnswerLine {
  /** Returns false when the client reads too slowly. */
  write(text: string, encoding: "latin1" | "utf8"): boolean;
  writeBytes(before: string, bytes: Buffer, after: string): boolean;
  /** The answer is written. */
  answered(keepAlive: boolean): void;
  destroy(): void;
}

type Headers = Readonly<Record<string, string | number | string[] | undefined>>;

/**
 * The answer to a request that the front took, written as node:http writes it. Guarantees:
 * F4  One answer: a length that is that of the body, or chunks with an end; no header can end its line. Where a body is not as long as was
 *     said, the connection ends, so that no byte of one answer is read as part of another.
 * F5  A short answer is one write. What is streamed goes out as it comes, and tells when the client reads too slowly.
 */
export class FrontResponse extends EventEmitter implements ClientResponse {
  headersSent = false;
  writableEnded = false;
  writableFinished = false;
  destroyed = false;
  readonly #line: AnswerLine;
  #set: Record<string, string> | null = null;
  /** Of an answer that has begun, until it goes out with the first part of the body. */
  #head = "";
  #framing: "unknown" | "length" | "chunks" | "none" = "unknown";
  #isHeadOut = false;
  /** Bytes of the body that are to come, where a length was said. */
  #left = 0;
  #keepAlive: boolean;

  constructor(line: AnswerLine, keepAlive: boolean) {
    super();
    this.#line = line;
    this.#keepAlive = keepAlive;
  }

  setHeader(name: string, value: string): this {
    this.#set ??= {};
    this.#set[name.toLowerCase()] = value;
    return this;
  }

  writeHead(status: number, given?: Headers): this {
    if (this.headersSent) throw new Error("the answer has begun already");
    const headers: Headers = this.#set === null ? (given ?? noHeaders) : { ...this.#set, ...given };
    let head = statusLine(status);
    let length: number | null = null;
    let keepAlive = this.#keepAlive;
    for (const name in headers) {
      const value = headers[name];
      if (value === undefined) continue;
      const known = nameOf(name);
      if (known === "connection") {
        keepAlive = keepAlive && value !== "close";
        continue;
      }
      if (known === "content-length") length = Number(value);
      head += headerLine(known, value);
    }
    if (status === 204 || status === 304) this.#framing = "none";
    else if (length !== null) {
      this.#framing = "length";
      this.#left = length;
    }
    this.#keepAlive = keepAlive;
    this.#head = `${head}${dateLine()}${keepAlive ? keepAliveLine : closeLine}`;
    this.headersSent = true;
    return this;
  }

  flushHeaders(): void {
    if (this.#isHeadOut || this.writableEnded) return;
    this.#line.write(this.#takeHead(), "latin1");
  }

  write(part: string | Buffer): boolean {
    if (this.writableEnded || this.destroyed) return true;
    // The usual event of a stream.
    if (typeof part === "string" && this.#isHeadOut && this.#framing === "chunks" && part !== "")
      return this.#line.write(`${Buffer.byteLength(part).toString(16)}\r\n${part}\r\n`, "utf8");
    const bytes = typeof part === "string" ? Buffer.from(part) : part;
    if (!this.#isWithinLength(bytes.length)) return true;
    const head = this.#isHeadOut ? "" : this.#takeHead();
    // An empty chunk would be the end.
    if (bytes.length === 0 || this.#framing === "none") return head === "" || this.#line.write(head, "latin1");
    if (this.#framing === "length") return this.#line.writeBytes(head, bytes, "");
    return this.#line.writeBytes(`${head}${bytes.length.toString(16)}\r\n`, bytes, "\r\n");
  }

  end(rest?: string | Buffer, encoding: BufferEncoding = "utf8"): this {
    if (this.writableEnded) return this;
    if (!this.headersSent) this.writeHead(200);
    if (!this.#isHeadOut) this.#endWhole(rest, encoding);
    else {
      if (rest !== undefined) this.write(typeof rest === "string" ? Buffer.from(rest, encoding) : rest);
      if (this.#framing === "chunks") this.#line.write("0\r\n\r\n", "latin1");
    }
    if (this.#framing === "length" && this.#left > 0 && !this.destroyed) return this.destroy();
    this.writableEnded = true;
    if (this.destroyed) return this;
    this.writableFinished = true;
    this.#line.answered(this.#keepAlive);
    // As with node:http, whoever ends an answer is done with it before he hears so.
    if (this.listenerCount("close") > 0) process.nextTick(() => this.emit("close"));
    return this;
  }

  /** Breaks the answer off; one that is whole stays so, and its connection may be another one's by now. */
  destroy(): this {
    if (this.writableEnded || this.destroyed) return this;
    this.destroyed = true;
    this.#line.destroy();
    return this;
  }

  /** The connection is gone before the answer was whole. */
  gone(): void {
    this.destroyed = true;
    this.emit("close");
  }

  /** Head and body in one piece. */
  #endWhole(rest: string | Buffer | undefined, encoding: BufferEncoding): void {
    if (this.#framing === "none") {
      this.#line.write(this.#takeHead(), "latin1");
      return;
    }
    const text = rest === undefined ? "" : typeof rest === "string" && encoding === "latin1" ? rest : null;
    const bytes = text === null ? (typeof rest === "string" ? Buffer.from(rest, encoding) : (rest as Buffer)) : null;
    const length = text?.length ?? (bytes as Buffer).length;
    if (this.#framing === "unknown") {
      this.#head += `content-length: ${length}\r\n`;
      this.#framing = "length";
    } else if (!this.#isWithinLength(length)) return;
    if (text !== null) this.#line.write(this.#takeHead() + text, "latin1");
    else this.#line.writeBytes(this.#takeHead(), bytes as Buffer, "");
  }

  /** Ends the connection before a byte goes out that was not told of. */
  #isWithinLength(bytes: number): boolean {
    if (this.#framing !== "length") return true;
    this.#left -= bytes;
    if (this.#left >= 0) return true;
    this.destroy();
    return false;
  }

  #takeHead(): string {
    if (!this.headersSent) this.writeHead(200);
    if (this.#framing === "unknown") {
      this.#framing = "chunks";
      this.#head += "transfer-encoding: chunked\r\n";
    }
    const head = `${this.#head}\r\n`;
    this.#head = "";
    this.#isHeadOut = true;
    return head;
  }
}

const noHeaders: Headers = {};
const keepAliveLine = "Connection: keep-alive\r\n";
const closeLine = "Connection: close\r\n";
const token = /^[!#$%&'*+\-.^_`|~\da-zA-Z]+$/;
const valueForbidden = /[^\t\x20-\x7e\x80-\xff]/;

function headerLine(name: string, value: string | number | string[]): string {
  if (Array.isArray(value)) return value.map((one) => headerLine(name, one)).join("");
  if (typeof value === "string" && valueForbidden.test(value)) throw new Error(`the header ${name} has a control character in it`);
  return `${name}: ${value}\r\n`;
}

const names = new Map<string, string>();
const namesMax = 1000;
/** In lower case. How a body ends is not for others to say. */
function nameOf(given: string): string {
  const known = names.get(given);
  if (known !== undefined) return known;
  const name = given.toLowerCase();
  if (!token.test(name) || name === "transfer-encoding")
    throw new Error(`the header ${JSON.stringify(name.slice(0, 64))} cannot be written`);
  if (names.size < namesMax) names.set(given, name);
  return name;
}

const statusLines = new Map<number, string>();
function statusLine(status: number): string {
  let line = statusLines.get(status);
  if (line === undefined) {
    if (!Number.isInteger(status) || status < 200 || status > 999) throw new RangeError(`${status} is no status of an answer`);
    line = `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? "unknown"}\r\n`;
    statusLines.set(status, line);
  }
  return line;
}

let dateSecond = 0;
let date = "";
function dateLine(): string {
  const second = Math.floor(Date.now() / 1000);
  if (second !== dateSecond) {
    dateSecond = second;
    date = `Date: ${new Date(second * 1000).toUTCString()}\r\n`;
  }
  return date;
}
