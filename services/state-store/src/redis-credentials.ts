import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { redisCredentialFiles } from "@mcp-failover/contracts";

/** Who we are for Redis, and by which authority we know it. */
interface RedisCredentials {
  readonly username?: string;
  readonly password?: string;
  /** What TLS needs, where the URL says `rediss://`. Without a CA those of the system hold. */
  readonly tls: { readonly ca?: string; readonly cert?: string; readonly key?: string };
}

/** The folder does not hold what is needed. Never with what a file holds. */
class RedisCredentialsError extends Error {
  override readonly name = "RedisCredentialsError";
  readonly code = "credentials_invalid";
  readonly retriable = false;
}

/**
 * Credentials from a folder like those that `npm run dev:credentials` makes. A Redis that asks for less needs fewer files: without a password
 * the URL's holds, without a certificate none is shown. Throws {@link RedisCredentialsError}.
 */
export function readRedisCredentials(folder: string): RedisCredentials {
  if (!statSync(folder, { throwIfNoEntry: false })?.isDirectory())
    throw new RedisCredentialsError(`REDIS_CREDENTIALS_DIR ${folder} is no folder: make the credentials with \`npm run dev:credentials\``);
  const read = (name: keyof typeof redisCredentialFiles): string | null => {
    const file = join(folder, redisCredentialFiles[name]);
    try {
      const text = readFileSync(file, "utf8").trim();
      if (text !== "") return text;
    } catch (cause) {
      const code = (cause as NodeJS.ErrnoException).code ?? "unreadable";
      if (code === "ENOENT") return null;
      throw new RedisCredentialsError(`${file} cannot be read (${code}): let the user that we run as read it`);
    }
    throw new RedisCredentialsError(`${file} is empty: make the credentials with \`npm run dev:credentials\``);
  };
  const some = <T extends string>(name: T, value: string | null): { readonly [key in T]?: string } =>
    (value === null ? {} : { [name]: value }) as { readonly [key in T]?: string };
  const username = read("user");
  const password = read("password");
  if (username !== null && password === null)
    throw new RedisCredentialsError(`${join(folder, redisCredentialFiles.password)} is missing: the user ${username} needs a password`);
  return {
    ...some("username", username),
    ...some("password", password),
    tls: { ...some("ca", read("ca")), ...some("cert", read("cert")), ...some("key", read("key")) },
  };
}
