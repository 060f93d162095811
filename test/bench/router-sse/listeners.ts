// Clients with a session and an open stream each, which look whether every event comes, once, and when.
import { Agent, type IncomingMessage, request } from "node:http";
import { connect, type Socket } from "node:net";
import { nowMs } from "./clock.ts";
import type { Stopped } from "./upstream.ts";

export interface Open {
  readonly kind: "open";
  readonly port: number;
  readonly path: string;
  readonly streams: number;
}
/** What is sent from here on is measured. */
export interface Measure {
  readonly kind: "measure";
}
/** The server is silent: what it has sent has to come. */
export interface Settle {
  readonly kind: "settle";
  readonly sent: Stopped["sent"];
  readonly lateMs: number;
}
export interface Measured {
  readonly kind: "measured";
  /** Sent since the measurement began, and heard. */
  readonly events: number;
  /** Of all that was sent since the first event, also of streams that nobody heard. */
  readonly lost: number;
  readonly twice: number;
  /** Streams that ended. */
  readonly ended: number;
  readonly late: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly worstMs: number;
}

const atOnce = 100;
/** So long after the last event that came, nothing is waited for any more. */
const silentMs = 5000;
const agent = new Agent({ keepAlive: true, maxSockets: atOnce });
const version = "2025-11-25";

const open: Socket[] = [];
/** Number of the last event of each of the server's streams. */
const last = new Map<number, number>();
let lost = 0;
let twice = 0;
let ended = 0;
let measuredFromMs = Number.POSITIVE_INFINITY;
let delaysMs: number[] = [];
let lastHeardMs = 0;

process.on("message", (message: Open | Measure | Settle) => {
  if (message.kind === "open") {
    openAll(message).then(
      () => process.send?.({ kind: "opened" }),
      (error: unknown) => {
        process.stderr.write(`${String(error)}\n`);
        process.exit(1);
      },
    );
  } else if (message.kind === "measure") {
    delaysMs = [];
    measuredFromMs = nowMs();
  } else settle(message);
});
process.once("disconnect", () => process.exit(0));
process.send?.({ kind: "ready" });

async function openAll({ port, path, streams }: Open): Promise<void> {
  let left = streams;
  const lane = async (): Promise<void> => {
    for (; left > 0; ) {
      left -= 1;
      await openOne(port, path);
    }
  };
  await Promise.all(Array.from({ length: atOnce }, lane));
  agent.destroy();
}

async function openOne(port: number, path: string): Promise<void> {
  const clientInfo = { name: "listener", version: "1" };
  const params = { protocolVersion: version, capabilities: {}, clientInfo };
  const first = await post(port, path, { jsonrpc: "2.0", id: 1, method: "initialize", params }, {});
  const session = String(first["mcp-session-id"]);
  const own = { "mcp-session-id": session, "mcp-protocol-version": version };
  await post(port, path, { jsonrpc: "2.0", method: "notifications/initialized" }, own);
  await listen(port, path, own);
}

function post(port: number, path: string, message: object, own: Record<string, string>): Promise<IncomingMessage["headers"]> {
  const headers = { "content-type": "application/json", accept: "application/json, text/event-stream", ...own };
  return new Promise((resolve, reject) => {
    const asking = request({ port, path, method: "POST", agent, headers }, (answer) => {
      answer.resume().once("end", () => {
        if ((answer.statusCode ?? 500) < 300) resolve(answer.headers);
        else reject(new Error(`a session was answered with ${answer.statusCode}`));
      });
    });
    asking.on("error", reject);
    asking.end(JSON.stringify(message));
  });
}

/** All sockets are read into it: what is read is looked at before the next read. */
const shared = Buffer.allocUnsafeSlow(64 * 1024);

/** A client by hand: one of node:http costs more for each event than what is measured. */
function listen(port: number, path: string, own: Record<string, string>): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const read = chunkReader(eventReader());
  let head: string | null = "";
  const socket = connect({
    port,
    host: "127.0.0.1",
    noDelay: true,
    onread: {
      buffer: shared,
      callback: (length) => {
        const text = shared.toString("latin1", 0, length);
        if (head === null) {
          read(text);
          return true;
        }
        head += text;
        const end = head.indexOf("\r\n\r\n");
        if (end === -1) return true;
        if (!head.startsWith("HTTP/1.1 200 ") || !/^transfer-encoding: chunked\r?$/im.test(head)) {
          reject(new Error(`a stream was answered with ${head.slice(0, end)}`));
          socket.destroy();
          return false;
        }
        const rest = head.slice(end + 4);
        head = null;
        if (rest !== "") read(rest);
        resolve();
        return true;
      },
    },
  });
  socket.on("error", reject);
  socket.once("close", () => {
    ended += 1;
    reject(new Error("a stream ended before it began"));
  });
  const headers = Object.entries({ host: `127.0.0.1:${port}`, accept: "text/event-stream", ...own });
  socket.write(`GET ${path} HTTP/1.1\r\n${headers.map(([name, value]) => `${name}: ${value}\r\n`).join("")}\r\n`);
  open.push(socket);
  return promise;
}

/** Takes the body of an answer out of its chunks. */
function chunkReader(take: (text: string) => void): (text: string) => void {
  let waiting = "";
  let left = 0;
  return (text) => {
    let rest = waiting + text;
    waiting = "";
    while (rest !== "") {
      if (left === 0) {
        // The end of the last chunk is before the line of this one.
        const begin = rest.startsWith("\r\n") ? 2 : 0;
        const lineEnd = rest.indexOf("\r\n", begin);
        if (lineEnd === -1 || rest === "\r\n") {
          waiting = rest;
          return;
        }
        left = Number.parseInt(rest.slice(begin, lineEnd), 16);
        if (!(left > 0)) return;
        rest = rest.slice(lineEnd + 2);
      }
      take(rest.slice(0, left));
      const taken = Math.min(left, rest.length);
      left -= taken;
      rest = rest.slice(taken);
    }
  };
}

function eventReader(): (text: string) => void {
  let waiting = "";
  return (text) => {
    const atMs = nowMs();
    let all = waiting + text;
    for (let end = all.indexOf("\n\n"); end !== -1; end = all.indexOf("\n\n")) {
      const event = all.slice(0, end);
      all = all.slice(end + 2);
      const data = event.indexOf("data: {");
      if (data !== -1) heard(event.slice(data + 6), atMs);
    }
    waiting = all;
  };
}

function heard(data: string, atMs: number): void {
  const said = (JSON.parse(data) as { params: { data: { s: number; n: number; atMs: number } } }).params.data;
  const before = last.get(said.s) ?? 0;
  if (said.n <= before) {
    twice += 1;
    return;
  }
  lost += said.n - before - 1;
  last.set(said.s, said.n);
  lastHeardMs = atMs;
  if (said.atMs >= measuredFromMs) delaysMs.push(atMs - said.atMs);
}

function settle({ sent, lateMs }: Settle): void {
  const missing = (): number => Object.entries(sent).reduce((sum, [name, n]) => sum + n - (last.get(Number(name)) ?? 0), 0);
  lastHeardMs = nowMs();
  const look = setInterval(() => {
    const left = missing();
    if (left > 0 && nowMs() - lastHeardMs < silentMs) return;
    clearInterval(look);
    const sorted = Float64Array.from(delaysMs).sort();
    const at = (share: number): number => sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? Number.NaN;
    const measured: Measured = {
      kind: "measured",
      events: sorted.length,
      lost: lost + left,
      twice,
      ended,
      late: sorted.length - sorted.findLastIndex((delay) => delay <= lateMs) - 1,
      p50Ms: at(0.5),
      p99Ms: at(0.99),
      worstMs: at(1),
    };
    process.send?.(measured);
  }, 100);
}
