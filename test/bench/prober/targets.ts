// A process with many origins on loopback: `node targets.ts PORT ORIGINS`. It answers as cheaply as Node can, because its CPU is not what is
// measured; paths under /new close their connection, so that the next probe has to make one.
import { createServer } from "node:net";

const [port, origins] = process.argv.slice(2).map(Number) as [number, number];
const body = '{"status":"ok"}';
const answer = (close: boolean): Buffer =>
  Buffer.from(
    `HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n${close ? "connection: close\r\n" : ""}\r\n${body}`,
  );
const kept = answer(false);
const closing = answer(true);

let left = origins;
for (let origin = 0; origin < origins; origin += 1) {
  createServer((socket) => {
    socket.setNoDelay(true);
    socket.on("error", () => socket.destroy());
    // A probe is one small GET, so a packet with the end of a head is a request.
    socket.on("data", (chunk: Buffer) => {
      if (chunk.indexOf("\r\n\r\n") < 0) return;
      if (chunk.includes("/new/", 0, "latin1")) socket.end(closing);
      else socket.write(kept);
    });
  }).listen({ port, host: addressOf(origin), backlog: 4096 }, () => {
    left -= 1;
    if (left === 0) process.stdout.write("ready\n");
  });
}
process.stdin.on("end", () => process.exit(0)).resume();

function addressOf(origin: number): string {
  return `127.1.${Math.floor(origin / 250)}.${(origin % 250) + 1}`;
}
