import { createHash } from "node:crypto";
import { isObject } from "../mcp/envelope.ts";
import { UpstreamError } from "../upstream-client.ts";
import { type Asked, InnerError, type Listener } from "./inner-answer.ts";
import type { LastList, LastLists } from "./last-lists.ts";
import type { AggregateSettings } from "./settings.ts";
import { itemOf, type ListMethod, lists } from "./translate.ts";

type Item = Record<string, unknown>;

/** What one upstream gave for a list, and whether it gave it now. */
export interface Listed {
  readonly upstream: string;
  readonly items: readonly Item[];
  readonly hash: string;
  /** False: it could not be asked, and this is what it gave last. */
  readonly fresh: boolean;
}

interface Remembered {
  readonly items: readonly Item[];
  readonly hash: string;
  readonly atMs: number;
  /** When other processes are to be told that it still holds. */
  tellAtMs: number;
}

const tellAgainMs = 60_000;
const retellMs = 5000;
const soughtAgainMs = 5000;
const pagesMax = 50;
const itemsMax = 5000;
const rememberedMax = 2000;
/** An upstream that is slow must not keep the tools of the others from a client. */
const askMs = 5000;

/**
 * The lists of the upstreams, asked anew for each client. Guarantees:
 * L1  An upstream that cannot be asked takes nothing from the others; what it gave last stays listed for `graceMs`.
 *     Router processes tell each other what they were given, where they have something in common.
 * L2  What one client was given is never shown to another principal.
 */
export class SharedLists {
  readonly #remembered = new Map<string, Remembered>();
  /** When other processes were asked in vain. */
  readonly #soughtAtMs = new Map<string, number>();
  readonly #nowMs: () => number;
  readonly #last: LastLists | null;
  /** A client may list while its lists are looked at: servers take two requests with one id for one. */
  #asked = 0;
  constructor(nowMs: () => number, last: LastLists | null = null) {
    this.#nowMs = nowMs;
    this.#last = last;
  }

  /** Null: it cannot be asked, and nothing that is recent enough is known of it. */
  async ask(method: ListMethod, inner: Asked, principal: string, settings: AggregateSettings): Promise<Listed | null> {
    const { upstream } = inner;
    const key = JSON.stringify([principal, upstream, method]);
    const items = await this.#fetch(method, inner, settings);
    if (items !== null) {
      const hash = createHash("sha256").update(JSON.stringify(items)).digest("base64url");
      const nowMs = this.#nowMs();
      const before = this.#remembered.get(key);
      const isTold = before?.hash === hash && nowMs < before.tellAtMs;
      this.#remember(key, { items, hash, atMs: nowMs, tellAtMs: isTold ? before.tellAtMs : nowMs + tellAgainMs });
      if (!isTold) void this.#tell(key, { items, hash, atMs: nowMs });
      return { upstream, items, hash, fresh: true };
    }
    const sinceMs = this.#nowMs() - settings.graceMs;
    const mine = this.#remembered.get(key);
    const before = mine !== undefined && mine.atMs >= sinceMs ? mine : await this.#seek(key, sinceMs);
    return before === null ? null : { upstream, items: before.items, hash: before.hash, fresh: false };
  }

  #remember(key: string, one: Remembered): void {
    this.#remembered.delete(key);
    this.#remembered.set(key, one);
    if (this.#remembered.size > rememberedMax) this.#remembered.delete(this.#remembered.keys().next().value as string);
  }

  /** Tells the other processes what is new, and now and then that it still holds. */
  async #tell(key: string, last: LastList): Promise<void> {
    if (this.#last === null || (await this.#last.keep(key, last))) return;
    const now = this.#remembered.get(key);
    if (now?.hash === last.hash) now.tellAtMs = Math.min(now.tellAtMs, last.atMs + retellMs);
  }

  /** What another process was given since then. */
  async #seek(key: string, sinceMs: number): Promise<Remembered | null> {
    const nowMs = this.#nowMs();
    if (this.#last === null || nowMs - (this.#soughtAtMs.get(key) ?? Number.NEGATIVE_INFINITY) < soughtAgainMs) return null;
    const found = await this.#last.find(key);
    if (found === null || found.atMs < sinceMs) {
      this.#soughtAtMs.delete(key);
      this.#soughtAtMs.set(key, nowMs);
      if (this.#soughtAtMs.size > rememberedMax) this.#soughtAtMs.delete(this.#soughtAtMs.keys().next().value as string);
      return null;
    }
    // Another machine's clock may be ahead.
    const atMs = Math.min(found.atMs, nowMs);
    const one = { items: found.items, hash: found.hash, atMs, tellAtMs: atMs + tellAgainMs };
    this.#remember(key, one);
    return one;
  }

  /** Null: it could not be asked. An upstream that has no such list has an empty one. */
  async #fetch(method: ListMethod, inner: Asked, { separator }: AggregateSettings): Promise<Item[] | null> {
    const { key } = lists[method];
    const items: Item[] = [];
    let cursor: unknown;
    for (let page = 0; page < pagesMax && items.length < itemsMax; page++) {
      const message = { jsonrpc: "2.0", id: `mcpa-${method}-${++this.#asked}`, method, params: cursor === undefined ? {} : { cursor } };
      let result: Record<string, unknown> | null = null;
      let error: unknown = null;
      try {
        const hear: Listener = (heard, value) => {
          if (heard.kind !== "answer") return true;
          if (isObject(value["result"])) result = value["result"];
          else error = isObject(value["error"]) ? value["error"]["code"] : -32603;
          return true;
        };
        await inner.request(message, { "mcpf-timeout-ms": String(askMs) }, hear, AbortSignal.timeout(askMs));
      } catch (failure) {
        if (failure instanceof InnerError || failure instanceof UpstreamError) return null;
        throw failure;
      }
      if (error === methodNotFound) return items;
      if (result === null) return null;
      const given: unknown = result[key];
      for (const item of Array.isArray(given) ? given.slice(0, itemsMax) : []) {
        const own = itemOf(method, inner.upstream, separator, item);
        if (own !== null) items.push(own);
      }
      cursor = result["nextCursor"];
      if (cursor === undefined || cursor === null) break;
    }
    return items;
  }
}

const methodNotFound = -32601;
