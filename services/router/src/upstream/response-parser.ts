import { KnownHead } from "../known-head.ts";

/**
 * Reads the answers of one connection: a strict subset of HTTP/1.1 (RFC 9112), because what two readers understand differently is how requests
 * are smuggled. Guarantees, each with its test and all of them fuzzed beside node:http:
 * H1  An answer is read as node:http reads it (status, headers, body), or it is refused with {@link MalformedAnswer}: bare LF, folded
 *     headers, control characters, both lengths, two lengths, lengths that are no plain numbers, codings other than `chunked`, 101.
 * H2  What a byte belongs to does not depend on how the bytes are cut into chunks.
 * H3  Nothing grows without limit: head and trailers by `headerBytesMax`, headers by number, chunk lines and interim answers by number.
 * H4  `reusable` only after an answer whose end is beyond doubt: a length or a last chunk, HTTP/1.1, no `connection: close`, and no byte after it.
 */
export class ResponseParser {
  readonly #target: AnswerTarget;
  readonly #headerBytesMax: number;
  #state: "head" | "length" | "until_close" | "chunk_line" | "chunk" | "chunk_end" | "trailers" | "idle" = "idle";
  #bodiless = false;
  #left = 0;
  #interim = 0;
  #trailerBytes = 0;
  #keepAlive = false;
  /** Of a head or line that is not whole yet. */
  #waiting: Buffer | null = null;
  readonly #known = new KnownHead<ReadHead>();

  constructor(target: AnswerTarget, headerBytesMax: number) {
    this.#target = target;
    this.#headerBytesMax = headerBytesMax;
  }

  /** A request is being written, whose answer comes next. */
  begin(method: string): void {
    this.#bodiless = method === "HEAD";
    this.#state = "head";
    this.#interim = 0;
    this.#waiting = null;
  }

  get reusable(): boolean {
    return this.#state === "idle" && this.#keepAlive;
  }

  /** Takes bytes that are the reader's only until it returns. Throws {@link MalformedAnswer}. */
  feed(bytes: Buffer): void {
    let at = 0;
    while (at < bytes.length) {
      switch (this.#state) {
        case "head":
          at = this.#head(bytes, at);
          break;
        case "length":
        case "chunk":
          at = this.#body(bytes, at);
          break;
        case "until_close":
          this.#target.onData(Buffer.from(bytes.subarray(at)));
          at = bytes.length;
          break;
        case "chunk_line":
          at = this.#line(bytes, at, chunkLineBytesMax, (line) => this.#chunkLine(line));
          break;
        case "chunk_end":
          at = this.#line(bytes, at, 2, (line) => {
            if (line !== "") throw new MalformedAnswer("a chunk is longer than it says");
            this.#state = "chunk_line";
          });
          break;
        case "trailers":
          at = this.#line(bytes, at, this.#headerBytesMax, (line) => this.#trailer(line));
          break;
        case "idle":
          // The answer is whole; what follows it was asked for by nobody.
          this.#keepAlive = false;
          return;
      }
    }
  }

  /** The server closed. Returns whether that was the end of an answer; else it is cut off. */
  close(): boolean {
    this.#keepAlive = false;
    if (this.#state !== "until_close") return false;
    this.#finish();
    return true;
  }

  #head(bytes: Buffer, at: number): number {
    const waited = this.#waiting?.length ?? 0;
    // The end of the head may be cut anywhere: what waits is looked at again with what came.
    const all = this.#waiting === null ? bytes : Buffer.concat([this.#waiting, bytes.subarray(at)]);
    const from = this.#waiting === null ? at : 0;
    const end = all.indexOf("\r\n\r\n", from);
    if ((end === -1 ? all.length : end) - from > this.#headerBytesMax) throw new MalformedAnswer("its headers are too long");
    if (end === -1) {
      const text = all.toString("latin1", from);
      if (bareLineFeed.test(text) || !text.startsWith(version.slice(0, text.length)))
        throw new MalformedAnswer("it does not begin as HTTP/1.1 does");
      this.#waiting = Buffer.from(all.subarray(from));
      return bytes.length;
    }
    this.#waiting = null;
    const known = this.#known.match(all, from, end);
    if (known === null) this.#readHead(all, from, end);
    else this.#again(known, this.#known.length);
    return end + 4 - (all === bytes ? 0 : waited - at);
  }

  #readHead(bytes: Buffer, from: number, end: number): void {
    const head = bytes.toString("latin1", from, end);
    const lineEnd = head.indexOf("\r\n");
    const statusLine = lineEnd === -1 ? head : head.slice(0, lineEnd);
    const parts = statusPattern.exec(statusLine);
    if (parts === null) throw new MalformedAnswer("its status line is none");
    const status = Number(parts[2]);
    const read = { status, isCurrent: parts[1] === "1", ...readHeaders(head, lineEnd === -1 ? head.length : lineEnd + 2) };
    if (status < 200) {
      // Asked for by nobody (101 would make another protocol of the connection).
      if (status === 101 || ++this.#interim > interimMax) throw new MalformedAnswer(`it answered ${status}`);
      return;
    }
    this.#frame(read, read.lengths);
    this.#known.learn(bytes, from, end, read.lengthFrom, read.lengthTo, read);
    this.#deliver(read.status, read.headers);
  }

  /** Its like was read before, with another length perhaps. */
  #again(read: ReadHead, length: number): void {
    const lengths = read.lengths === null ? null : String(length);
    this.#frame(read, lengths);
    this.#deliver(read.status, lengths === read.lengths ? read.headers : withLength(read.headers, String(length)));
  }

  #deliver(status: number, headers: AnswerHeaders): void {
    this.#target.onHead(status, headers);
    if (this.#state === "length" && this.#left === 0) this.#finish();
  }

  /** Where the body ends (RFC 9112, 6.3). */
  #frame({ status, isCurrent, codings, connection }: ReadHead, lengths: string | null): void {
    this.#keepAlive = isCurrent && !closes(connection);
    if (codings !== null) {
      if (lengths !== null) throw new MalformedAnswer("it has both a length and a transfer coding");
      if (!isCurrent || codings.toLowerCase() !== "chunked") throw new MalformedAnswer("its transfer coding is not chunked alone");
    }
    if (lengths !== null && !lengthPattern.test(lengths)) throw new MalformedAnswer("its length is no plain number");
    if (this.#bodiless || status === 204 || status === 304) {
      // A server that says how long a body is that may not be there is perhaps about to send it.
      if (status === 204 && (codings !== null || (lengths !== null && Number(lengths) > 0))) this.#keepAlive = false;
      this.#state = "length";
      this.#left = 0;
    } else if (codings !== null) {
      this.#state = "chunk_line";
      this.#trailerBytes = 0;
    } else if (lengths !== null) {
      this.#state = "length";
      this.#left = Number(lengths);
    } else {
      this.#state = "until_close";
      this.#keepAlive = false;
    }
  }

  #body(bytes: Buffer, at: number): number {
    const end = Math.min(bytes.length, at + this.#left);
    this.#left -= end - at;
    this.#target.onData(Buffer.from(bytes.subarray(at, end)));
    if (this.#left > 0) return end;
    if (this.#state === "chunk") this.#state = "chunk_end";
    else this.#finish();
    return end;
  }

  /** Takes one line that ends with CRLF and may hold no other CR or LF. */
  #line(bytes: Buffer, at: number, bytesMax: number, take: (line: string) => void): number {
    const lineFeed = bytes.indexOf(10, at);
    const end = lineFeed === -1 ? bytes.length : lineFeed + 1;
    const before = this.#waiting?.length ?? 0;
    if (before + end - at > bytesMax) throw new MalformedAnswer("a line of its body is too long");
    const part = bytes.subarray(at, end);
    const all = this.#waiting === null ? part : Buffer.concat([this.#waiting, part]);
    if (lineFeed === -1) {
      this.#waiting = Buffer.from(all);
      return end;
    }
    this.#waiting = null;
    const line = all.toString("latin1");
    if (!line.endsWith("\r\n") || valueForbidden.test(line.slice(0, -2))) throw new MalformedAnswer("a line of its body is not one");
    take(line.slice(0, -2));
    return end;
  }

  #chunkLine(line: string): void {
    const size = chunkPattern.exec(line)?.[1];
    if (size === undefined) throw new MalformedAnswer("the size of a chunk is no number");
    this.#left = Number.parseInt(size, 16);
    this.#state = this.#left === 0 ? "trailers" : "chunk";
  }

  /** Trailers are read and dropped: no one asked for any, and none may change what the head said. */
  #trailer(line: string): void {
    if (line === "") {
      this.#finish();
      return;
    }
    this.#trailerBytes += line.length + 2;
    if (this.#trailerBytes > this.#headerBytesMax) throw new MalformedAnswer("its trailers are too long");
    const colon = line.indexOf(":");
    if (colon < 1 || !token.test(line.slice(0, colon))) throw new MalformedAnswer("a trailer is none");
  }

  #finish(): void {
    this.#state = "idle";
    this.#target.onEnd();
  }
}

/** Where an answer goes. */
export interface AnswerTarget {
  onHead(status: number, headers: AnswerHeaders): void;
  /** The bytes are the target's own. */
  onData(chunk: Buffer): void;
  onEnd(): void;
}

/** By lower-case name; an array where a name came more than once. Without a prototype. */
export type AnswerHeaders = Record<string, string | string[]>;

/** It is not HTTP as this reader understands it, so that nothing more may be read of the connection. */
export class MalformedAnswer extends Error {
  override readonly name = "MalformedAnswer";
  readonly code = "malformed_answer";
  /** Another attempt may meet a healthier server. */
  readonly retriable = true;
  constructor(what: string) {
    super(`the answer is not valid HTTP: ${what}`);
  }
}

const version = "HTTP/1.";
const statusPattern = /^HTTP\/1\.([01]) ([1-5]\d\d)(?: [\t\x20-\x7e\x80-\xff]*)?$/;
const lengthPattern = /^\d{1,15}$/;
/** At most 2^52: a size beyond what a number counts exactly is refused. */
const chunkPattern = /^([\da-fA-F]{1,13})(?:;.*)?$/;
const token = /^[!#$%&'*+\-.^_`|~\da-zA-Z]+$/;
const valueForbidden = /[^\t\x20-\x7e\x80-\xff]/;
const bareLineFeed = /(?:^|[^\r])\n/;
const headersMax = 500;
const interimMax = 10;
const chunkLineBytesMax = 1024;

interface Headers {
  readonly headers: AnswerHeaders;
  readonly lengths: string | null;
  /** Where the digits of the length stand; equal where it has none. */
  readonly lengthFrom: number;
  readonly lengthTo: number;
  readonly codings: string | null;
  readonly connection: string | null;
}
interface ReadHead extends Headers {
  readonly status: number;
  /** HTTP/1.1. */
  readonly isCurrent: boolean;
}

/** An object without a prototype that is no dictionary, so that reading and walking it is cheap. */
const HeaderBag = function HeaderBag() {
  // Headers are put in by name.
} as unknown as new () => AnswerHeaders;
HeaderBag.prototype = Object.create(null);

function readHeaders(head: string, begin: number): Headers {
  const headers = new HeaderBag();
  let lengths: string | null = null;
  let codings: string | null = null;
  let connection: string | null = null;
  let [count, lengthFrom, lengthTo] = [0, 0, 0];
  for (let at = begin; at < head.length; ) {
    let end = head.indexOf("\r\n", at);
    if (end === -1) end = head.length;
    const colon = head.indexOf(":", at);
    if (colon === -1 || colon >= end || ++count > headersMax) throw new MalformedAnswer("a header is none");
    const name = nameOf(head.slice(at, colon));
    // Without the spaces and tabs around it, and nothing else: `trim` takes what a header may hold, and what it must not.
    let [first, last] = [colon + 1, end];
    while (first < last && isSpace(head.charCodeAt(first))) first += 1;
    while (last > first && isSpace(head.charCodeAt(last - 1))) last -= 1;
    const value = head.slice(first, last);
    if (valueForbidden.test(value)) throw new MalformedAnswer("a header has a control character in it");
    // Two of them may be understood as either.
    if (name === "content-length") {
      if (lengths !== null) throw new MalformedAnswer("it has two lengths");
      lengths = value;
      [lengthFrom, lengthTo] = [first, last];
    } else if (name === "transfer-encoding") {
      if (codings !== null) throw new MalformedAnswer("it has two transfer codings");
      codings = value;
    } else if (name === "connection") connection = connection === null ? value : `${connection},${value}`;
    const before = headers[name];
    if (before === undefined) headers[name] = value;
    else if (typeof before === "string") headers[name] = [before, value];
    else before.push(value);
    at = end + 2;
  }
  return { headers, lengths, lengthFrom, lengthTo, codings, connection };
}

function withLength(headers: AnswerHeaders, length: string): AnswerHeaders {
  const own = new HeaderBag();
  for (const name in headers) own[name] = headers[name] as string | string[];
  own["content-length"] = length;
  return own;
}

const isSpace = (code: number): boolean => code === 32 || code === 9;

/** Names come again and again: each is checked once. */
const names = new Map<string, string>();
const namesMax = 1000;

function nameOf(raw: string): string {
  const known = names.get(raw);
  if (known !== undefined) return known;
  if (!token.test(raw)) throw new MalformedAnswer("the name of a header is none");
  const name = raw.toLowerCase();
  if (names.size < namesMax && raw.length <= 64) names.set(raw, name);
  return name;
}

function closes(connection: string | null): boolean {
  if (connection === null || connection === "keep-alive") return false;
  return connection
    .toLowerCase()
    .split(",")
    .some((option) => option.trim() === "close");
}
