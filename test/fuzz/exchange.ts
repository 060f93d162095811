import { connect } from "node:net";
import type { FuzzRequest } from "./request.ts";

interface Answer {
  readonly status: number;
  readonly headers: ReadonlyMap<string, string>;
  readonly body: string;
}
export interface Exchanged {
  readonly answers: readonly Answer[];
  /** What came and is no whole answer. */
  readonly rest: string;
  /** The router closed the connection, or the client did because it had what it wanted or waited long enough. */
  readonly closedBy: "router" | "client" | "reset";
  readonly malformed: string | null;
}

/** What a router has to be silent for, until a client that sent only a part of a request leaves. */
const patienceMs = 60;
const answerMsMax = 8000;

/** Does one request on a connection of its own, and reads what comes as strictly as the standard allows. */
export function exchange(port: number, request: FuzzRequest): Promise<Exchanged> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: "127.0.0.1", noDelay: true });
    const chunks: Buffer[] = [];
    let settled = false;
    let quiet: NodeJS.Timeout | undefined;
    const late = setTimeout(() => finish("client"), answerMsMax);
    const finish = (closedBy: Exchanged["closedBy"]): void => {
      if (settled) return;
      settled = true;
      clearTimeout(late);
      clearTimeout(quiet);
      socket.destroy();
      const read = readAnswers(Buffer.concat(chunks).toString("latin1"), isHead(request), closedBy !== "client");
      resolve({ ...read, closedBy });
    };
    const wait = (): void => {
      clearTimeout(quiet);
      if (request.expect.leaves) quiet = setTimeout(() => finish("client"), 2);
      else if (request.expect.mayWait) quiet = setTimeout(() => finish("client"), patienceMs);
    };
    socket.on("data", (chunk) => {
      chunks.push(chunk);
      if (quiet !== undefined) wait();
    });
    socket.on("close", () => finish("router"));
    socket.on("error", () => finish("reset"));
    socket.on("connect", () => {
      send(socket, request, () => settled).then(
        () => settled || wait(),
        () => undefined,
      );
    });
  });
}

async function send(socket: import("node:net").Socket, request: FuzzRequest, over: () => boolean): Promise<void> {
  for (const { bytes, pauseMs } of request.parts) {
    if (over() || socket.destroyed) return;
    socket.write(bytes);
    if (pauseMs > 0) await new Promise((resolve) => setTimeout(resolve, pauseMs));
  }
}

function isHead(request: FuzzRequest): boolean {
  return request.parts[0]?.bytes.subarray(0, 5).toString("latin1") === "HEAD ";
}

function readAnswers(text: string, head: boolean, closed: boolean): Omit<Exchanged, "closedBy"> {
  const answers: Answer[] = [];
  let rest = text;
  while (rest !== "") {
    const end = rest.indexOf("\r\n\r\n");
    if (end === -1) return { answers, rest, malformed: rest.startsWith("HTTP/1.1 ".slice(0, rest.length)) ? null : "no HTTP" };
    const [line = "", ...fields] = rest.slice(0, end).split("\r\n");
    const status = Number(/^HTTP\/1\.1 (\d{3})(?: |$)/.exec(line)?.[1] ?? Number.NaN);
    if (Number.isNaN(status)) return { answers, rest, malformed: `a status line that is none: ${line.slice(0, 100)}` };
    const headers = new Map<string, string>();
    for (const field of fields) {
      const named = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?(.*)$/.exec(field);
      if (named === null) return { answers, rest, malformed: `a header that is none: ${field.slice(0, 100)}` };
      const key = (named[1] as string).toLowerCase();
      if (headers.has(key) && ["content-length", "transfer-encoding", "content-type"].includes(key))
        return { answers, rest, malformed: `two headers ${key}` };
      headers.set(key, named[2] as string);
    }
    rest = rest.slice(end + 4);
    if (status >= 100 && status < 200 && status !== 101) continue;
    const length = headers.get("content-length");
    if (length !== undefined && headers.has("transfer-encoding")) return { answers, rest, malformed: "a length and chunks" };
    let body = "";
    if (head || status === 204 || status === 304) body = "";
    else if (length !== undefined) {
      body = rest.slice(0, Number(length));
      // An answer that broke off upstream breaks off here too; it is no whole answer.
      if (body.length < Number(length)) return { answers, rest, malformed: null };
      rest = rest.slice(Number(length));
    } else if (headers.get("transfer-encoding") === "chunked") {
      for (;;) {
        const at = rest.indexOf("\r\n");
        if (at === -1) return { answers, rest, malformed: null };
        const size = Number.parseInt(rest.slice(0, at), 16);
        if (!/^[0-9a-f]+$/i.test(rest.slice(0, at))) return { answers, rest, malformed: "a chunk that is none" };
        const next = at + 2 + size + 2;
        if (rest.length < next)
          return { answers: closed || body === "" ? answers : [...answers, { status, headers, body }], rest, malformed: null };
        body += rest.slice(at + 2, at + 2 + size);
        rest = rest.slice(next);
        if (size === 0) break;
      }
    } else {
      body = rest;
      rest = "";
    }
    answers.push({ status, headers, body });
  }
  return { answers, rest, malformed: null };
}
