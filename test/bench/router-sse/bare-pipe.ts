// The least that a proxy of streams on node:http can be: nothing is looked at, nothing is kept.
import { Agent, createServer, request } from "node:http";

const agent = new Agent({ keepAlive: true, maxSockets: Number.POSITIVE_INFINITY });
const hopByHop = new Set(["connection", "keep-alive", "transfer-encoding", "host"]);
const passed = (headers: object): Record<string, string> =>
  Object.fromEntries(Object.entries(headers).filter(([name]) => !hopByHop.has(name))) as Record<string, string>;

const server = createServer((asked, response) => {
  const { method = "GET", url = "/" } = asked;
  const upstream = request(
    { host: "127.0.0.1", port: Number(process.argv[2]), method, path: url, agent, headers: passed(asked.headers) },
    (answer) => {
      response.writeHead(answer.statusCode ?? 502, passed(answer.headers));
      response.flushHeaders();
      answer.pipe(response);
    },
  );
  upstream.on("error", () => response.destroy());
  response.on("close", () => upstream.destroy());
  asked.pipe(upstream);
});
// A client of the benchmark may come back after a pause of the machine.
server.keepAliveTimeout = 0;
server.listen(Number(process.argv[3]), "127.0.0.1");
