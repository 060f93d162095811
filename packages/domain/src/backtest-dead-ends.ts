/** An upstream was held by a rule, a rule stopped a move of it, or it had nowhere to go. `atMs` is the store's time. */
export interface BacktestDeadEnd {
  readonly atMs: number;
  readonly upstream: string;
  readonly rule: string;
  readonly reason: string;
}

/** More of them are only counted. */
const keptMax = 10_000;

/** Each is told once, until the upstream is well again, was moved, or is stopped by another rule. */
export class DeadEnds {
  /** The first ones, in the order in which they came. */
  readonly kept: BacktestDeadEnd[] = [];
  /** By upstream, how many in all. */
  readonly counts = new Map<string, number>();
  readonly #now = new Map<string, string>();

  tell(deadEnd: BacktestDeadEnd): void {
    const { upstream, rule } = deadEnd;
    if (this.#now.get(upstream) === rule) return;
    this.#now.set(upstream, rule);
    this.counts.set(upstream, (this.counts.get(upstream) ?? 0) + 1);
    if (this.kept.length < keptMax) this.kept.push(deadEnd);
  }

  over(upstream: string): void {
    this.#now.delete(upstream);
  }
}
