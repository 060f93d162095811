import { request as httpRequest } from "node:http";
import { request as httpsRequest } from "node:https";
import { connect } from "node:net";
import { lookUp } from "@mcp-failover/service-kit";

/**
 * Whether anybody listens at the URL's host and port: a TCP connect that is closed at once, with nothing sent. It proves absence (refused), never
 * health. Resolves, never rejects.
 */
export function reaches(url: string, timeoutMs: number): Promise<"listens" | "refused" | "silent"> {
  const { hostname, port, protocol } = new URL(url);
  const host = hostname.startsWith("[") ? hostname.slice(1, -1) : hostname;
  return new Promise((resolve) => {
    const socket = connect({ host, port: port === "" ? (protocol === "https:" ? 443 : 80) : Number(port), lookup: lookUp });
    const end = (answer: "listens" | "refused" | "silent"): void => {
      socket.destroy();
      resolve(answer);
    };
    socket.setTimeout(timeoutMs, () => end("silent"));
    socket.once("connect", () => end("listens"));
    socket.once("error", (error: NodeJS.ErrnoException) => end(error.code === "ECONNREFUSED" ? "refused" : "silent"));
  });
}

const lateMs = 100;

/** `unclear`: the exchange failed in a way that says nothing on hanging. */
export type Look = "answers" | "silent" | "unclear";

/**
 * Whether a server answers at all: an `OPTIONS` on a connection of its own, without credentials; any status is an answer. A process that is
 * stopped still has its connections accepted, by its kernel, but answers nothing. Resolves, never rejects.
 */
export function answers(url: string, timeoutMs: number): Promise<Look> {
  const { promise, resolve } = Promise.withResolvers<Look>();
  const request = url.startsWith("https:") ? httpsRequest : httpRequest;
  const asking = request(url, { method: "OPTIONS", agent: false, lookup: lookUp });
  const end = (look: Look): void => {
    clearTimeout(timer);
    resolve(look);
    asking.destroy();
  };
  const begunMs = performance.now();
  const timer = setTimeout(() => {
    // A late timer says that this process stood still itself, and the answer may wait in the socket.
    end(performance.now() - begunMs > timeoutMs + lateMs ? "unclear" : "silent");
  }, timeoutMs);
  timer.unref();
  asking.once("response", () => end("answers"));
  // After the end too: what is destroyed may still fail.
  asking.on("error", (error: NodeJS.ErrnoException) => end(error.code === "ECONNREFUSED" ? "silent" : "unclear"));
  asking.end();
  return promise;
}
