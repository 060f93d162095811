import { createHash, randomBytes } from "node:crypto";
import { hashesInRedisAcl, type RedisHashes, type RedisUser, redisAcl, redisCredentialFiles, redisUsers } from "@mcp-failover/contracts";

/** What there is in the folder of redis-server. */
export const redisServerFiles = { acl: "users.acl", cert: "tls.crt", key: "tls.key", ca: "ca.pem" } as const;
const passwordBytes = 32;

/** Makes what is missing of the users' passwords, and the ACL file, which holds their hashes alone. Names of files are those in the folder of credentials. */
export function makeRedisPasswords(options: {
  readonly change: "rotate" | "retire" | undefined;
  read(name: string): string | null;
  put(name: string, text: string): void;
}): void {
  const { change, read, put } = options;
  const aclFile = `redis/${redisServerFiles.acl}`;
  const before = hashesInRedisAcl(read(aclFile) ?? "");
  const hashes = {} as Record<RedisUser, readonly string[]>;
  for (const user of redisUsers) {
    const file = `${user}/${redisCredentialFiles.password}`;
    const current = read(file)?.trim() || null;
    const password = current === null || change === "rotate" ? randomBytes(passwordBytes).toString("base64url") : current;
    put(`${user}/${redisCredentialFiles.user}`, `${user}\n`);
    put(file, `${password}\n`);
    const known = change === "retire" ? [] : [...(current === null ? [] : [hashOf(current)]), ...(before[user] ?? [])];
    // Never more than the new one and the one before it.
    hashes[user] = [...new Set([hashOf(password), ...known])].slice(0, 2);
  }
  put(aclFile, redisAcl(hashes satisfies RedisHashes));
}

function hashOf(password: string): string {
  return createHash("sha256").update(password).digest("hex");
}
