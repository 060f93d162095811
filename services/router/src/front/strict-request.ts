import type { IncomingHttpHeaders } from "node:http";
import type { ClientRequest } from "../client-exchange.ts";
import type { KnownHead } from "../known-head.ts";

/**
 * Reads the one kind of request that nobody can read in another way, and leaves every other one to node:http. Guarantees, each fuzzed beside it:
 * F1  What is taken is read as node:http reads it: the same method, target, headers and body, and the next request begins at the same byte.
 * F2  Nothing is taken that two readers could understand differently: one length in plain digits and no other framing, each header once, no
 *     expectation, upgrade or option of the connection but `keep-alive` and `close`, printable ASCII, CRLF alone, HTTP/1.1, a target without query or escapes.
 * F3  Nothing is refused here: what is not taken is not judged, and no byte of it is consumed.
 */
export interface StrictRequest extends ClientRequest {
  readonly method: "POST";
  readonly url: string;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
  /** False: the client wants no other answer on this connection. */
  readonly keepAlive: boolean;
  /** Where in the bytes the next request would begin. */
  readonly end: number;
}

/** `more`: it may become one. `other`: it is for node:http. */
export type Read = StrictRequest | "more" | "other";

const begin = Buffer.from("POST /mcp/", "latin1");
/** Both below what node:http takes here. */
const headBytesMax = 32 * 1024;
const headersMax = 64;
/** A part of a text keeps the whole alive: of a longer head, what somebody remembers is copied. */
const sharedHeadCharsMax = 4 * 1024;
/** What is longer costs so much by itself that the way through node:http does not matter. */
const bodyBytesMax = 64 * 1024;
/** What waits for its end is never longer. */
export const requestBytesMax: number = headBytesMax + 4 + bodyBytesMax;

const requestLine = /^POST (\/mcp\/[\da-zA-Z_-]{1,64}) HTTP\/1\.1$/;
const headerName = /^[a-zA-Z][\da-zA-Z-]*$/;
const valueForbidden = /[^\t\x20-\x7e]/;
/** Not printable, a line feed alone, or a carriage return alone. */
const strayBytes = /[^\t\x20-\x7e\r\n]|(?:^|[^\r])\n|\r[^\n]/;
const lengthPattern = /^(?:0|[1-9]\d{0,6})$/;
/** What changes the framing or the connection, or asks for something before the answer. */
const forbidden = new Set(["transfer-encoding", "expect", "upgrade", "te", "trailer", "keep-alive", "proxy-connection", "http2-settings"]);

/** What a head says besides the length of the body. */
interface StrictHead {
  readonly url: string;
  readonly headers: IncomingHttpHeaders;
  readonly keepAlive: boolean;
}
/** What a connection remembers of its last head. */
export type KnownRequest = KnownHead<StrictHead>;

/** The first request in `bytes`. */
export function readStrict(bytes: Buffer, known: KnownRequest): Read {
  const begun = Math.min(begin.length, bytes.length);
  if (begin.compare(bytes, 0, begun, 0, begun) !== 0) return "other";
  const headEnd = bytes.indexOf("\r\n\r\n", begin.length, "latin1");
  if (headEnd === -1) return bytes.length > headBytesMax || isOdd(bytes.toString("latin1")) ? "other" : "more";
  const head = known.match(bytes, 0, headEnd);
  if (head === null) return readNew(bytes, headEnd, known);
  return readBody(bytes, headEnd, head, known.length);
}

function readNew(bytes: Buffer, headEnd: number, known: KnownRequest): Read {
  if (headEnd > headBytesMax) return "other";
  const head = bytes.toString("latin1", 0, headEnd);
  const lineEnd = head.indexOf("\r\n");
  if (lineEnd === -1) return "other";
  const url = targetOf(head.slice(0, lineEnd));
  if (url === null) return "other";
  const read = readHeaders(head, lineEnd + 2);
  if (read === null) return "other";
  const { headers, lengthFrom, lengthTo } = read;
  const length = headers["content-length"];
  if (length === undefined || !lengthPattern.test(length) || !headers.host) return "other";
  const strict = { url, headers, keepAlive: isKept(headers.connection) };
  known.learn(bytes, 0, headEnd, lengthFrom, lengthTo, strict);
  return readBody(bytes, headEnd, strict, Number(length));
}

function readBody(bytes: Buffer, headEnd: number, { url, headers, keepAlive }: StrictHead, length: number): Read {
  if (length > bodyBytesMax) return "other";
  const bodyAt = headEnd + 4;
  const end = bodyAt + length;
  if (end > bytes.length) return "more";
  // Nothing may follow the last request of a connection.
  if (!keepAlive && end < bytes.length) return "other";
  // Each request has headers of its own: its trace changes them.
  return { method: "POST", url, headers: ownHeaders(headers, length), body: bytes.subarray(bodyAt, end), keepAlive, end };
}

/** Whether a head that is not whole yet will not be one: node:http says so at once, and is not kept waiting. */
function isOdd(head: string): boolean {
  const lineEnd = head.indexOf("\r\n");
  return strayBytes.test(head) || (lineEnd !== -1 && targetOf(head.slice(0, lineEnd)) === null);
}

/** The last line that was understood, and its target: one client asks for one thing again and again. */
let lastLine = "";
let lastTarget = "";
function targetOf(line: string): string | null {
  if (line === lastLine) return lastTarget;
  const target = requestLine.exec(line)?.[1];
  if (target === undefined) return null;
  lastLine = line;
  lastTarget = target;
  return target;
}

/** An object without a prototype that is no dictionary, so that reading and walking it is cheap. */
const HeaderBag = function HeaderBag() {
  // Headers are put in by name.
} as unknown as new () => IncomingHttpHeaders;
HeaderBag.prototype = Object.create(null);

interface ReadHeaders {
  readonly headers: IncomingHttpHeaders;
  /** Where the digits of the length stand; without meaning where there is none. */
  readonly lengthFrom: number;
  readonly lengthTo: number;
}

/** Null: not for here. */
function readHeaders(head: string, from: number): ReadHeaders | null {
  const headers = new HeaderBag();
  const isShared = head.length <= sharedHeadCharsMax;
  let [count, lengthFrom, lengthTo] = [0, 0, 0];
  for (let at = from; at < head.length; ) {
    let end = head.indexOf("\r\n", at);
    if (end === -1) end = head.length;
    const colon = head.indexOf(":", at);
    if (colon === -1 || colon >= end || ++count > headersMax) return null;
    const name = nameOf(head.slice(at, colon));
    if (name === null || headers[name] !== undefined) return null;
    // Without the spaces and tabs around it (RFC 9110, 5.5).
    let [first, last] = [colon + 1, end];
    while (first < last && isSpace(head.charCodeAt(first))) first += 1;
    while (last > first && isSpace(head.charCodeAt(last - 1))) last -= 1;
    const value = head.slice(first, last);
    if (valueForbidden.test(value)) return null;
    if (name === "content-length") [lengthFrom, lengthTo] = [first, last];
    if (name === "connection" && value !== "keep-alive" && value !== "close" && !/^(?:keep-alive|close)$/i.test(value)) return null;
    headers[name] = isShared ? value : ownCopy(value);
    at = end + 2;
  }
  return { headers, lengthFrom, lengthTo };
}

function ownHeaders(headers: IncomingHttpHeaders, length: number): IncomingHttpHeaders {
  const own = new HeaderBag();
  for (const name in headers) own[name] = headers[name];
  own["content-length"] = String(length);
  return own;
}

function isKept(connection: string | undefined): boolean {
  return connection === undefined || connection === "keep-alive" || connection.toLowerCase() === "keep-alive";
}

const isSpace = (code: number): boolean => code === 32 || code === 9;

/** Names come again and again: each is looked at once. */
const names = new Map<string, string | null>();
const namesMax = 1000;
const nameCharsMax = 64;

/** In lower case; null for what is not for here. */
function nameOf(raw: string): string | null {
  const known = names.get(raw);
  if (known !== undefined) return known;
  const lower = raw.toLowerCase();
  const name = headerName.test(raw) && !forbidden.has(lower) ? lower : null;
  if (names.size < namesMax && raw.length <= nameCharsMax) names.set(ownCopy(raw), name);
  return name;
}

/** The same text, which is no part of a longer one. */
function ownCopy(text: string): string {
  return Buffer.from(text, "latin1").toString("latin1");
}
