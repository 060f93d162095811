import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import type { TestContext } from "node:test";
import { eventually } from "@mcp-failover/testkit";
import { startProxy, type TcpProxy } from "../src/proxy.ts";

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

interface Upstream {
  readonly server: Server;
  readonly sockets: Set<Socket>;
  /** As a killed process: every connection reset, the port refused. */
  kill(): Promise<void>;
}
export async function listen(t: TestContext, port: number, onSocket: (socket: Socket) => void | Promise<void>): Promise<Upstream> {
  const sockets = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    socket.on("error", () => undefined);
    socket.on("close", () => sockets.delete(socket));
    onSocket(socket);
  }).listen(port, "127.0.0.1");
  await once(server, "listening");
  const kill = async (): Promise<void> => {
    for (const socket of sockets) socket.resetAndDestroy();
    if (server.listening) await new Promise<void>((resolve) => server.close(() => resolve()));
  };
  t.after(kill);
  return { server, sockets, kill };
}
export async function proxied(t: TestContext, targetPort: number): Promise<TcpProxy> {
  const proxy = startProxy({ name: "p", listenPort: await freePort(), targetPort });
  t.after(() => proxy.close());
  return proxy;
}
export async function until(condition: () => boolean, withinMs = 3000): Promise<void> {
  await eventually(condition, { withinMs, everyMs: 5 });
}
export function dial(t: TestContext, proxy: TcpProxy): Socket {
  const socket = connect({ host: "127.0.0.1", port: proxy.listenPort, allowHalfOpen: true });
  t.after(() => socket.destroy());
  return socket;
}
export const echo = (socket: Socket): void => {
  socket.pipe(socket);
};
/** Sends one byte and says how long its echo takes. */
export async function echoMs(socket: Socket): Promise<number> {
  const startMs = performance.now();
  const answer = once(socket, "data");
  socket.write("x");
  await answer;
  return performance.now() - startMs;
}
/** The code of the error that ends a connection attempt or connection; "none" for an orderly end. */
export async function endOf(socket: Socket): Promise<string> {
  let code = "none";
  socket.on("error", (error: NodeJS.ErrnoException) => {
    code = error.code ?? "unknown";
  });
  socket.resume();
  if (!socket.destroyed) await new Promise((resolve) => socket.once("close", resolve));
  return code;
}
