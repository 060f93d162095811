import { readFileSync } from "node:fs";
import { isIP, type Socket, connect as tcpConnect } from "node:net";
import { join } from "node:path";
import { connect as tlsConnect } from "node:tls";
import { redisCredentialFiles } from "@mcp-failover/contracts";

const waitMs = 5000;
const answerCharsMax = 4096;

/** redis-server refused, or did not answer. The message never holds a password. */
export class RedisAskError extends Error {
  override readonly name = "RedisAskError";
  readonly code = "redis_refused";
  readonly retriable = true;
}

/**
 * Says who it is and one command, and gives the first line of the answer to that. `folder` is the user's of the credentials; the password is
 * the one in there unless another is given. Throws {@link RedisAskError}, and what reading files throws.
 */
export async function askRedis(options: {
  /** `redis://host:port`, or `rediss://` for TLS. */
  readonly url: string;
  readonly folder: string;
  readonly password?: string;
  readonly command: string;
}): Promise<string> {
  const { url, folder, command } = options;
  const read = (name: keyof typeof redisCredentialFiles): string => readFileSync(join(folder, redisCredentialFiles[name]), "utf8").trim();
  const { protocol, hostname, port } = new URL(url);
  const to = { host: hostname.replace(/^\[|\]$/g, ""), port: Number(port || 6379) };
  const hello = `AUTH ${read("user")} ${options.password ?? read("password")}\r\n${command}\r\n`;
  const tls = protocol === "rediss:" ? { ca: read("ca"), cert: read("cert"), key: read("key") } : null;
  return await new Promise((resolve, reject) => {
    const fail = (why: string): void => {
      socket.destroy();
      reject(new RedisAskError(why));
    };
    const socket: Socket =
      tls === null ? tcpConnect(to) : tlsConnect({ ...to, ...tls, ...(isIP(to.host) === 0 ? { servername: to.host } : {}) });
    socket.setTimeout(waitMs, () => fail(`no answer within ${waitMs} ms`));
    socket.once("error", (error) => fail(error.message));
    socket.once(tls === null ? "connect" : "secureConnect", () => socket.write(hello));
    let text = "";
    socket.setEncoding("utf8").on("data", (chunk: string) => {
      text = (text + chunk).slice(0, answerCharsMax);
      // The last part is a line that has not ended.
      const [hailed, answer] = text.split("\r\n").slice(0, -1);
      if (hailed !== undefined && hailed !== "+OK") fail(hailed.slice(1));
      else if (answer?.startsWith("-")) fail(answer.slice(1));
      else if (answer !== undefined) {
        socket.destroy();
        resolve(answer);
      }
    });
    socket.once("close", () => fail("the connection was closed"));
  });
}
