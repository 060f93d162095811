// http-proxy (npm) as its documentation has it, with connections to the server kept open.
import { Agent, createServer } from "node:http";
// @ts-expect-error: the package has no types of its own
import httpProxy from "http-proxy";

const proxy = httpProxy.createProxyServer({
  target: `http://127.0.0.1:${process.argv[2]}`,
  agent: new Agent({ keepAlive: true, maxSockets: 64 }),
});
proxy.on("error", () => undefined);
createServer((request, response) => proxy.web(request, response)).listen(Number(process.argv[3]), "127.0.0.1");
