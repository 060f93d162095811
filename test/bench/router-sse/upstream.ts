// The server behind the streams: it reads just enough of a request to answer it, and says something on every open stream ten times a second.
import { createServer, type Socket } from "node:net";

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
const begun = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

interface Stream {
  readonly socket: Socket;
  next: number;
}
const byPhase: Set<Stream>[] = Array.from({ length: phases }, () => new Set());
let sessions = 0;

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
  const stream: Stream = { socket, next: 1 };
  of.add(stream);
  socket.once("close", () => of.delete(stream));
}

let phase = 0;
let dueMs = performance.now();
setInterval(() => {
  // What is late is made up for: the rate is what it is said to be.
  for (const nowMs = performance.now(); dueMs <= nowMs; dueMs += everyMs / phases) {
    for (const stream of byPhase[phase] ?? []) say(stream);
    phase = (phase + 1) % phases;
  }
}, everyMs / phases);

function say(stream: Stream): void {
  const atMs = performance.timeOrigin + performance.now();
  const params = { level: "info", logger: "stock", data: { n: stream.next, atMs, text: "42 units of SKU-12345 are in warehouse north" } };
  const data = JSON.stringify({ jsonrpc: "2.0", method: "notifications/message", params });
  stream.socket.write(`event: message\nid: ${stream.next}\ndata: ${data}\n\n`);
  stream.next += 1;
}

server.listen(0, "127.0.0.1", () => process.send?.({ kind: "listening", port: (server.address() as { port: number }).port }));
process.once("disconnect", () => process.exit(0));
