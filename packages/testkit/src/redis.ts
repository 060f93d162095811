import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { connect } from "node:tls";
import { firstWords, type RunningServer, runServer } from "./server.ts";
import { findProgram, freePort, tempDir } from "./system.ts";

export interface RedisOptions {
  readonly port?: number;
  /** Where it keeps its file; with it, data outlives a restart (append-only file). Default: nothing is kept. */
  readonly dir?: string;
  /** TLS alone, with client certificates, and users. Default: plain text, and anybody. */
  readonly guard?: RedisGuard;
}
/** Files of the server, and the user with whom it is asked whether it is up. */
interface RedisGuard {
  readonly aclFile: string;
  readonly certFile: string;
  readonly keyFile: string;
  /** Of whoever connects; the server's certificate is shown by the one who asks, too. */
  readonly caFile: string;
  readonly user: string;
  /** Read at every start: passwords are rotated. */
  readonly passwordFile: string;
}

/** Starts a redis-server on a free port of 127.0.0.1. */
export async function startRedis(options: RedisOptions = {}): Promise<RunningServer> {
  const { guard } = options;
  const port = options.port ?? (await freePort());
  const temp = await tempDir("mcpf-redis-");
  const kept = options.dir !== undefined;
  const args = ["--bind", "127.0.0.1", "--dir", options.dir ?? temp.path, "--save", "", "--daemonize", "no"];
  const entrance =
    guard === undefined
      ? ["--port", String(port)]
      : [
          ...["--port", "0", "--tls-port", String(port), "--tls-auth-clients", "yes", "--aclfile", guard.aclFile],
          ...["--tls-cert-file", guard.certFile, "--tls-key-file", guard.keyFile, "--tls-ca-cert-file", guard.caFile],
        ];
  return runServer({
    program: findProgram("redis-server", "REDIS_SERVER_BIN"),
    args: [...args, ...entrance, "--appendonly", kept ? "yes" : "no", "--appendfsync", "always", "--pidfile", join(temp.path, "redis.pid")],
    url: `${guard === undefined ? "redis" : "rediss"}://127.0.0.1:${port}`,
    port,
    ready: async () => {
      const answer = await (guard === undefined ? firstWords(port, "PING\r\n") : guardedWords(port, guard));
      if (!answer.startsWith("+PONG")) throw new Error("not loaded yet");
    },
    cleanup: temp.remove,
  });
}

/** What the server answers to PING, after the user has said who it is. */
async function guardedWords(port: number, guard: RedisGuard): Promise<string> {
  const files = [guard.certFile, guard.keyFile, guard.caFile, guard.passwordFile];
  const [cert, key, ca, password] = await Promise.all(files.map((file) => readFile(file, "utf8")));
  return new Promise<string>((resolve, reject) => {
    const socket = connect({ host: "127.0.0.1", port, cert, key, ca });
    let text = "";
    socket.setTimeout(5000, () => socket.destroy(new Error("no answer within 5 s")));
    socket.once("error", reject);
    socket.once("secureConnect", () => socket.write(`AUTH ${guard.user} ${password?.trim()}\r\nPING\r\n`));
    socket.on("data", (chunk: Buffer) => {
      text += chunk.toString();
      const [hailed, answer] = text.split("\r\n").slice(0, -1);
      if (answer === undefined) return;
      resolve(hailed === "+OK" ? answer : (hailed ?? ""));
      socket.destroy();
    });
    socket.once("close", () => reject(new Error("closed without a word")));
  });
}
