/**
 * Reads one answer of HTTP/1.x (RFC 9112) out of the bytes of a connection, as they come.
 *
 * P1  However the bytes are cut into pieces, the answer is the same.
 * P2  An answer whose end could be understood in two ways is refused: two lengths, a length beside chunks, an unknown transfer coding,
 *     folded or unfinished lines, control characters. So is a head, or what surrounds chunks, of over 16 KiB.
 * P3  Of a body no more is kept than was asked for; one that is longer is `enough`, and its connection is not used again.
 * P4  Bytes after the end of an answer are nobody's: the connection is not used again.
 */
export class HttpParserError extends Error {
  // The name and the codes that Node's own parser has, so that both are told in the same way.
  override readonly name = "HTTPParserError";
  readonly code: `HPE_${string}`;
  readonly retriable = true;
  constructor(code: HttpParserError["code"], message: string) {
    super(message);
    this.code = code;
  }
}

const nothing = Buffer.alloc(0);
const headBytesMax = 16 * 1024;
const statusLine = /^HTTP\/1\.([01]) (\d{3})(?: [\t\x20-\x7e\x80-\xff]*)?$/;
const fieldLines = /^(?:\r\n[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*)*$/;
const closes = /(?:^|,)[ \t]*close[ \t]*(?:,|$)/i;
const keptSeconds = /(?:^|[, \t])timeout=(\d{1,6})/;
const chunkSize = /^([0-9A-Fa-f]{1,8})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?$/;

type Part = "head" | "counted" | "until_close" | "chunk_size" | "chunk" | "chunk_end" | "trailer" | "done";

export class HttpAnswer {
  status = 0;
  /** Whether the connection may carry another request. */
  reusable = false;
  /** What the server says of how long it keeps an idle connection; null: nothing. */
  keepsForMs: number | null = null;
  readonly #toHead: boolean;
  readonly #bytesMax: number;
  readonly #keepsBody: boolean;
  #part: Part = "head";
  /** The beginning of a head or of a line that is not complete yet. */
  #begun = "";
  /** All lines of the head but the first, each with the CRLF before it. */
  #fields = "";
  #lowerFields = "";
  /** Of the body or the chunk. */
  #left = 0;
  #framingBytes = 0;
  #bodyBytes = 0;
  #body = nothing;

  /** `toHead`: the answer to a HEAD has no body. `bytesMax`: a body of more is not read to its end. */
  constructor(options: { readonly toHead: boolean; readonly bytesMax: number; readonly keepsBody: boolean }) {
    this.#toHead = options.toHead;
    this.#bytesMax = options.bytesMax;
    this.#keepsBody = options.keepsBody;
  }

  get done(): boolean {
    return this.#part === "done";
  }
  /** Whether the body was longer than what is read of one (P3). */
  get enough(): boolean {
    return this.#bodyBytes > this.#bytesMax;
  }
  /** What was kept of the body. */
  get body(): Buffer {
    return this.#body.subarray(0, Math.min(this.#bodyBytes, this.#bytesMax));
  }

  /** The first value of a header by its lower-case name; null: there is none. */
  header(name: string): string | null {
    const at = this.#lowerFields.indexOf(`\r\n${name}:`);
    return at === -1 ? null : this.#valueAt(at + name.length + 3);
  }

  /** Takes the next bytes in. Throws {@link HttpParserError}. What it keeps of them is a copy. */
  take(bytes: Buffer): void {
    let at = 0;
    while (at < bytes.length && this.#part !== "done") at = this.#step(bytes, at);
    if (at < bytes.length) this.reusable = false;
  }

  /** The connection was closed; whether that was the proper end of the answer. */
  close(): boolean {
    if (this.#part === "until_close") this.#part = "done";
    this.reusable = false;
    return this.#part === "done";
  }

  #step(bytes: Buffer, at: number): number {
    switch (this.#part) {
      case "head":
        return this.#readHead(bytes, at);
      case "counted":
      case "until_close":
      case "chunk":
        return this.#readBody(bytes, at);
      case "chunk_size":
      case "chunk_end":
      case "trailer":
        return this.#readLine(bytes, at);
      case "done":
        return bytes.length;
    }
  }

  #readHead(bytes: Buffer, at: number): number {
    const before = this.#begun.length;
    // One byte over the limit is enough to know that it is broken.
    const text = this.#begun + bytes.toString("latin1", at, Math.min(bytes.length, at + headBytesMax + 1 - before));
    const end = text.indexOf("\r\n\r\n", Math.max(0, before - 3));
    if (end === -1) {
      if (text.length > headBytesMax) throw new HttpParserError("HPE_HEADER_OVERFLOW", "the head of the answer is over 16 KiB");
      if (!"HTTP/1.".startsWith(text.slice(0, 7))) throw new HttpParserError("HPE_INVALID_CONSTANT", "it is no HTTP/1.x");
      this.#begun = text;
      return bytes.length;
    }
    this.#begun = "";
    this.#framingBytes += end;
    if (this.#framingBytes > headBytesMax) throw new HttpParserError("HPE_HEADER_OVERFLOW", "the head of the answer is over 16 KiB");
    this.#understand(text.slice(0, end));
    return at + end + 4 - before;
  }

  #understand(head: string): void {
    const lineEnd = head.indexOf("\r\n");
    const [, minor, status] = statusLine.exec(lineEnd === -1 ? head : head.slice(0, lineEnd)) ?? [];
    if (minor === undefined || status === undefined) throw new HttpParserError("HPE_INVALID_CONSTANT", "it has no status line of HTTP/1.x");
    this.#fields = lineEnd === -1 ? "" : head.slice(lineEnd);
    if (!fieldLines.test(this.#fields)) throw new HttpParserError("HPE_INVALID_HEADER_TOKEN", "a header is not one");
    this.#lowerFields = this.#fields.toLowerCase();
    this.status = Number(status);
    if (this.status < 100) throw new HttpParserError("HPE_INVALID_STATUS", "its status is none");
    // An interim answer is none; nobody asked for another protocol.
    if (this.status === 101) throw new HttpParserError("HPE_INVALID_STATUS", "it changes to a protocol that nobody asked for");
    if (this.status < 200) return;
    const connection = this.header("connection");
    this.reusable = minor === "1" && (connection === null || !closes.test(connection));
    const seconds = this.reusable ? keptSeconds.exec(this.header("keep-alive") ?? "")?.[1] : undefined;
    this.keepsForMs = seconds === undefined ? null : Number(seconds) * 1000;
    this.#frame();
  }

  /** Where the body ends (RFC 9112, 6.3). */
  #frame(): void {
    const coding = this.#onlyValueOf("transfer-encoding")?.toLowerCase() ?? null;
    const length = this.#onlyValueOf("content-length");
    if (coding !== null && coding !== "chunked") {
      throw new HttpParserError("HPE_INVALID_TRANSFER_ENCODING", "its transfer coding is not known");
    }
    if (coding !== null && length !== null) throw new HttpParserError("HPE_UNEXPECTED_CONTENT_LENGTH", "it has a length beside chunks");
    if (length !== null && !/^\d{1,15}$/.test(length)) throw new HttpParserError("HPE_INVALID_CONTENT_LENGTH", "its length is no number");
    if (this.#toHead || this.status === 204 || this.status === 304) this.#part = "done";
    else if (coding !== null) this.#part = "chunk_size";
    else if (length === null) {
      this.#part = "until_close";
      this.reusable = false;
    } else {
      this.#left = Number(length);
      this.#part = this.#left === 0 ? "done" : "counted";
    }
  }

  #readBody(bytes: Buffer, at: number): number {
    const end = this.#part === "until_close" ? bytes.length : Math.min(bytes.length, at + this.#left);
    if (this.#keepsBody) this.#keep(bytes.subarray(at, Math.min(end, at + this.#bytesMax - this.#bodyBytes)));
    this.#bodyBytes += end - at;
    this.#left -= end - at;
    if (this.enough) {
      this.#part = "done";
      this.reusable = false;
    } else if (this.#left === 0) {
      if (this.#part === "counted") this.#part = "done";
      else if (this.#part === "chunk") this.#part = "chunk_end";
    }
    return end;
  }

  /** One piece of memory that grows: a body may come in a million pieces. */
  #keep(piece: Buffer): void {
    const size = this.#bodyBytes + piece.length;
    if (size > this.#body.length) {
      const larger = Buffer.allocUnsafe(Math.min(this.#bytesMax, Math.max(size, this.#body.length * 2)));
      this.#body.copy(larger, 0, 0, this.#bodyBytes);
      this.#body = larger;
    }
    piece.copy(this.#body, this.#bodyBytes);
  }

  #readLine(bytes: Buffer, at: number): number {
    const newLine = bytes.indexOf(10, at);
    const end = newLine === -1 ? bytes.length : newLine + 1;
    this.#framingBytes += end - at;
    if (this.#framingBytes > headBytesMax)
      throw new HttpParserError("HPE_CHUNK_EXTENSIONS_OVERFLOW", "what surrounds its chunks is over 16 KiB");
    this.#begun += bytes.toString("latin1", at, end);
    if (newLine === -1) return end;
    const line = this.#begun;
    this.#begun = "";
    if (!line.endsWith("\r\n")) throw new HttpParserError("HPE_CR_EXPECTED", "a line does not end as lines do");
    this.#takeLine(line.slice(0, -2));
    return end;
  }

  #takeLine(line: string): void {
    if (this.#part === "chunk_end") {
      if (line !== "") throw new HttpParserError("HPE_STRICT", "a chunk is longer than it says");
      // A body of chunks has a limit; what surrounds them has it for each anew, or it would be one for the body.
      this.#framingBytes = 0;
      this.#part = "chunk_size";
    } else if (this.#part === "chunk_size") {
      const size = chunkSize.exec(line)?.[1];
      if (size === undefined) throw new HttpParserError("HPE_INVALID_CHUNK_SIZE", "a chunk has no size");
      this.#left = Number.parseInt(size, 16);
      this.#part = this.#left === 0 ? "trailer" : "chunk";
    } else if (line === "") this.#part = "done";
    else if (!fieldLines.test(`\r\n${line}`)) throw new HttpParserError("HPE_INVALID_HEADER_TOKEN", "a trailer is not one");
  }

  /** The value of a header that may be there once only (P2). */
  #onlyValueOf(name: string): string | null {
    const at = this.#lowerFields.indexOf(`\r\n${name}:`);
    if (at === -1) return null;
    if (this.#lowerFields.includes(`\r\n${name}:`, at + 1)) throw new HttpParserError("HPE_INVALID_HEADER_TOKEN", `it has ${name} twice`);
    return this.#valueAt(at + name.length + 3);
  }

  #valueAt(at: number): string {
    const end = this.#fields.indexOf("\r\n", at);
    return this.#fields.slice(at, end === -1 ? this.#fields.length : end).trim();
  }
}
