import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { makeCredentials, serverFiles } from "./make-credentials.ts";
import { redisServerFiles } from "./redis-passwords.ts";
import { redisReloader } from "./redis-reloader.ts";

const usage = `usage: npm run dev:credentials -- [--folder DIR] [--rotate | --retire] [--redis URL] [--owner UID[:GID]]
                                  [--redis-owner UID[:GID]] [--host NAME]...

  --folder DIR   where they lie (default .mcpf/credentials)
  --rotate       a new key, password and certificate for everybody; those before stay valid
  --retire       the keys and passwords before are valid no longer; services that still use them are cut off
  --redis URL    afterwards has the redis-server there (rediss://HOST:PORT) read its users again
  --owner        who shall own the files, for containers that run as another user (needs root); they stay theirs
  --redis-owner  the same for the folders redis and redis-*, where redis-server runs as yet another user; they stay its (at first: --owner)
  --host NAME    one more name or address of the servers, for their certificates; it stays in there

After --rotate or --retire let nats-server read its configuration again: nats-server --signal reload=PID, or SIGHUP; and redis-server its
users: --redis URL. After --rotate at once: until then nobody can connect anew.
`;
/** What a reload is for, last of all that is said. */
const reload = {
  rotate: "now, at once: nats-server --signal reload=PID; until then whoever connects anew or starts is refused, who is connected stays\n",
  retire: "now: nats-server --signal reload=PID; until then the keys before are still valid\n",
  redis: "and redis-server: npm run dev:credentials -- --redis rediss://HOST:PORT, at once after --rotate\n",
  server: "there is something new for nats-server: nats-server --signal reload=PID\n",
} as const;

process.exitCode = await main();

async function main(): Promise<number> {
  try {
    const { values } = parseArgs({
      options: {
        folder: { type: "string" },
        rotate: { type: "boolean" },
        retire: { type: "boolean" },
        redis: { type: "string" },
        owner: { type: "string" },
        "redis-owner": { type: "string" },
        host: { type: "string", multiple: true },
        help: { type: "boolean", short: "h" },
      },
    });
    if (values.help) {
      process.stdout.write(usage);
      return 0;
    }
    if (values.rotate && values.retire) throw new TypeError("--rotate and --retire are two steps: first the one, later the other");
    const owner = parseOwner("owner", values.owner);
    const redisOwner = parseOwner("redis-owner", values["redis-owner"]);
    if (values.redis !== undefined && !/^rediss?:\/\/[^@]+$/.test(values.redis))
      throw new TypeError("--redis: give rediss://HOST:PORT, or redis://HOST:PORT without TLS, and no password");
    const folder = resolve(process.env["INIT_CWD"] ?? process.cwd(), values.folder ?? ".mcpf/credentials");
    const change = values.rotate ? "rotate" : values.retire ? "retire" : null;
    const first = !existsSync(join(folder, "nats", serverFiles.accounts));
    const reloadRedis = values.redis === undefined ? null : redisReloader(values.redis, folder);
    const { made } = makeCredentials({
      folder,
      nowMs: Date.now(),
      hosts: values.host ?? [],
      ...(change === null ? {} : { change }),
      ...(owner === null ? {} : { owner }),
      ...(redisOwner === null ? {} : { redisOwner }),
    });
    process.stdout.write(made.length === 0 ? `${folder} has everything; nothing was changed\n` : `${folder}: made ${made.length} files\n`);
    if (change !== null) process.stdout.write(reload[change]);
    else if (!first && made.some((name) => name.startsWith("nats/"))) process.stdout.write(reload.server);
    if (reloadRedis !== null) {
      await reloadRedis();
      process.stdout.write("redis-server has read its users again\n");
    } else if (!first && made.includes(`redis/${redisServerFiles.acl}`)) process.stdout.write(reload.redis);
    return 0;
  } catch (error) {
    if (!(error instanceof TypeError) && (error as { code?: unknown }).code === undefined) throw error;
    process.stderr.write(`dev:credentials: ${(error as Error).message}\n`);
    return error instanceof TypeError ? 2 : 1;
  }
}

/** `UID` or `UID:GID`. Throws TypeError. */
function parseOwner(option: string, text: string | undefined): { uid: number; gid: number } | null {
  if (text === undefined) return null;
  const [uid = Number.NaN, gid = uid, ...more] = text.split(":").map(Number);
  if (more.length > 0 || [uid, gid].some((id) => !Number.isInteger(id) || id < 0))
    throw new TypeError(`--${option} ${text}: give a number, or two with ":" between`);
  return { uid, gid };
}
