/** What an {@link InOrder} writes into its members. A member is in one list at a time. */
export interface Linked<T> {
  before: T | null;
  after: T | null;
  within: object | null;
}

/**
 * What is out now, in the order in which it began. A `Set` says the same, but makes a new table for every few dozen members that come and go, and
 * the old table keeps the new one: once the collector has moved one of them to where it seldom looks, every table and every call that was in
 * one stays in memory and is copied twice. A link that is taken out keeps nothing.
 */
export class InOrder<T extends Linked<T>> implements Iterable<T> {
  #first: T | null = null;
  #last: T | null = null;
  #size = 0;

  get size(): number {
    return this.#size;
  }
  /** The one that has been in it longest. */
  get first(): T | null {
    return this.#first;
  }

  /** Throws where it is in another list: what it says there would be lost. */
  add(item: T): void {
    if (item.within === this) return;
    if (item.within !== null) throw new TypeError("it is in another list: take it out of that one first");
    item.within = this;
    item.before = this.#last;
    if (this.#last === null) this.#first = item;
    else this.#last.after = item;
    this.#last = item;
    this.#size += 1;
  }

  delete(item: T): void {
    if (item.within !== this) return;
    const { before, after } = item;
    if (before === null) this.#first = after;
    else before.after = after;
    if (after === null) this.#last = before;
    else after.before = before;
    item.before = null;
    item.after = null;
    item.within = null;
    this.#size -= 1;
  }

  /** Of those that are in it now: whoever is told may take any of them out. */
  [Symbol.iterator](): Iterator<T> {
    const items: T[] = [];
    for (let item = this.#first; item !== null; item = item.after) items.push(item);
    return items.values();
  }
}
