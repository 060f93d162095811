/** What is due first comes out first: a binary heap, because thousands of timers of their own cost more than the probes' decisions. */
export interface DueHeap<T extends { readonly dueMs: number }> {
  push(item: T): void;
  /** When the first is due; null: nothing is in it. */
  readonly firstMs: number | null;
  pop(): T | undefined;
  clear(): void;
}

export function createDueHeap<T extends { readonly dueMs: number }>(): DueHeap<T> {
  let heap: T[] = [];
  const at = (index: number): number => heap[index]?.dueMs ?? Number.POSITIVE_INFINITY;

  function swap(a: number, b: number): void {
    const item = heap[a] as T;
    heap[a] = heap[b] as T;
    heap[b] = item;
  }

  return {
    push(item) {
      let index = heap.push(item) - 1;
      for (let parent = (index - 1) >> 1; index > 0 && at(index) < at(parent); parent = (index - 1) >> 1) {
        swap(index, parent);
        index = parent;
      }
    },
    get firstMs() {
      return heap[0]?.dueMs ?? null;
    },
    pop() {
      const first = heap[0];
      const last = heap.pop();
      if (first === undefined || last === undefined) return undefined;
      if (heap.length > 0) {
        heap[0] = last;
        for (let index = 0; ; ) {
          const left = 2 * index + 1;
          const least = at(left + 1) < at(left) ? left + 1 : left;
          if (at(least) >= at(index)) break;
          swap(index, least);
          index = least;
        }
      }
      return first;
    },
    clear() {
      heap = [];
    },
  };
}
