import type { NextProbe } from "@mcp-failover/domain";

/** Runs probes when they are due, at most one an endpoint at a time. What is overdue is never caught up on: the next one is planned from now. */
export interface Schedule {
  /** Plans the next probe of a key, in place of what was planned. A probe under way plans anew by itself when it ends. */
  plan(key: string, next: NextProbe): void;
  remove(key: string): void;
  has(key: string): boolean;
  readonly size: number;
  stop(): void;
}

export interface ScheduleOptions {
  readonly nowMs: () => number;
  /** Makes the probe and says when the next one is due; null ends the schedule of the key. */
  readonly run: (key: string, due: NextProbe) => Promise<NextProbe | null>;
  readonly onLag: (lagMs: number) => void;
  readonly onError: (error: unknown, key: string) => void;
  /** After a run that threw. */
  readonly errorWaitMs: number;
}

interface Entry {
  timer: NodeJS.Timeout | null;
  running: boolean;
  /** Asked for while one was under way. */
  asked: NextProbe | null;
}

export function createSchedule(options: ScheduleOptions): Schedule {
  const entries = new Map<string, Entry>();

  function arm(key: string, entry: Entry, next: NextProbe): void {
    if (entry.timer !== null) clearTimeout(entry.timer);
    entry.timer = setTimeout(() => void fire(key, entry, next), Math.max(0, next.atMs - options.nowMs()));
  }

  async function fire(key: string, entry: Entry, due: NextProbe): Promise<void> {
    entry.timer = null;
    entry.running = true;
    options.onLag(Math.max(0, options.nowMs() - due.atMs));
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
        entry = { timer: null, running: false, asked: null };
        entries.set(key, entry);
      }
      if (entry.running) entry.asked = next;
      else arm(key, entry, next);
    },
    remove(key) {
      const entry = entries.get(key);
      if (entry?.timer) clearTimeout(entry.timer);
      entries.delete(key);
    },
    has: (key) => entries.has(key),
    get size() {
      return entries.size;
    },
    stop() {
      for (const { timer } of entries.values()) if (timer !== null) clearTimeout(timer);
      entries.clear();
    },
  };
}
