import { createLocalJWKSet, type JSONWebKeySet, type JWTVerifyGetKey } from "jose";
import { fetchJson } from "./fetch-json.ts";
import { keySetUrlOf } from "./issuer-metadata.ts";

/**
 * The keys of issuers. Guarantees:
 * K1  A key set is fetched by one request at a time, with a time-out, a limit on its size, and no redirect followed.
 * K2  It is fetched again when it is old, and when a token names a key that is not in it, but then not more often than every `againMs`, whatever the
 *     machine's clock is set to.
 * K3  When it cannot be fetched the last good one goes on, however old; also after a restart, from disk, where a process that has not been asked for an
 *     issuer leaves its keys as they are.
 * K4  Where the issuer's metadata say where its keys are, they are asked each time the keys are, so that keys may move.
 */
export interface KeySets {
  /** `url`: of the keys, or {@link discoveredOf}. Null: none was ever had. */
  get(url: string): Promise<JWTVerifyGetKey | null>;
  /** A token names a key that is not there: fetches again if that is due. False: nothing new. */
  again(url: string): Promise<boolean>;
}

const discovered = "discover ";
/** Stands for the keys of an issuer whose metadata say where they are. */
export function discoveredOf(issuer: string): string {
  return `${discovered}${issuer}`;
}

/** Where the last good key sets are kept. */
export interface KeySetStore {
  load(): Promise<Readonly<Record<string, JSONWebKeySet>>>;
  save(sets: Readonly<Record<string, JSONWebKeySet>>): Promise<void>;
}

export interface KeySetOptions {
  /** A clock that does not jump. */
  readonly monotonicMs: () => number;
  readonly store: KeySetStore | null;
  readonly onTrouble: (error: unknown, url: string) => void;
  readonly fetch?: (url: string) => Promise<JSONWebKeySet>;
  readonly freshMs?: number;
  readonly againMs?: number;
}

const freshMsDefault = 10 * 60_000;
const againMsDefault = 30_000;
/** As long as those are told to wait whose tokens cannot be looked at, because no key was ever had. */
const emptyAgainMs = 5000;
const fetchMsMax = 5000;
const setBytesMax = 256 * 1024;
const keysMax = 200;
const urlsMax = 100;

interface Held {
  set: JSONWebKeySet | null;
  key: JWTVerifyGetKey | null;
  /** When the last attempt began, and when the last good one did. */
  triedAtMs: number;
  goodAtMs: number;
  fetching: Promise<boolean> | null;
}

export function createKeySets(options: KeySetOptions): KeySets {
  const { monotonicMs, store } = options;
  const freshMs = options.freshMs ?? freshMsDefault;
  const againMs = options.againMs ?? againMsDefault;
  const fetchSet = options.fetch ?? fetchKeySet;
  const held = new Map<string, Held>();
  const nothing: Readonly<Record<string, JSONWebKeySet>> = {};
  const kept = (store?.load() ?? Promise.resolve(nothing)).catch((error: unknown) => {
    options.onTrouble(error, "the kept key sets");
    return nothing;
  });

  const heldOf = async (url: string): Promise<Held> => {
    const known = held.get(url);
    if (known !== undefined) return known;
    const set = (await kept)[url] ?? null;
    const second = held.get(url);
    if (second !== undefined) return second;
    if (held.size >= urlsMax) held.delete(held.keys().next().value as string);
    const fresh: Held = {
      set,
      key: set === null ? null : createLocalJWKSet(set),
      triedAtMs: Number.NEGATIVE_INFINITY,
      goodAtMs: Number.NEGATIVE_INFINITY,
      fetching: null,
    };
    held.set(url, fresh);
    return fresh;
  };

  /** Beside what other processes have put there, or this one before it was started anew. */
  const save = async (to: KeySetStore): Promise<void> => {
    const before = await to.load().catch(() => nothing);
    const own = [...held].flatMap(([name, { set }]) => (set === null ? [] : [[name, set] as const]));
    const others = Object.entries(before).filter(([name]) => !held.has(name));
    await to.save(Object.fromEntries([...own, ...others].slice(0, urlsMax)));
  };

  const refresh = (url: string, one: Held): Promise<boolean> => {
    one.fetching ??= (async () => {
      one.triedAtMs = monotonicMs();
      try {
        const set = await fetchSet(url);
        one.key = createLocalJWKSet(set);
        one.set = set;
        one.goodAtMs = one.triedAtMs;
        if (store !== null) await save(store);
        return true;
      } catch (error) {
        options.onTrouble(error, url);
        return one.goodAtMs === one.triedAtMs;
      } finally {
        one.fetching = null;
      }
    })();
    return one.fetching;
  };

  return {
    async get(url) {
      const one = await heldOf(url);
      const restMs = one.key === null ? Math.min(againMs, emptyAgainMs) : againMs;
      const due = monotonicMs() - one.goodAtMs > freshMs && monotonicMs() - one.triedAtMs >= restMs;
      if (one.key === null && (due || one.fetching !== null)) await refresh(url, one);
      // With keys at hand nobody waits for newer ones.
      else if (due) refresh(url, one).catch((error: unknown) => options.onTrouble(error, url));
      return one.key;
    },
    async again(url) {
      const one = await heldOf(url);
      if (one.fetching === null && monotonicMs() - one.triedAtMs <= againMs) return false;
      return refresh(url, one);
    },
  };
}

/** Throws when the answer is no key set, too large or too late. */
async function fetchKeySet(source: string): Promise<JSONWebKeySet> {
  const signal = AbortSignal.timeout(fetchMsMax);
  const url = source.startsWith(discovered) ? await keySetUrlOf(source.slice(discovered.length), signal) : source;
  const value = await fetchJson(url, setBytesMax, signal);
  const keys = typeof value === "object" && value !== null ? (value as { keys?: unknown }).keys : undefined;
  if (!Array.isArray(keys) || keys.length > keysMax) throw new Error(`${url} answered with something that is no key set`);
  // A secret key would let everybody who can read it sign; only public ones are taken.
  const usable = keys.filter((key: unknown) => typeof key === "object" && key !== null && (key as { kty?: unknown }).kty !== "oct");
  return { keys: usable } as JSONWebKeySet;
}
