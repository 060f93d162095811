/** A call that waits for a place in a bulkhead. */
export interface Waiting {
  /** Its turn has come. */
  start(): void;
  /** It gets no turn any more. */
  refuse(error: Error): void;
}

/** Those that wait for a place, first come first served, bounded; leaving it costs the same wherever one stands. */
export class WaitingLine {
  readonly #max: number;
  readonly #waiting = new Set<Waiting>();

  constructor(max: number) {
    this.#max = max;
  }

  get length(): number {
    return this.#waiting.size;
  }

  /** False: it is full. */
  join(waiting: Waiting): boolean {
    if (this.#waiting.size >= this.#max) return false;
    this.#waiting.add(waiting);
    return true;
  }

  leave(waiting: Waiting): void {
    this.#waiting.delete(waiting);
  }

  /** The first one, out of the line; null for an empty one. */
  next(): Waiting | null {
    const [first = null] = this.#waiting;
    if (first !== null) this.#waiting.delete(first);
    return first;
  }

  refuseAll(error: () => Error): void {
    for (const waiting of [...this.#waiting]) {
      this.#waiting.delete(waiting);
      waiting.refuse(error());
    }
  }
}
