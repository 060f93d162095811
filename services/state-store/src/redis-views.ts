import { endpointKey } from "@mcp-failover/contracts";
import { type FailoverRecord, type ReadModel, viewStatus } from "@mcp-failover/domain";
import { Redis } from "ioredis";

/**
 * The Redis side of the read model. Keys, pinned:
 *   mcp:state:<upstream>            JSON, 1 hour, refreshed while configured
 *   mcp:current:<upstream>          name of the active endpoint
 *   mcp:failover:<upstream>:<time>  JSON of one failover, 7 days (time: milliseconds since the Unix epoch)
 *   mcp:failover:index:<upstream>   sorted set of those keys by time, so that nobody needs `KEYS`
 *   mcp:meta                        JSON: what has been written; gone when Redis came back empty
 *
 * A value is only replaced by one of the same or a later place in the log, so that several state-stores can write at once.
 */
const stateTtlSeconds = 3600;
const failoverTtlSeconds = 7 * 86_400;

const writeState = `
local old = redis.call('GET', KEYS[1])
if old then
  local ok, was = pcall(cjson.decode, old)
  if ok and type(was) == 'table' then
    local g, s = tonumber(was.generation) or 0, tonumber(was.seq) or 0
    if g > tonumber(ARGV[1]) or (g == tonumber(ARGV[1]) and s > tonumber(ARGV[2])) then return 0 end
  end
end
redis.call('SET', KEYS[1], ARGV[3], 'EX', ARGV[5])
redis.call('SET', KEYS[2], ARGV[4])
return 1`;

const commandTimeoutMs = 2000;
const reconnectMsMax = 1000;

export interface RedisViews {
  /** Writes the named upstreams and failovers; throws when Redis is out of reach. */
  write(model: ReadModel, upstreams: readonly string[], failovers: readonly FailoverRecord[]): Promise<void>;
  /** Writes everything, then the mark. */
  writeAll(model: ReadModel): Promise<void>;
  /** Removes the states of these upstreams and the mark; the history stays until it expires. */
  forget(upstreams: readonly string[]): Promise<void>;
  /** Whether the mark is there: false when Redis came back empty. */
  hasMark(): Promise<boolean>;
  state(upstream: string): Promise<unknown>;
  history(upstream: string, limit: number): Promise<unknown[]>;
  onConnection(listener: (connected: boolean, reason: string) => void): void;
  close(): Promise<void>;
}

/** Connects for ever in the background; commands fail at once while Redis is away, because the caller keeps what is to be written. */
export function openRedisViews(url: string): RedisViews {
  const redis = new Redis(url, {
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    commandTimeout: commandTimeoutMs,
    connectTimeout: commandTimeoutMs,
    retryStrategy: (attempt) => Math.min(50 * 2 ** Math.min(attempt, 6), reconnectMsMax),
  });
  let lastError = "connecting";
  // ioredis throws an unhandled event when nobody listens.
  redis.on("error", (error: Error) => {
    lastError = error.message;
  });

  const writeUpstreams = async (model: ReadModel, upstreams: readonly string[]): Promise<void> => {
    const view = viewStatus(model, [], model.configAtMs);
    for (const upstream of view.upstreams.filter(({ name }) => upstreams.includes(name))) {
      const value = JSON.stringify({
        service: upstream.name,
        ...upstream,
        endpoints: upstream.endpoints.map((endpoint) => ({
          ...endpoint,
          timestamp: model.health[endpointKey(upstream.name, endpoint.name)]?.timestamp ?? null,
        })),
        generation: model.generation,
        seq: model.seq,
        version: `${model.generation}-${model.seq}`,
      });
      await redis.eval(
        writeState,
        2,
        `mcp:state:${upstream.name}`,
        `mcp:current:${upstream.name}`,
        model.generation,
        model.seq,
        value,
        upstream.active,
        stateTtlSeconds,
      );
    }
  };
  const writeFailovers = async (records: readonly FailoverRecord[]): Promise<void> => {
    const oldest = Date.now() - failoverTtlSeconds * 1000;
    for (const record of records) {
      const time = Date.parse(record.timestamp);
      if (time < oldest) continue;
      const key = `mcp:failover:${record.service}:${time}`;
      const index = `mcp:failover:index:${record.service}`;
      await redis
        .multi()
        .set(key, JSON.stringify(record), "PXAT", time + failoverTtlSeconds * 1000)
        .zadd(index, time, key)
        .zremrangebyscore(index, "-inf", `(${oldest}`)
        .expire(index, failoverTtlSeconds)
        .exec();
    }
  };

  return {
    async write(model, upstreams, failovers) {
      await writeUpstreams(model, upstreams);
      await writeFailovers(failovers);
    },
    async writeAll(model) {
      await writeUpstreams(model, Object.keys(model.topology?.upstreams ?? {}));
      await writeFailovers(Object.values(model.history).flat());
      await redis.set("mcp:meta", JSON.stringify({ generation: model.generation, seq: model.seq, config: model.configHash }));
    },
    async forget(upstreams) {
      await redis.del("mcp:meta", ...upstreams.flatMap((name) => [`mcp:state:${name}`, `mcp:current:${name}`]));
    },
    hasMark: async () => (await redis.exists("mcp:meta")) === 1,
    async state(upstream) {
      const value = await redis.get(`mcp:state:${upstream}`);
      return value === null ? null : JSON.parse(value);
    },
    async history(upstream, limit) {
      const keys = await redis.zrevrange(`mcp:failover:index:${upstream}`, 0, limit - 1);
      if (keys.length === 0) return [];
      const values = await redis.mget(keys);
      return values.filter((value): value is string => value !== null).map((value) => JSON.parse(value) as unknown);
    },
    onConnection(listener) {
      redis.on("ready", () => listener(true, ""));
      redis.on("close", () => listener(false, `Redis is out of reach: ${lastError}`));
    },
    async close() {
      redis.disconnect();
    },
  };
}
