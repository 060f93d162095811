/**
 * Counts of the last `buckets * bucketMs`, several kinds side by side. Kept in place, because a breaker adds to it on every call of a process; it reads no
 * clock, and the same additions at the same times give the same totals.
 *
 * Invariants, cited by the tests:
 * W1  A total is the sum of what was added in the buckets that are not over: what is older than the window counts no more, also after idle time.
 * W2  A clock that goes back adds to the newest bucket; nothing is lost and nothing comes back.
 */
export class RollingCounts {
  /** By kind; read it after {@link advance}. */
  readonly totals: Float64Array;
  readonly #cells: Float64Array;
  readonly #kinds: number;
  readonly #buckets: number;
  readonly #bucketMs: number;
  /** Number of the newest bucket since time 0, and the moment at which it is over. */
  #newest = 0;
  #endMs = Number.NEGATIVE_INFINITY;
  /** Where the newest bucket begins in the cells. */
  #offset = 0;

  constructor(shape: { readonly kinds: number; readonly buckets: number; readonly bucketMs: number }) {
    this.#kinds = shape.kinds;
    this.#buckets = shape.buckets;
    this.#bucketMs = shape.bucketMs;
    this.totals = new Float64Array(shape.kinds);
    this.#cells = new Float64Array(shape.kinds * shape.buckets);
  }

  /** Drops what is over at `nowMs`. */
  advance(nowMs: number): void {
    if (nowMs >= this.#endMs) this.#turn(nowMs);
  }

  /** Adds to the bucket of the last {@link advance}. */
  add(kind: number, amount: number): void {
    const cell = this.#offset + kind;
    this.#cells[cell] = (this.#cells[cell] as number) + amount;
    this.totals[kind] = (this.totals[kind] as number) + amount;
  }

  /** Makes the newest one of a kind one of another, in its own bucket. False: the window has none. */
  move(from: number, to: number): boolean {
    for (let step = 0; step < this.#buckets; step += 1) {
      const offset = ((this.#newest - step + this.#buckets) % this.#buckets) * this.#kinds;
      const count = this.#cells[offset + from] as number;
      if (count < 1) continue;
      this.#cells[offset + from] = count - 1;
      this.#cells[offset + to] = (this.#cells[offset + to] as number) + 1;
      this.totals[from] = (this.totals[from] as number) - 1;
      this.totals[to] = (this.totals[to] as number) + 1;
      return true;
    }
    return false;
  }

  /** Forgets kinds `from` up to `to`, not included. */
  clear(from: number, to: number): void {
    this.totals.fill(0, from, to);
    for (let offset = 0; offset < this.#cells.length; offset += this.#kinds) this.#cells.fill(0, offset + from, offset + to);
  }

  #turn(nowMs: number): void {
    const index = Math.floor(nowMs / this.#bucketMs);
    const steps = this.#endMs === Number.NEGATIVE_INFINITY ? 0 : Math.min(index - this.#newest, this.#buckets);
    for (let step = 1; step <= steps; step += 1) {
      const offset = ((index - steps + step) % this.#buckets) * this.#kinds;
      for (let kind = 0; kind < this.#kinds; kind += 1) {
        this.totals[kind] = (this.totals[kind] as number) - (this.#cells[offset + kind] as number);
        this.#cells[offset + kind] = 0;
      }
    }
    this.#newest = index;
    this.#endMs = (index + 1) * this.#bucketMs;
    this.#offset = (index % this.#buckets) * this.#kinds;
  }
}
