import { connect } from "node:net";

/** Whether something accepts a connection at the address of a URL within the time. Nothing is sent. */
export function reach(url: string, timeoutMs: number): Promise<boolean> {
  const { hostname, port, protocol } = new URL(url);
  const host = hostname.replace(/^\[|\]$/g, "");
  const number = port === "" ? (protocol === "http:" ? 80 : 443) : Number(port);
  return new Promise((resolve) => {
    const socket = connect({ host, port: number });
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
