import { connect } from "node:net";
import { lookUp } from "@mcp-failover/service-kit";

const defaultPorts: Readonly<Record<string, number>> = {
  "http:": 80,
  "ws:": 80,
  "redis:": 6379,
  "rediss:": 6379,
  "bolt:": 7687,
  "bolt+s:": 7687,
};
const elsePort = 443;

/** Whether something accepts a connection at the address of a URL within the time. Nothing is sent. */
export function reach(url: string, timeoutMs: number): Promise<boolean> {
  const { hostname, port, protocol } = new URL(url);
  const host = hostname.replace(/^\[|\]$/g, "");
  const number = port === "" ? (defaultPorts[protocol] ?? elsePort) : Number(port);
  return new Promise((resolve) => {
    const socket = connect({ host, port: number, lookup: lookUp });
    const end = (reached: boolean): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(reached);
    };
    const timer = setTimeout(() => end(false), timeoutMs);
    socket.once("connect", () => end(true));
    socket.once("error", () => end(false));
  });
}
