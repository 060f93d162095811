import { connect } from "node:net";

/**
 * Whether anybody listens at the URL's host and port: a TCP connect that is closed at once, with nothing sent. It proves absence (refused), never
 * health. Resolves, never rejects.
 */
export function reaches(url: string, timeoutMs: number): Promise<"listens" | "refused" | "silent"> {
  const { hostname, port, protocol } = new URL(url);
  const host = hostname.startsWith("[") ? hostname.slice(1, -1) : hostname;
  return new Promise((resolve) => {
    const socket = connect({ host, port: port === "" ? (protocol === "https:" ? 443 : 80) : Number(port) });
    const end = (answer: "listens" | "refused" | "silent"): void => {
      socket.destroy();
      resolve(answer);
    };
    socket.setTimeout(timeoutMs, () => end("silent"));
    socket.once("connect", () => end("listens"));
    socket.once("error", (error: NodeJS.ErrnoException) => end(error.code === "ECONNREFUSED" ? "refused" : "silent"));
  });
}
