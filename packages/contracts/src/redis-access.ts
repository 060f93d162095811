/**
 * What each user may do in Redis. The ACL file of redis-server, the tests of permissions and the documentation are made from it.
 *
 * Nobody else gets in: the user `default` is off, or an onlooker where the server lets such in. No user may empty a database or change how the
 * server runs (FLUSHALL, CONFIG, DEBUG, MODULE, REPLICAOF, ...), nor look through all keys but an onlooker: what is not named here is refused.
 */
interface RedisAccess {
  readonly what: string;
  /** In lower case; a subcommand as `command|subcommand`. AUTH, HELLO, QUIT and RESET need no permission. */
  readonly commands: readonly string[];
  /** Patterns of keys, for every command that names one; scripts are held to them, too. */
  readonly keys: readonly string[];
}

export const redisUsers = ["state-store", "redis-health", "redis-reader", "redis-reload"] as const;
export type RedisUser = (typeof redisUsers)[number];

export const redisAccess: Readonly<Record<RedisUser, RedisAccess>> = {
  "state-store": {
    what: "writes the read model",
    // INFO is the client's question whether the server has loaded its file.
    commands: ["del", "eval", "exec", "exists", "expire", "get", "info", "multi", "ping", "set", "zadd", "zremrangebyscore"],
    keys: ["mcp:state:*", "mcp:current:*", "mcp:failover:*", "mcp:meta", "mcp:writing:*"],
  },
  "redis-health": {
    what: "whether the server answers, and whether it is the one that takes writes",
    commands: ["ping", "role"],
    keys: [],
  },
  "redis-reader": {
    what: "people and dashboards that look at the read model",
    commands: ["exists", "get", "mget", "ping", "pttl", "ttl", "type", "zcard", "zrange", "zrangebyscore", "zrevrange", "zscore"],
    keys: ["mcp:*"],
  },
  "redis-reload": {
    what: "has the server read its ACL file again, which it cannot change: for rotated passwords",
    commands: ["acl|load", "ping"],
    keys: [],
  },
};

/** Who brings no password, where a server lets such in (docs/adr/0011): as the reader, and with what plain clients and people at a prompt ask besides. */
const redisOnlooker: Omit<RedisAccess, "what"> = {
  commands: [...redisAccess["redis-reader"].commands, "command", "dbsize", "info", "keys", "scan", "strlen"],
  keys: redisAccess["redis-reader"].keys,
};

/** In a user's folder of credentials; `packages/launcher` writes them, whoever connects reads them. */
export const redisCredentialFiles = {
  user: "redis.user",
  password: "redis.password",
  ca: "ca.pem",
  cert: "tls.crt",
  key: "tls.key",
} as const;

/** SHA-256, in hexadecimal, of the passwords that are valid for each user: two while one is replaced by the other. */
export type RedisHashes = Readonly<Record<RedisUser, readonly string[]>>;

const defaultOff = "user default off resetpass resetkeys resetchannels -@all";

/** The ACL file of redis-server (6.2 and newer). A user without a password can do nothing, but for the onlookers where there are those. */
export function redisAcl(hashes: RedisHashes, { onlookers }: { readonly onlookers: boolean } = { onlookers: false }): string {
  const lines = redisUsers.map((user) => {
    const { commands, keys } = redisAccess[user];
    const proofs = hashes[user].map((hash) => {
      if (!/^[0-9a-f]{64}$/.test(hash)) throw new RangeError(`not a SHA-256 for ${user}`);
      return `#${hash}`;
    });
    return ["user", user, proofs.length === 0 ? "off" : "on", ...proofs, ...rightsOf({ commands, keys })].join(" ");
  });
  const nobody = onlookers ? ["user default on nopass resetkeys", ...rightsOf(redisOnlooker)].join(" ") : defaultOff;
  return `${[nobody, ...lines].join("\n")}\n`;
}

function rightsOf({ commands, keys }: Omit<RedisAccess, "what">): string[] {
  return ["resetchannels", ...keys.map((key) => `~${key}`), "-@all", ...commands.map((command) => `+${command}`)];
}

/** The hashes that an ACL file of ours holds. */
export function hashesInRedisAcl(text: string): Partial<RedisHashes> {
  const found = text.split("\n").flatMap((line): [string, string[]][] => {
    const [word, user = "", ...rules] = line.split(" ");
    return word === "user" ? [[user, rules.filter((rule) => rule.startsWith("#")).map((rule) => rule.slice(1))]] : [];
  });
  return Object.fromEntries(found.filter(([user]) => (redisUsers as readonly string[]).includes(user))) as Partial<RedisHashes>;
}
