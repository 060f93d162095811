import { spawnSync } from "node:child_process";
import { join } from "node:path";
import type { RedisUser } from "@mcp-failover/contracts";
import { askRedis } from "./credentials/ask-redis.ts";
import { makeCredentials } from "./credentials/make-credentials.ts";
import { redisServerFiles } from "./credentials/redis-passwords.ts";
import { wantsPermissions } from "./nats-config.ts";
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
    /** Null: it has no users, and whoever reaches it may do anything. */
    readonly guard: { readonly overTls: boolean } | null;
  } | null;
}

const writer: RedisUser = "state-store";
const asker: RedisUser = "redis-health";
const askMs = 10_000;

/**
 * Plans our own redis-server (`program`), with users and TLS where the bus has permissions, or says where the one of `REDIS_URL` is, for which
 * `REDIS_CREDENTIALS_DIR` is as given. Throws `UsageError`.
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
  const stored = ["--daemonize", "no", "--dir", join(dataDir, "redis"), "--appendonly", "yes", "--save", ""];
  if (!wantsPermissions(env)) {
    const url = `redis://127.0.0.1:${port}`;
    // While it loads its file, redis-server accepts connections but answers "-LOADING".
    const isUp = (): Promise<boolean> => answersOn(port, { text: "PING\r\n", expect: "+PONG" });
    const command = [program, "--bind", "127.0.0.1", "--port", String(port), ...stored] as const;
    return { url, env: { REDIS_URL: url }, server: { command, isUp, guard: null } };
  }
  const credentials = credentialsIn(dataDir);
  const file = (name: keyof typeof redisServerFiles): string => join(credentials, "redis", redisServerFiles[name]);
  const overTls = knowsTls(program);
  const url = `${overTls ? "rediss" : "redis"}://127.0.0.1:${port}`;
  const entrance = overTls
    ? [
        ...["--port", "0", "--tls-port", String(port), "--tls-auth-clients", "yes"],
        ...["--tls-cert-file", file("cert"), "--tls-key-file", file("key"), "--tls-ca-cert-file", file("ca")],
      ]
    : ["--port", String(port)];
  return {
    url,
    env: { REDIS_URL: url, REDIS_CREDENTIALS_DIR: join(credentials, writer) },
    server: {
      guard: { overTls },
      command: [program, "--bind", "127.0.0.1", ...entrance, "--aclfile", file("acl"), ...stored],
      isUp: () =>
        askRedis({ url, folder: join(credentials, asker), command: "PING" }).then(
          (said) => said === "+PONG",
          () => false,
        ),
    },
  };
}

/** Makes what our own redis-server and its users prove themselves with. */
export function prepareRedis(plan: RedisPlan, dataDir: string, say: (text: string) => void): void {
  const guard = plan.server?.guard;
  if (guard == null) return;
  makeCredentials({ folder: credentialsIn(dataDir), nowMs: Date.now() });
  if (!guard.overTls)
    say(
      `${plan.server?.command[0]} is built without TLS: Redis is spoken to in plain text, on loopback; its users and their passwords hold`,
    );
}

function credentialsIn(dataDir: string): string {
  return join(dataDir, "credentials");
}

/** Some builds have no TLS, and do not know its settings. The last setting is one that none knows, so that nothing is ever started. */
function knowsTls(program: string): boolean {
  const { stdout, stderr } = spawnSync(program, ["--port", "0", "--tls-port", "0", "--mcpf-unknown", "0"], {
    encoding: "utf8",
    timeout: askMs,
  });
  return `${stdout}${stderr}`.includes("mcpf-unknown");
}
