import { ApiError, apiCodes } from "./api.ts";
import { UnansweredError } from "./unanswered.ts";

/** Silence for less long than this is a restart, or a leader that is elected. */
const silentMsMin = 5000;
/** What nobody has tried again for so long is not held against the store any more, where it stores elsewhere. */
const forgetMs = 30_000;

interface Trouble {
  readonly reason: string;
  readonly sinceMs: number;
  lastMs: number;
  readonly silent: boolean;
}

/**
 * Whether NATS stores, as the publishes of this connection show it, by where they went. Being connected says nothing about that:
 * JetStream that is out of room refuses, turns itself off, or answers nobody (2.9 with a full disk), and the connection stays.
 */
export class StoreHealth {
  /** When something was stored last; a clock that nobody sets. */
  storedMs = Number.NEGATIVE_INFINITY;
  readonly #nowMs: () => number;
  readonly #troubles = new Map<string, Trouble>();

  constructor(nowMs: () => number = () => performance.now()) {
    this.#nowMs = nowMs;
  }

  /** `where` is the stream. */
  stored(where: string): void {
    this.storedMs = this.#nowMs();
    this.#troubles.delete(where);
  }

  failed(where: string, cause: unknown): void {
    const found = troubleOf(where, cause);
    if (found === null) return;
    const nowMs = this.#nowMs();
    const before = this.#troubles.get(where);
    // What was said outright is not made vaguer by a silence after it.
    const kept = before !== undefined && found.silent && !before.silent ? before : found;
    this.#troubles.set(where, { ...kept, sinceMs: before?.sinceMs ?? nowMs, lastMs: nowMs });
  }

  /** The last try somewhere has failed, be it too few times yet to say so. */
  get isDoubted(): boolean {
    return this.#troubles.size > 0;
  }

  /** Why NATS does not store, and what to do; null while it does. */
  get reason(): string | null {
    const nowMs = this.#nowMs();
    for (const [where, { lastMs }] of this.#troubles) if (nowMs - lastMs > forgetMs && this.storedMs > lastMs) this.#troubles.delete(where);
    // One try that was not answered says nothing of what came after it.
    const shown = [...this.#troubles.values()].filter(({ silent, sinceMs, lastMs }) => !silent || lastMs - sinceMs >= silentMsMin);
    return shown[0]?.reason ?? null;
  }
}

/** Null for what says nothing about the store: a lost race, a message that is too large, no connection. */
function troubleOf(where: string, cause: unknown): { readonly reason: string; readonly silent: boolean } | null {
  if (cause instanceof UnansweredError) {
    if (cause.reason === "disconnected") return null;
    return {
      silent: true,
      reason: `JetStream does not answer what is to be stored in ${where}: the log of nats-server says why; where its disk is full, free some and restart it`,
    };
  }
  if (!(cause instanceof ApiError)) return null;
  const said = `${cause.message} (JetStream ${cause.errCode})`;
  if (cause.errCode === apiCodes.streamStoreFailed && /maximum/.test(cause.message))
    return { silent: false, reason: `the stream ${where} is full: make room or raise its limit (\`mcpf doctor\` shows how full it is)` };
  switch (cause.errCode) {
    case apiCodes.streamStoreFailed:
    case apiCodes.insufficientResources:
    case apiCodes.insufficientStorage:
      return {
        silent: false,
        reason: `NATS has no room to store in ${where}: ${said}; free disk, trim a stream, or raise jetstream.max_file_store of the server`,
      };
    case apiCodes.notEnabled:
    case apiCodes.notEnabledForAccount:
      return {
        silent: false,
        reason: `JetStream is off: ${said}; the log of nats-server says why; where its disk is full, free some and restart it`,
      };
    default:
      return null;
  }
}
