import { randomUUID } from "node:crypto";
import { endpointKey } from "@mcp-failover/contracts";
import { type FailoverRecord, type ReadModel, viewUpstream } from "@mcp-failover/domain";
import { Redis, type RedisOptions } from "ioredis";
import { z } from "zod";
import { readRedisCredentials } from "./redis-credentials.ts";

/**
 * The Redis side of the read model. Keys, pinned:
 *   mcp:state:<upstream>            JSON, 1 hour, refreshed while configured
 *   mcp:current:<upstream>          name of the active endpoint, while configured
 *   mcp:failover:<upstream>:<time>  JSON of one failover, 7 days (time: milliseconds since the Unix epoch)
 *   mcp:failover:index:<upstream>   sorted set of those keys by time, so that nobody needs `KEYS`
 *   mcp:meta                        JSON, the mark: what has been written; gone when Redis came back empty
 *   mcp:writing:<random>            there while everything is written: the mark above is set only if Redis was not emptied meanwhile
 *
 * A value is only replaced by one of the same or a later place in the log, so that several state-stores can write at once. Places are
 * ordered by (generation, time of the log's beginning, sequence): a log that began anew counts as later than the one that was lost. A log
 * that was restored to an earlier place has the same beginning, so places say nothing there: the mark names the last event that anything was
 * made from, and is never earlier than a value. Where the log has another event at that place, all of it is of the log that was lost.
 */
const stateTtlSeconds = 3600;
const failoverTtlSeconds = 7 * 86_400;

/** Whether a key holds what is of a later place than the first three arguments. */
const isLater = `
local function isLater(key)
  local old = redis.call('GET', key)
  if not old then return false end
  local ok, was = pcall(cjson.decode, old)
  if not ok or type(was) ~= 'table' then return false end
  local places = { { was.generation, ARGV[1] }, { was.logAtMs, ARGV[2] }, { was.seq, ARGV[3] } }
  for _, place in ipairs(places) do
    local theirs, ours = tonumber(place[1]) or 0, tonumber(place[2])
    if theirs ~= ours then return theirs > ours end
  end
  return false
end`;

/** The mark goes first: it must know of every value. */
const writeState = `${isLater}
if isLater(KEYS[1]) then return 0 end
if redis.call('EXISTS', KEYS[3]) == 1 and not isLater(KEYS[3]) then redis.call('SET', KEYS[3], ARGV[4]) end
redis.call('SET', KEYS[1], ARGV[5], 'EX', ARGV[7])
redis.call('SET', KEYS[2], ARGV[6])
return 1`;

const removeState = `${isLater}
if isLater(KEYS[1]) then return 0 end
return redis.call('DEL', KEYS[1], KEYS[2])`;

/** The mark says that Redis is whole: not so where it was emptied after the writing began. */
const setMark = `${isLater}
if redis.call('DEL', KEYS[2]) == 0 then return 0 end
if not isLater(KEYS[1]) then redis.call('SET', KEYS[1], ARGV[4]) end
return 1`;

/** At one stroke, so that nothing goes which another state-store wrote after it had seen the same. */
const forgetLost = `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
for i = 2, #ARGV do redis.call('DEL', 'mcp:state:' .. ARGV[i], 'mcp:current:' .. ARGV[i]) end
return redis.call('DEL', KEYS[1])`;

/** What a mark says of the last event that it knows; a mark of an earlier version does not say which one that was. */
const markText = z.object({ seq: z.number(), last: z.object({ id: z.string(), atMs: z.number() }) });

/** The last event of the log that anything in Redis was made from. */
interface Mark {
  readonly text: string;
  readonly seq: number;
  readonly last: NonNullable<ReadModel["last"]>;
}

function readMark(text: string): Mark | null {
  try {
    const { success, data } = markText.safeParse(JSON.parse(text));
    return success ? { text, ...data } : null;
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}
/** What a writer that died leaves behind is gone after this time; far longer than any writing takes. */
const writingMsMax = 600_000;

/** Redis was emptied while everything was written; writing everything again mends it. */
class EmptiedMeanwhileError extends Error {
  override readonly name = "EmptiedMeanwhileError";
  readonly code = "emptied_meanwhile";
  readonly retriable = true;
  constructor() {
    super("Redis was emptied while it was written; everything is written again");
  }
}

function placeOf({ generation, log, seq }: ReadModel): [generation: number, logAtMs: number, seq: number] {
  return [generation, log?.atMs ?? 0, seq];
}

function markOf(model: ReadModel): string {
  const [generation, logAtMs, seq] = placeOf(model);
  return JSON.stringify({ generation, logAtMs, seq, last: model.last, config: model.configHash });
}

const commandTimeoutMs = 2000;
const reconnectMsMax = 1000;
/** One that says nothing for so long, while it is asked, is dialled anew: TCP alone notices a quarter of an hour later that nobody is there. */
const silenceMsMax = 4000;
/** Failovers written in one go. */
const batchMax = 200;

export interface RedisViews {
  /** Writes the named upstreams and failovers; throws when Redis does not take them. */
  write(model: ReadModel, upstreams: readonly string[], failovers: readonly FailoverRecord[]): Promise<void>;
  /** Writes everything, then the mark; throws when Redis was emptied meanwhile, too. */
  writeAll(model: ReadModel): Promise<void>;
  /** Removes the states of these upstreams but those of a later place; their history stays until it expires. */
  remove(model: ReadModel, upstreams: readonly string[]): Promise<void>;
  /** Whether the mark is there: false when Redis came back empty. */
  hasMark(): Promise<boolean>;
  /** Null where there is none, or none that names its event. */
  mark(): Promise<Mark | null>;
  /** Removes this mark and the states of these upstreams, unless the mark has changed since. */
  forget(mark: Mark, upstreams: readonly string[]): Promise<void>;
  onConnection(listener: (connected: boolean, reason: string) => void): void;
  close(): Promise<void>;
}

/**
 * Connects for ever in the background; commands fail at once while Redis is away, because the caller keeps what is to be written. What the folder
 * holds is read anew before every connection, so that rotated passwords and certificates need no restart. Throws `RedisCredentialsError`.
 */
export function openRedisViews(url: string, credentialsDir: string | null): RedisViews {
  let lastError = "connecting";
  let unread = "";
  let leftMs = Number.NEGATIVE_INFINITY;
  /** Who takes writes by now may be found at the same address: the connection to one that became a replica stays as it is. At most once a second. */
  const leaveReplica = (error: Error): boolean => {
    const nowMs = performance.now();
    if (!/\bREADONLY\b/.test(error.message) || nowMs - leftMs < reconnectMsMax) return false;
    leftMs = nowMs;
    return true;
  };
  const credentials = (): Pick<RedisOptions, "username" | "password" | "tls"> => {
    if (credentialsDir === null) return {};
    const { tls, ...user } = readRedisCredentials(credentialsDir);
    return { ...user, ...(url.startsWith("rediss://") ? { tls } : {}) };
  };
  const options = {
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    commandTimeout: commandTimeoutMs,
    connectTimeout: commandTimeoutMs,
    socketTimeout: silenceMsMax,
    reconnectOnError: leaveReplica,
    // CLIENT SETINFO is none of our rights, and tells nobody anything.
    disableClientInfo: true,
    ...credentials(),
    retryStrategy: (attempt: number) => {
      try {
        Object.assign(redis.options, credentials());
        unread = "";
      } catch (error) {
        unread = `; ${(error as Error).message}`; // What was read before may still hold.
      }
      return Math.min(50 * 2 ** Math.min(attempt, 6), reconnectMsMax);
    },
  } satisfies RedisOptions;
  const redis: Redis = new Redis(url, options);
  // ioredis throws an unhandled event when nobody listens.
  redis.on("error", (error: Error) => {
    lastError = error.message;
  });

  const writeUpstreams = async (model: ReadModel, upstreams: readonly string[]): Promise<void> => {
    for (const name of upstreams) {
      // Looked up one by one, because the model goes on while Redis is written.
      const known = model.topology?.upstreams ?? {};
      const configured = Object.hasOwn(known, name) ? known[name] : undefined;
      if (configured === undefined) continue;
      const upstream = viewUpstream(model, name, configured, model.configAtMs);
      const [generation, logAtMs, seq] = placeOf(model);
      const value = JSON.stringify({
        service: name,
        ...upstream,
        endpoints: upstream.endpoints.map((endpoint) => ({
          ...endpoint,
          timestamp: model.health[endpointKey(name, endpoint.name)]?.timestamp ?? null,
        })),
        generation,
        logAtMs,
        seq,
        version: `${generation}-${seq}`,
      });
      const keys = [`mcp:state:${name}`, `mcp:current:${name}`, "mcp:meta"];
      await redis.eval(writeState, 3, ...keys, ...placeOf(model), markOf(model), value, upstream.active, stateTtlSeconds);
    }
  };
  const writeFailovers = async (records: readonly FailoverRecord[]): Promise<void> => {
    const oldest = Date.now() - failoverTtlSeconds * 1000;
    const young = records.filter(({ timestamp }) => Date.parse(timestamp) >= oldest);
    for (let from = 0; from < young.length; from += batchMax) {
      const batch = redis.multi();
      for (const record of young.slice(from, from + batchMax)) {
        const time = Date.parse(record.timestamp);
        const key = `mcp:failover:${record.service}:${time}`;
        const index = `mcp:failover:index:${record.service}`;
        batch
          .set(key, JSON.stringify(record), "PXAT", time + failoverTtlSeconds * 1000)
          .zadd(index, time, key)
          .zremrangebyscore(index, "-inf", `(${oldest}`)
          .expire(index, failoverTtlSeconds);
      }
      // What fails inside a transaction is not thrown.
      const failed = (await batch.exec())?.find(([error]) => error !== null)?.[0];
      if (failed) throw failed;
    }
  };

  return {
    async write(model, upstreams, failovers) {
      await writeUpstreams(model, upstreams);
      await writeFailovers(failovers);
    },
    async writeAll(model) {
      const writing = `mcp:writing:${randomUUID()}`;
      await redis.set(writing, "", "PX", writingMsMax);
      await writeUpstreams(model, Object.keys(model.topology?.upstreams ?? {}));
      await writeFailovers(Object.values(model.history).flat());
      const set = await redis.eval(setMark, 2, "mcp:meta", writing, ...placeOf(model), markOf(model));
      if (set !== 1) throw new EmptiedMeanwhileError();
    },
    async remove(model, upstreams) {
      for (const name of upstreams) await redis.eval(removeState, 2, `mcp:state:${name}`, `mcp:current:${name}`, ...placeOf(model));
    },
    hasMark: async () => (await redis.exists("mcp:meta")) === 1,
    async mark() {
      const text = await redis.get("mcp:meta");
      return text === null ? null : readMark(text);
    },
    async forget({ text }, upstreams) {
      await redis.eval(forgetLost, 1, "mcp:meta", text, ...upstreams);
    },
    onConnection(listener) {
      redis.on("ready", () => listener(true, ""));
      redis.on("close", () => listener(false, `Redis is out of reach: ${lastError}${unread}`));
    },
    async close() {
      redis.disconnect();
    },
  };
}
