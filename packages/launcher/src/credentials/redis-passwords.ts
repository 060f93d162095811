import { createHash, randomBytes } from "node:crypto";
import {
  hashesInRedisAcl,
  hashesInRedisClusterAcl,
  type RedisHashes,
  type RedisUser,
  redisAcl,
  redisClusterAcl,
  redisClusterUsers,
  redisCredentialFiles,
  redisSentinelAcl,
  redisUsers,
} from "@mcp-failover/contracts";

/** What there is in the folder of redis-server. */
export const redisServerFiles = { acl: "users.acl", cert: "tls.crt", key: "tls.key", ca: "ca.pem" } as const;
/** With a replica and Sentinels, which have users of their own. */
const clusterAcl = "redis/cluster.acl";
const sentinelAcl = "redis-sentinel/sentinel.acl";
const passwordBytes = 32;

/** Makes what is missing of the users' passwords, and the ACL files, which hold their hashes alone. Names of files are those in the folder of credentials. */
export function makeRedisPasswords(options: {
  readonly change: "rotate" | "retire" | undefined;
  readonly onlookers: boolean;
  read(name: string): string | null;
  put(name: string, text: string): void;
}): void {
  const { change, onlookers, read, put } = options;
  const aclFile = `redis/${redisServerFiles.acl}`;
  const before = hashesInRedisAcl(read(aclFile) ?? "");
  const hashes = {} as Record<RedisUser, readonly string[]>;
  const renew = (user: string, valid: readonly string[]): readonly string[] => {
    const file = `${user}/${redisCredentialFiles.password}`;
    const current = read(file)?.trim() || null;
    const password = current === null || change === "rotate" ? randomBytes(passwordBytes).toString("base64url") : current;
    put(`${user}/${redisCredentialFiles.user}`, `${user}\n`);
    put(file, `${password}\n`);
    const known = change === "retire" ? [] : [...(current === null ? [] : [hashOf(current)]), ...valid];
    // Never more than the new one and the one before it.
    return [...new Set([hashOf(password), ...known])].slice(0, 2);
  };
  for (const user of redisUsers) hashes[user] = renew(user, before[user] ?? []);
  put(aclFile, redisAcl(hashes satisfies RedisHashes, { onlookers }));

  const clusterBefore = read(clusterAcl) ?? "";
  const ofCluster = Object.fromEntries(redisClusterUsers.map((user) => [user, renew(user, hashesInRedisClusterAcl(clusterBefore, user))]));
  const known = ofCluster as Record<(typeof redisClusterUsers)[number], readonly string[]>;
  put(clusterAcl, redisClusterAcl(hashes, known));
  put(sentinelAcl, redisSentinelAcl(hashes, known));
}

function hashOf(password: string): string {
  return createHash("sha256").update(password).digest("hex");
}
