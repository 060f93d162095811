import { hashText } from "./string-hash.ts";

/**
 * An immutable map of which one entry changes at a time: a change copies one shard, not everything. A fold of 20,000 events into a plain
 * map that is copied for each would take minutes.
 */
export interface ShardedMap<V> {
  get(key: string): V | undefined;
  /** The map with this entry; the map itself stays as it is. */
  with(key: string, value: V): ShardedMap<V>;
  entries(): IterableIterator<[string, V]>;
}

const shardsCount = 256;

class Shards<V> implements ShardedMap<V> {
  readonly shards: readonly ReadonlyMap<string, V>[];

  constructor(shards: readonly ReadonlyMap<string, V>[]) {
    this.shards = shards;
  }

  get(key: string): V | undefined {
    return this.shards[shardOf(key)]?.get(key);
  }

  with(key: string, value: V): ShardedMap<V> {
    const shards = [...this.shards];
    const index = shardOf(key);
    shards[index] = new Map(shards[index]).set(key, value);
    return new Shards(shards);
  }

  *entries(): IterableIterator<[string, V]> {
    for (const shard of this.shards) yield* shard;
  }
}

const shardOf = (key: string): number => hashText(key) % shardsCount;
const nothing = new Shards<never>(Array.from({ length: shardsCount }, () => new Map<string, never>()));

export function emptyMap<V>(): ShardedMap<V> {
  return nothing as ShardedMap<V>;
}
