/** Work that runs once at a time. */
export interface Task {
  /** Runs now; a call during a run waits for it and for one more. */
  now(): Promise<void>;
  /** Runs after `delayMs`, however often it is called until then. */
  soon(): void;
  cancel(): void;
}

/** `run` says its own failures; what it throws all the same goes to `onError`. */
export function task(delayMs: number, run: () => Promise<void>, onError: (error: unknown) => void): Task {
  let running: Promise<void> | null = null;
  let again = false;
  let timer: NodeJS.Timeout | null = null;
  const loop = async (): Promise<void> => {
    do {
      again = false;
      await run().catch(onError);
    } while (again);
    running = null;
  };
  const now = (): Promise<void> => {
    if (running === null) running = loop();
    else again = true;
    return running;
  };
  return {
    now,
    soon() {
      timer ??= setTimeout(() => {
        timer = null;
        void now();
      }, delayMs);
    },
    cancel() {
      if (timer) clearTimeout(timer);
      timer = null;
    },
  };
}

/** How often work may be done that holds everything else up. */
export interface Pace {
  due(): boolean;
  /** Does it, due or not, and waits `restsPerWork` times as long as it took until it is due again. */
  timed<T>(work: () => T): T;
}

export function paced(restsPerWork: number, nowMs: () => number): Pace {
  let dueMs = Number.NEGATIVE_INFINITY;
  return {
    due: () => nowMs() >= dueMs,
    timed(work) {
      const startMs = nowMs();
      const made = work();
      const endMs = nowMs();
      dueMs = endMs + restsPerWork * (endMs - startMs);
      return made;
    },
  };
}
