import { type RedisHashes, redisAcl } from "./redis-access.ts";

/**
 * Who is let in besides where Redis has a replica and Sentinels (infra/compose/cluster.yml). They may change who is the master and take all
 * data, so a Redis without them does not know them: their ACL file is another one. The commands are those of the manual
 * (redis.io, "High availability with Redis Sentinel", "Redis Access Control List authentication").
 */
export const redisClusterUsers = ["redis-replica", "redis-sentinel"] as const;
type RedisClusterUser = (typeof redisClusterUsers)[number];
type RedisClusterHashes = Readonly<Record<RedisClusterUser, readonly string[]>>;

interface Rights {
  readonly commands: readonly string[];
  /** For publishing and listening. */
  readonly channels?: readonly string[];
}

/** In which Sentinels find each other. */
const hello = "__sentinel__:hello";
/** On redis-server. Neither sees a key by a command of its own. */
const onServer: Readonly<Record<RedisClusterUser, Rights>> = {
  "redis-replica": { commands: ["ping", "psync", "replconf"] },
  "redis-sentinel": {
    commands: [
      ...["client|kill", "client|setname", "config|rewrite", "exec", "info", "multi", "ping", "publish", "role", "script|kill", "slaveof"],
      "subscribe",
    ],
    channels: [hello],
  },
};
/** On a Sentinel, which anybody who may say SENTINEL could make move the master. */
const onSentinel: Readonly<Record<RedisClusterUser | "redis-health", Rights>> = {
  // A redis-server that comes back asks who is the master by now.
  "redis-replica": { commands: ["ping", "sentinel|get-master-addr-by-name"] },
  "redis-sentinel": { commands: ["client|setname", "ping", "publish", "sentinel|is-master-down-by-addr"], channels: [hello] },
  "redis-health": { commands: ["ping"] },
};

/** The ACL file of a redis-server with a replica: everybody of a single one, and {@link redisClusterUsers}. Nobody gets in without a password. */
export function redisClusterAcl(hashes: RedisHashes, ofCluster: RedisClusterHashes): string {
  return `${redisAcl(hashes)}${redisClusterUsers.map((user) => line(user, ofCluster[user], onServer[user])).join("")}`;
}

/** The ACL file of a Sentinel. */
export function redisSentinelAcl(hashes: RedisHashes, ofCluster: RedisClusterHashes): string {
  const users = Object.entries(onSentinel).map(([user, rights]) =>
    line(user, user === "redis-health" ? hashes[user] : ofCluster[user as RedisClusterUser], rights),
  );
  return `user default off resetpass resetkeys resetchannels -@all\n${users.join("")}`;
}

/** The hashes that an ACL file of {@link redisClusterAcl} holds for one of its users. */
export function hashesInRedisClusterAcl(text: string, user: RedisClusterUser): readonly string[] {
  const [, rules = ""] = new RegExp(`^user ${user} (.*)$`, "m").exec(text) ?? [];
  return [...rules.matchAll(/#([0-9a-f]{64})/g)].flatMap(([, hash]) => hash ?? []);
}

function line(user: string, hashes: readonly string[], { commands, channels = [] }: Rights): string {
  const rights = ["resetchannels", ...channels.map((channel) => `&${channel}`), "-@all", ...commands.map((command) => `+${command}`)];
  return `${["user", user, hashes.length === 0 ? "off" : "on", ...hashes.map((hash) => `#${hash}`), ...rights].join(" ")}\n`;
}
