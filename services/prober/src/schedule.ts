import type { NextProbe } from "@mcp-failover/domain";
import { createDueHeap } from "./due-heap.ts";

/** What is due later than this is looked at then; Node fires at once what is due in over 24 days. */
const timerMsMax = 3_600_000;
/** In a dense schedule what is due within so short a time begins together: to wake for each probe costs as much as the probe. */
const togetherMs = 10;
/** So many begin in one turn, or this share of all; the answers of what already runs are heard before more do. */
const inTurnMin = 32;
const inTurnShare = 0.01;

/** Runs probes when they are due, at most one an endpoint at a time. What is overdue is never caught up on: the next one is planned from now. */
export interface Schedule {
  /** Plans the next probe of a key, in place of what was planned. A probe under way plans anew by itself when it ends. */
  plan(key: string, next: NextProbe): void;
  /** Brings the next probe of a key forward; one that is planned sooner stays. */
  hasten(key: string, next: NextProbe): void;
  remove(key: string): void;
  has(key: string): boolean;
  readonly size: number;
  stop(): void;
}

export interface ScheduleOptions {
  readonly nowMs: () => number;
  /** Monotonic milliseconds: waits do not change when the clock is set. */
  readonly clockMs: () => number;
  /** Makes the probe and says when the next one is due; null ends the schedule of the key. */
  readonly run: (key: string, due: NextProbe) => Promise<NextProbe | null>;
  /** How late a probe begins, by the clock that nobody sets. */
  readonly onLag: (lagMs: number) => void;
  readonly onError: (error: unknown, key: string) => void;
  /** After a run that threw. */
  readonly errorWaitMs: number;
}

interface Planned {
  /** By the monotonic clock. */
  readonly dueMs: number;
  readonly key: string;
  readonly entry: Entry;
  readonly turn: number;
  readonly next: NextProbe;
}

interface Entry {
  /** Which plan is in force; older ones that are still in the heap count for nothing. */
  turn: number;
  /** By the monotonic clock. */
  dueMs: number;
  running: boolean;
  /** Asked for while one was under way. */
  asked: NextProbe | null;
}

export function createSchedule(options: ScheduleOptions): Schedule {
  const { clockMs } = options;
  const entries = new Map<string, Entry>();
  const heap = createDueHeap<Planned>();
  let timer: NodeJS.Timeout | null = null;
  let timerAtMs = Number.POSITIVE_INFINITY;
  let lastTickMs = Number.NEGATIVE_INFINITY;

  const dueMsOf = ({ atMs }: NextProbe): number => clockMs() + Math.max(0, atMs - options.nowMs());

  function arm(key: string, entry: Entry, next: NextProbe): void {
    entry.turn += 1;
    entry.dueMs = dueMsOf(next);
    heap.push({ dueMs: entry.dueMs, key, entry, turn: entry.turn, next });
    wake();
  }

  /** One timer for all, set to what is due first, but not too soon after the last. */
  function wake(soonestMs = lastTickMs + togetherMs): void {
    const { firstMs } = heap;
    if (firstMs === null) return;
    const atMs = Math.max(firstMs, soonestMs);
    if (atMs >= timerAtMs) return;
    if (timer !== null) clearTimeout(timer);
    timerAtMs = atMs;
    timer = setTimeout(tick, Math.min(timerMsMax, Math.max(0, Math.ceil(atMs - clockMs()))));
  }

  function tick(): void {
    timer = null;
    timerAtMs = Number.POSITIVE_INFINITY;
    // What becomes due while these begin is left to the next tick, so that answers are heard in between.
    lastTickMs = clockMs();
    const inTurnMax = Math.max(inTurnMin, entries.size * inTurnShare);
    let begun = 0;
    while (heap.firstMs !== null && heap.firstMs <= lastTickMs && begun < inTurnMax) {
      const due = heap.pop();
      if (due !== undefined && entries.get(due.key) === due.entry && due.entry.turn === due.turn && !due.entry.running) {
        begun += 1;
        void fire(due);
      }
    }
    wake(begun < inTurnMax ? undefined : lastTickMs);
  }

  async function fire({ key, entry, dueMs, next: due }: Planned): Promise<void> {
    entry.running = true;
    options.onLag(Math.max(0, clockMs() - dueMs));
    let next: NextProbe | null;
    try {
      next = await options.run(key, due);
    } catch (error) {
      options.onError(error, key);
      next = { atMs: options.nowMs() + options.errorWaitMs, purpose: "scheduled" };
    }
    entry.running = false;
    if (entries.get(key) !== entry) return;
    const { asked } = entry;
    entry.asked = null;
    if (next === null) entries.delete(key);
    else arm(key, entry, asked !== null && asked.atMs < next.atMs ? asked : next);
  }

  return {
    plan(key, next) {
      let entry = entries.get(key);
      if (entry === undefined) {
        entry = { turn: 0, dueMs: 0, running: false, asked: null };
        entries.set(key, entry);
      }
      if (entry.running) entry.asked = next;
      else arm(key, entry, next);
    },
    hasten(key, next) {
      const entry = entries.get(key);
      if (entry === undefined) return;
      if (entry.running) entry.asked = entry.asked !== null && entry.asked.atMs < next.atMs ? entry.asked : next;
      else if (dueMsOf(next) < entry.dueMs) arm(key, entry, next);
    },
    remove(key) {
      entries.delete(key);
    },
    has: (key) => entries.has(key),
    get size() {
      return entries.size;
    },
    stop() {
      if (timer !== null) clearTimeout(timer);
      timerAtMs = Number.POSITIVE_INFINITY;
      heap.clear();
      entries.clear();
    },
  };
}
