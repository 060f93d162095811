import type { Fault, RunResult, Schedule } from "./world-types.ts";

type Broken = NonNullable<RunResult["violation"]>;

export interface ShrinkOptions {
  /** Runs a schedule; null: everything holds. */
  readonly breaks: (schedule: Schedule) => Promise<RunResult["violation"]>;
  /** By `performance.now()`. */
  readonly untilMs: number;
  readonly triesMax?: number;
}

export interface Shrunk {
  readonly schedule: Schedule;
  readonly violation: Broken;
  readonly tries: number;
}

const triesMaxUsual = 60;
const afterMs = 1000;

/** The smallest schedule found that still breaks the same guarantee: less time first, then fewer faults (ddmin), then fewer calls. */
export async function shrink(schedule: Schedule, violation: Broken, options: ShrinkOptions): Promise<Shrunk> {
  const { triesMax = triesMaxUsual, untilMs } = options;
  let best: Shrunk = { schedule, violation, tries: 0 };
  let tries = 0;
  const holds = async (smaller: Schedule): Promise<boolean> => {
    if (tries >= triesMax || performance.now() >= untilMs) return false;
    tries += 1;
    const broken = await options.breaks(smaller);
    if (broken === null || broken.guarantee !== violation.guarantee) return false;
    best = { schedule: smaller, violation: broken, tries };
    return true;
  };
  // What came after the break had no part in it.
  const before = schedule.faults.filter(({ atMs }) => atMs <= violation.atMs);
  if (before.length < schedule.faults.length) await holds({ ...best.schedule, faults: before });
  await shrinkFaults(() => best.schedule, holds);
  for (let share = 0; share < 1; share = share === 0 ? 0.1 : share * 2) {
    const calls = Math.floor(best.schedule.world.calls * share);
    if (await holds(withWorld(best.schedule, { calls }))) break;
  }
  const endMs = Math.ceil(best.violation.atMs + afterMs);
  if (endMs < best.schedule.world.durationMs && best.schedule.world.calls === 0) {
    await holds(withWorld(best.schedule, { durationMs: endMs, quietFromMs: Math.min(endMs, best.schedule.world.quietFromMs) }));
  }
  return { ...best, tries };
}

/** Delta debugging: leaves out halves, then quarters, and so on down to single faults. */
async function shrinkFaults(current: () => Schedule, holds: (smaller: Schedule) => Promise<boolean>): Promise<void> {
  let parts = 2;
  while (current().faults.length > 0) {
    const { faults } = current();
    const size = Math.ceil(faults.length / parts);
    let smaller = false;
    for (let from = 0; from < faults.length; from += size) {
      const rest: readonly Fault[] = [...faults.slice(0, from), ...faults.slice(from + size)];
      if (await holds({ ...current(), faults: rest })) {
        smaller = true;
        break;
      }
    }
    if (smaller) parts = Math.max(2, parts - 1);
    else if (size === 1) return;
    else parts = Math.min(faults.length, parts * 2);
  }
}

function withWorld(schedule: Schedule, world: Partial<Schedule["world"]>): Schedule {
  return { ...schedule, world: { ...schedule.world, ...world } };
}
