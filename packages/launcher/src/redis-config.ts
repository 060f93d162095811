import { join } from "node:path";
import type { RedisUser } from "@mcp-failover/contracts";
import { askRedis } from "./credentials/ask-redis.ts";
import { redisServerFiles } from "./credentials/redis-passwords.ts";
import { credentialsFolder } from "./nats-config.ts";
import { answersOn } from "./probe-up.ts";

/** How Redis is run and reached. */
export interface RedisPlan {
  readonly url: string;
  /** Of the state-store alone. */
  readonly env: Readonly<Record<string, string>>;
  /** Null: somebody else runs it, and who may do what there is theirs. */
  readonly server: {
    readonly command: readonly [string, ...string[]];
    readonly isUp: () => Promise<boolean>;
  } | null;
}

const writer: RedisUser = "state-store";
const asker: RedisUser = "redis-health";

/**
 * Plans our own redis-server (`program`), with users where the bus has permissions, or says where the one of `REDIS_URL` is, for which
 * `REDIS_CREDENTIALS_DIR` is as given. On loopback, so without TLS, as nats-server. Throws `UsageError`.
 */
export function planRedis(options: {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly dataDir: string;
  readonly port: number;
  readonly program: string | null;
}): RedisPlan {
  const { env, dataDir, port, program } = options;
  if (program === null) {
    const url = env["REDIS_URL"] ?? "";
    const folder = env["REDIS_CREDENTIALS_DIR"];
    return { url, env: { REDIS_URL: url, ...(folder ? { REDIS_CREDENTIALS_DIR: folder } : {}) }, server: null };
  }
  const url = `redis://127.0.0.1:${port}`;
  const command = [
    ...[program, "--bind", "127.0.0.1", "--port", String(port)],
    ...["--daemonize", "no", "--dir", join(dataDir, "redis"), "--appendonly", "yes", "--save", ""],
  ] as [string, ...string[]];
  const credentials = credentialsFolder(env, dataDir);
  if (credentials === null) {
    // While it loads its file, redis-server accepts connections but answers "-LOADING".
    const isUp = (): Promise<boolean> => answersOn(port, { text: "PING\r\n", expect: "+PONG" });
    return { url, env: { REDIS_URL: url }, server: { command, isUp } };
  }
  return {
    url,
    env: { REDIS_URL: url, REDIS_CREDENTIALS_DIR: join(credentials, writer) },
    server: {
      command: [...command, "--aclfile", join(credentials, "redis", redisServerFiles.acl)],
      isUp: () =>
        askRedis({ url, folder: join(credentials, asker), command: "PING" }).then(
          (said) => said === "+PONG",
          () => false,
        ),
    },
  };
}
