import { compareWants, isOfAnotherClock, type Want } from "@mcp-failover/domain";

interface Place {
  readonly want: Want;
  /** When its turn began; null: it has not come. */
  turnSinceMs: number | null;
}

/** Who has its turn and is not proven within this time makes room for the next. */
const turnMs = 5000;

/**
 * Moves that wait for a place among the fleet's, the most urgent first. When hundreds wait, only as many as may be moved ask and are kept
 * proven; probing the others meanwhile would only be load on what is in trouble already.
 */
export class WaitingRoom {
  readonly #places = new Map<string, Place>();
  /** When the fleet may have a place again, for critical upstreams and for others. */
  #retryAtMs = { critical: 0, other: 0 };
  #refusedMs = 0;

  enter(want: Want): void {
    const before = this.#places.get(want.upstream);
    this.#places.set(want.upstream, { want, turnSinceMs: before?.turnSinceMs ?? null });
  }

  leave(upstream: string): void {
    this.#places.delete(upstream);
  }

  /** The fleet refused a move for its limit. */
  refused({ critical, upstream }: Want, retryAtMs: number, nowMs: number): void {
    this.#refusedMs = nowMs;
    this.#retryAtMs[critical ? "critical" : "other"] = retryAtMs;
    const place = this.#places.get(upstream);
    if (place !== undefined) place.turnSinceMs = null;
  }

  /** Another configuration may allow more: who waits asks again. Who is not among `known` any more will never ask, nor leave by itself. */
  reopen(known: readonly string[]): void {
    this.#retryAtMs = { critical: 0, other: 0 };
    const configured = new Set(known);
    for (const upstream of this.#places.keys()) if (!configured.has(upstream)) this.leave(upstream);
  }

  /** Whether an upstream is to wait: others that are more urgent take all the places, or there are none yet. `places`: the fleet's limit. */
  mustWait(upstream: string, places: number, nowMs: number): boolean {
    const own = this.#places.get(upstream);
    if (own === undefined) return false;
    const retryAtMs = this.#retryAtMs[own.want.critical ? "critical" : "other"];
    if (nowMs < retryAtMs && !isOfAnotherClock(this.#refusedMs, nowMs)) return true;
    if (this.#places.size > places && this.#rankOf(own.want) >= places) return true;
    if (own.turnSinceMs === null || isOfAnotherClock(own.turnSinceMs, nowMs)) own.turnSinceMs = nowMs;
    if (nowMs - own.turnSinceMs > turnMs) this.leave(upstream);
    return false;
  }

  #rankOf(want: Want): number {
    let rank = 0;
    for (const other of this.#places.values()) if (compareWants(other.want, want) < 0) rank += 1;
    return rank;
  }
}
