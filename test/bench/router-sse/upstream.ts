// The server behind the streams: it reads just enough of a request to answer it, and says something on every open stream ten times a second
// while it is told to speak. It is cheap on purpose: what it costs is taken from the core of the clients.
import { createServer, type Socket } from "node:net";
import { nowMs } from "./clock.ts";

/** It begins to count and to speak, from the first event of each stream. */
export interface Speak {
  readonly kind: "speak";
}
/** What is said from here on is measured. */
export interface Mark {
  readonly kind: "mark";
}
export interface Stop {
  readonly kind: "stop";
}
export interface Speaking {
  readonly kind: "speaking";
  readonly streams: number;
}
export interface Stopped {
  readonly kind: "stopped";
  /** The number of the last event of each stream that spoke, also of those that were closed. */
  readonly sent: Readonly<Record<string, number>>;
  readonly sentSinceMark: number;
  /** How long after its time the latest event since the mark was written: no proxy is to blame for that. */
  readonly behindMsMax: number;
}

const everyMs = 100;
/** Streams have their turns spread over the interval, as those of independent sessions have. */
const phases = 20;

const answerTo = (body: object, headers = ""): string => {
  const text = JSON.stringify(body);
  return `HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n${headers}content-length: ${Buffer.byteLength(text)}\r\n\r\n${text}`;
};
const initialized = (session: number): string =>
  answerTo(
    {
      jsonrpc: "2.0",
      id: 1,
      result: { protocolVersion: "2025-11-25", capabilities: { logging: {} }, serverInfo: { name: "streams", version: "1" } },
    },
    `mcp-session-id: stream-${session}\r\n`,
  );
const accepted = "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";
const begun = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

interface Stream {
  readonly name: number;
  readonly socket: Socket;
  sent: number;
}
const byPhase: Set<Stream>[] = Array.from({ length: phases }, () => new Set());
let sessions = 0;
let names = 0;

const server = createServer({ noDelay: true }, (socket) => {
  let waiting = "";
  socket.on("error", () => socket.destroy());
  socket.on("data", (chunk) => {
    waiting += chunk.toString("latin1");
    for (;;) {
      const headEnd = waiting.indexOf("\r\n\r\n");
      if (headEnd === -1) return;
      const head = waiting.slice(0, headEnd);
      const length = Number(/^content-length: *(\d+)/im.exec(head)?.[1] ?? 0);
      const chunked = /^transfer-encoding: *chunked/im.test(head);
      const end = chunked ? waiting.indexOf("0\r\n\r\n", headEnd + 4) + 5 : headEnd + 4 + length;
      if (end < headEnd + 4 || waiting.length < end) return;
      const body = waiting.slice(headEnd + 4, end);
      waiting = waiting.slice(end);
      if (head.startsWith("GET")) begin(socket);
      else if (body.includes('"initialize"')) socket.write(initialized(++sessions));
      else socket.write(accepted);
    }
  });
});

function begin(socket: Socket): void {
  socket.write(begun);
  const of = byPhase.reduce((least, one) => (one.size < least.size ? one : least));
  const stream: Stream = { name: ++names, socket, sent: 0 };
  of.add(stream);
  socket.once("close", () => of.delete(stream));
}

let ticking: NodeJS.Timeout | undefined;
let phase = 0;
let dueMs = 0;
let sent = new Map<number, number>();
let sentSinceMark = 0;
let behindMsMax = 0;

process.on("message", ({ kind }: Speak | Mark | Stop) => {
  if (kind === "speak") {
    sent = new Map();
    for (const streams of byPhase) for (const stream of streams) stream.sent = 0;
    dueMs = nowMs();
    ticking = setInterval(tick, everyMs / phases);
    const speaking: Speaking = { kind: "speaking", streams: byPhase.reduce((sum, { size }) => sum + size, 0) };
    process.send?.(speaking);
  } else if (kind === "mark") {
    sentSinceMark = 0;
    behindMsMax = 0;
  } else {
    clearInterval(ticking);
    const stopped: Stopped = { kind: "stopped", sent: Object.fromEntries(sent), sentSinceMark, behindMsMax };
    process.send?.(stopped);
  }
});

function tick(): void {
  // What is late is made up for: the rate is what it is said to be.
  for (const untilMs = nowMs(); dueMs <= untilMs; dueMs += everyMs / phases) {
    for (const stream of byPhase[phase] ?? []) say(stream);
    behindMsMax = Math.max(behindMsMax, nowMs() - dueMs);
    phase = (phase + 1) % phases;
  }
}

function say(stream: Stream): void {
  stream.sent += 1;
  sentSinceMark += 1;
  const { name, sent: n } = stream;
  sent.set(name, n);
  const data = `{"s":${name},"n":${n},"atMs":${nowMs()},"text":"42 units of SKU-12345 are in warehouse north"}`;
  const message = `{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","logger":"stock","data":${data}}}`;
  const event = `event: message\nid: ${n}\ndata: ${message}\n\n`;
  stream.socket.write(`${event.length.toString(16)}\r\n${event}\r\n`, "latin1");
}

server.listen(0, "127.0.0.1", () => process.send?.({ kind: "listening", port: (server.address() as { port: number }).port }));
process.once("disconnect", () => process.exit(0));
