// The least that a proxy on node:http and undici can be: nothing is looked at, nothing is decided.
import { createServer } from "node:http";
import { Pool } from "undici";

const pool = new Pool(`http://127.0.0.1:${process.argv[2]}`, { connections: 64, pipelining: 1 });
const hopByHop = new Set(["connection", "keep-alive", "transfer-encoding", "host"]);

const server = createServer((request, response) => {
  const headers = Object.fromEntries(Object.entries(request.headers).filter(([name]) => !hopByHop.has(name))) as Record<string, string>;
  pool.dispatch(
    { path: request.url ?? "/", method: request.method as "POST", headers, body: request },
    {
      onRequestStart: () => undefined,
      onResponseStart: (_, status, answered) => {
        const passed = Object.fromEntries(Object.entries(answered).filter(([name]) => !hopByHop.has(name)));
        response.writeHead(status, passed);
      },
      onResponseData: (_, chunk) => void response.write(chunk),
      onResponseEnd: () => void response.end(),
      onResponseError: () => void response.destroy(),
    },
  );
});
server.listen(Number(process.argv[3]), "127.0.0.1");
