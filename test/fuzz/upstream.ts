import type { AddressInfo } from "node:net";
import { createServer, type Server, type Socket } from "node:net";
import { answerOddly } from "./odd-answers.ts";
import { hidden } from "./request.ts";

/** What an upstream received, read as strictly as the standard allows: a router has no excuse for anything else. */
interface Received {
  readonly method: string;
  readonly path: string;
  readonly headers: ReadonlyMap<string, string>;
  readonly body: string;
  /** The number of the client's request that it belongs to; null: made by the router itself. */
  readonly mark: number | null;
}
export interface FuzzUpstream {
  readonly port: number;
  /** How often each mark came. */
  readonly marks: ReadonlyMap<number, number>;
  /** What no router may send. */
  readonly violations: string[];
  readonly requests: number;
  close(): Promise<void>;
}

export const credential = "Bearer of-the-upstream";
const violationsMax = 50;
const marksMax = 2_000_000;

/** A server on a bare socket that answers well, or as oddly as it is asked to. */
export async function startFuzzUpstream(name: string): Promise<FuzzUpstream> {
  const marks = new Map<number, number>();
  const violations: string[] = [];
  const sockets = new Set<Socket>();
  let requests = 0;
  const violate = (what: string): void => {
    if (violations.length < violationsMax) violations.push(`${name}: ${what}`);
  };
  const server: Server = createServer((socket) => {
    sockets.add(socket);
    socket.setNoDelay(true);
    socket.on("error", () => undefined);
    socket.on("close", () => sockets.delete(socket));
    let buffered = Buffer.alloc(0);
    socket.on("data", (chunk) => {
      buffered = buffered.length === 0 ? chunk : Buffer.concat([buffered, chunk]);
      for (;;) {
        const read = readRequest(buffered);
        if (read === null) return;
        if (typeof read === "string") {
          violate(`${read}: ${JSON.stringify(buffered.toString("latin1").slice(0, 300))}`);
          socket.destroy();
          return;
        }
        buffered = buffered.subarray(read.bytes);
        requests++;
        const { received } = read;
        if (received.method !== "OPTIONS" && received.headers.get("authorization") !== credential)
          violate(`another credential: ${received.path}`);
        if (received.headers.has("cookie") || received.headers.has("x-smuggled")) violate("a header of the client that was to stay there");
        if (received.mark !== null) {
          if (received.mark >= hidden) violate(`a request that was hidden in another one: ${received.method} ${received.path}`);
          if (marks.size < marksMax) marks.set(received.mark, (marks.get(received.mark) ?? 0) + 1);
        }
        answer(socket, received);
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    port: (server.address() as AddressInfo).port,
    marks,
    violations,
    get requests() {
      return requests;
    },
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        for (const socket of sockets) socket.destroy();
      }),
  };
}

/** The first request in the bytes, null while it is not complete, or what is wrong with it. */
function readRequest(bytes: Buffer): { received: Received; bytes: number } | null | string {
  const end = bytes.indexOf("\r\n\r\n");
  if (end === -1) return bytes.length > 200_000 ? "a head without an end" : null;
  const [line = "", ...fields] = bytes.subarray(0, end).toString("latin1").split("\r\n");
  const parts = /^([A-Z]+) (\/\S*) HTTP\/1\.1$/.exec(line);
  if (parts === null) return "a request line that is none";
  const [, method = "", path = ""] = parts;
  const headers = new Map<string, string>();
  for (const field of fields) {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
    const named = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)$/.exec(field);
    if (named === null) return "a header that is none";
    const [, key = "", value = ""] = named;
    const lower = key.toLowerCase();
    if (headers.has(lower) && ["host", "content-length", "transfer-encoding", "authorization", "mcp-session-id"].includes(lower))
      return `two headers ${lower}`;
    headers.set(lower, value.trim());
  }
  if (!headers.has("host")) return "no host";
  if (headers.has("transfer-encoding") && headers.has("content-length")) return "a length and chunks";
  let body: { text: string; bytes: number } | null | string = { text: "", bytes: 0 };
  const rest = bytes.subarray(end + 4);
  if (headers.has("transfer-encoding")) {
    if (headers.get("transfer-encoding") !== "chunked") return "an encoding that is not chunked";
    body = readChunks(rest);
  } else if (headers.has("content-length")) {
    const text = headers.get("content-length") as string;
    if (!/^\d{1,9}$/.test(text)) return "a length that is none";
    body = rest.length < Number(text) ? null : { text: rest.subarray(0, Number(text)).toString("utf8"), bytes: Number(text) };
  }
  if (body === null || typeof body === "string") return body;
  if (!path.startsWith("/base/")) return "a path outside of the endpoint's own";
  const received: Received = { method, path, headers, body: body.text, mark: markOf(method, path, body.text) };
  return { received, bytes: end + 4 + body.bytes };
}

function readChunks(bytes: Buffer): { text: string; bytes: number } | null | string {
  const pieces: Buffer[] = [];
  for (let at = 0; ; ) {
    const line = bytes.indexOf("\r\n", at);
    if (line === -1) return null;
    const size = bytes.subarray(at, line).toString("latin1");
    if (!/^[0-9a-fA-F]{1,8}$/.test(size)) return "a chunk that is none";
    const length = Number.parseInt(size, 16);
    const next = line + 2 + length;
    if (bytes.length < next + 2) return null;
    if (bytes.subarray(next, next + 2).toString("latin1") !== "\r\n") return "a chunk without an end";
    if (length === 0) return { text: Buffer.concat(pieces).toString("utf8"), bytes: next + 2 };
    pieces.push(bytes.subarray(line + 2, next));
    at = next + 2;
  }
}

/** Null: a request that the router makes by itself. */
function markOf(method: string, path: string, body: string): number | null {
  const byPath = /^\/base\/m\/(\d{1,12})/.exec(path)?.[1];
  if (byPath !== undefined) return Number(byPath);
  if (method === "OPTIONS" || method === "GET" || method === "DELETE" || method === "HEAD") return null;
  const byBody = /"mark":(\d{1,12})/.exec(body)?.[1];
  return byBody === undefined ? null : Number(byBody);
}

function answer(socket: Socket, received: Received): void {
  const odd = received.headers.get("mcp-odd");
  let message: { id?: unknown; method?: unknown } | null = null;
  try {
    const parsed: unknown = JSON.parse(received.body);
    message = typeof parsed === "object" && parsed !== null && !Array.isArray(parsed) ? parsed : null;
  } catch {
    // The body of a plain HTTP request is no JSON.
    message = null;
  }
  if (odd !== undefined && received.mark !== null) {
    answerOddly(socket, odd, received.mark, message?.id ?? null, received.method);
  } else if (message?.method === "initialize") {
    const result = { protocolVersion: "2025-11-25", capabilities: { tools: {} }, serverInfo: { name: "fuzz", version: "1" } };
    say(socket, 200, { jsonrpc: "2.0", id: message.id ?? null, result }, ["mcp-session-id: s-1"]);
  } else if (received.method === "GET" && received.headers.get("accept") === "text/event-stream") {
    say(socket, 405, {});
  } else if (message !== null && message.id === undefined) {
    say(socket, 202, null);
  } else if (message !== null && typeof message.method === "string") {
    const result = { content: [{ type: "text", text: `mark:${received.mark}` }] };
    say(socket, 200, { jsonrpc: "2.0", id: message.id ?? null, result });
  } else if (received.method === "HEAD") {
    socket.write("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n");
  } else {
    say(socket, 200, { answer: `mark:${received.mark}` });
  }
}

function say(socket: Socket, status: number, value: object | null, headers: readonly string[] = []): void {
  const body = value === null ? "" : JSON.stringify(value);
  const head = [
    `HTTP/1.1 ${status} Said`,
    "content-type: application/json",
    `content-length: ${Buffer.byteLength(body)}`,
    ...headers,
    "",
    "",
  ];
  socket.write(head.join("\r\n") + body);
}
