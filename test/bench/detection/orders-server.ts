// An HTTP API as the upstream of the detection benchmark. It notes every write that it runs in a file, so that one that ran twice is seen.
import { appendFileSync } from "node:fs";
import { createServer } from "node:http";

const port = Number(process.env["PORT"]);
const opsFile = process.env["OPS_FILE"] ?? "";
/** Each call takes about this long, as one to a database would. */
const workMs = 3;
/** `PUT /control/error-share/0.02` makes it fail that share of all answers, probes' too. */
const control = "/control/error-share/";
let errorShare = 0;
/** `GET /control/errors` tells how many those were. */
let errors = 0;

const server = createServer((request, response) => {
  request.resume().on("end", () => {
    const { method = "GET", url = "/" } = request;
    if (url.startsWith(control)) {
      errorShare = Number(url.slice(control.length));
      response.end();
      return;
    }
    if (url === "/control/errors") {
      response.end(String(errors));
      return;
    }
    setTimeout(() => {
      // Noted when it runs, before the answer: what runs and is not answered counts.
      if (method !== "GET") appendFileSync(opsFile, `${method} ${url}\n`);
      const status = Math.random() < errorShare ? 500 : 200;
      if (status !== 200) errors += 1;
      response.writeHead(status, { "content-type": "application/json" }).end(`{"url":${JSON.stringify(url)},"by":${port}}`);
    }, workMs);
  });
});
server.keepAliveTimeout = 60_000;
server.listen(port, "127.0.0.1");
process.once("SIGTERM", () => process.exit(0));
if (process.env["MCPF_PARENT_PIPE"] === "1") process.stdin.on("end", () => process.exit(0)).resume();
