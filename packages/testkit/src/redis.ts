import { join } from "node:path";
import { firstWords, type RunningServer, runServer } from "./server.ts";
import { findProgram, freePort, tempDir } from "./system.ts";

export interface RedisOptions {
  readonly port?: number;
  /** Where it keeps its file; with it, data outlives a restart (append-only file). Default: nothing is kept. */
  readonly dir?: string;
}

/** Starts a redis-server on a free port of 127.0.0.1. */
export async function startRedis(options: RedisOptions = {}): Promise<RunningServer> {
  const port = options.port ?? (await freePort());
  const temp = await tempDir("mcpf-redis-");
  const kept = options.dir !== undefined;
  const args = ["--bind", "127.0.0.1", "--port", String(port), "--dir", options.dir ?? temp.path, "--save", "", "--daemonize", "no"];
  return runServer({
    program: findProgram("redis-server", "REDIS_SERVER_BIN"),
    args: [...args, "--appendonly", kept ? "yes" : "no", "--appendfsync", "always", "--pidfile", join(temp.path, "redis.pid")],
    url: `redis://127.0.0.1:${port}`,
    port,
    ready: async () => {
      const answer = await firstWords(port, "PING\r\n");
      if (!answer.startsWith("+PONG")) throw new Error("not loaded yet");
    },
    cleanup: temp.remove,
  });
}
