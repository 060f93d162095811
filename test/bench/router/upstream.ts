// The server behind every proxy of the benchmark: it reads just enough of a request to answer it, so that it is never what is measured.
import { createServer, type Socket } from "node:net";
import { calledBody, initializedBody } from "./answers.ts";

const sessionHeader = "mcp-session-id: bench-session\r\n";
const answerTo = (body: object, headers = ""): string => {
  const text = JSON.stringify(body);
  return `HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n${headers}content-length: ${Buffer.byteLength(text)}\r\n\r\n${text}`;
};
const initialized = answerTo(initializedBody, sessionHeader);
const called = Buffer.from(answerTo(calledBody));
const accepted = "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";
const noStream = "HTTP/1.1 405 Method Not Allowed\r\nallow: POST\r\ncontent-length: 0\r\n\r\n";

const server = createServer({ noDelay: true }, (socket) => serve(socket));
server.listen(0, "127.0.0.1", () => process.send?.({ kind: "listening", port: (server.address() as { port: number }).port }));
process.once("disconnect", () => process.exit(0));

function serve(socket: Socket): void {
  let waiting: Buffer = Buffer.alloc(0);
  let lastCallBytes = 0;
  socket.on("error", () => socket.destroy());
  socket.on("data", (chunk) => {
    // A client of the benchmark sends the same call again and again, one at a time: what is as long as the last whole call is one.
    if (waiting.length === 0 && chunk.length === lastCallBytes) {
      socket.write(called);
      return;
    }
    waiting = waiting.length === 0 ? chunk : Buffer.concat([waiting, chunk]);
    for (;;) {
      const headEnd = waiting.indexOf("\r\n\r\n");
      if (headEnd === -1) return;
      const head = waiting.toString("latin1", 0, headEnd);
      const end = endOf(waiting, headEnd + 4, head);
      if (end === null) return;
      const body = waiting.toString("latin1", headEnd + 4, end);
      const answer = answerFor(head, body);
      lastCallBytes = answer === called && !/transfer-encoding/i.test(head) ? end : 0;
      waiting = waiting.subarray(end);
      socket.write(answer);
    }
  });
}

/** Where the request ends; null while it is not whole. */
function endOf(bytes: Buffer, bodyAt: number, head: string): number | null {
  if (/^transfer-encoding: *chunked/im.test(head)) {
    const last = bytes.indexOf("0\r\n\r\n", bodyAt);
    return last === -1 ? null : last + 5;
  }
  const length = Number(/^content-length: *(\d+)/im.exec(head)?.[1] ?? 0);
  return bytes.length < bodyAt + length ? null : bodyAt + length;
}

function answerFor(head: string, body: string): Buffer | string {
  if (head.startsWith("GET")) return noStream;
  if (body.includes('"initialize"')) return initialized;
  if (body.includes('"notifications/')) return accepted;
  return called;
}
