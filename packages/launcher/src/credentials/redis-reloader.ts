import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type RedisUser, redisCredentialFiles } from "@mcp-failover/contracts";
import { askRedis, RedisAskError } from "./ask-redis.ts";

const user: RedisUser = "redis-reload";

/**
 * Has redis-server read its ACL file again. Made before the credentials change: the server knows the password of then, until it has read the new
 * one. Throws {@link RedisAskError} with what to do.
 */
export function redisReloader(url: string, credentials: string): () => Promise<void> {
  const folder = join(credentials, user);
  const password = (): string | null => {
    try {
      return readFileSync(join(folder, redisCredentialFiles.password), "utf8").trim();
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
      throw error;
    }
  };
  const before = password();
  return async () => {
    const problems: string[] = [];
    for (const proof of new Set([before, password()])) {
      if (proof === null) continue;
      const said = await askRedis({ url, folder, password: proof, command: "ACL LOAD" }).catch((error: Error) => error);
      if (said === "+OK") return;
      problems.push(said instanceof Error ? said.message : said);
    }
    throw new RedisAskError(
      `the redis-server at ${url} has not read its users again (${problems.join("; then ")}). ` +
        "Ask again with --redis, or start it anew: it reads them at its start, too",
    );
  };
}
