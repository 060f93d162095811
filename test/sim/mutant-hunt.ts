import { closingLine } from "../../scripts/lib/test-count.mjs";
import { type Mutant, mutants } from "./mutants.ts";
import { openPool } from "./pool.ts";
import { leastWorld, scheduleOf } from "./schedule.ts";

export interface Hunt {
  /** Null: all mutants. */
  readonly name: string | null;
  readonly seed: number;
  /** At most so many runs a mutant. */
  readonly runs: number;
  readonly workers: number;
  /** By `performance.now()`: no run begins after it. */
  readonly untilMs: number;
}

export interface Caught {
  /** How many runs it took; null: it got away. */
  readonly afterRuns: number | null;
  readonly ran: number;
  readonly seed: number | null;
  readonly message: string;
}

/** Changes production code and runs worlds until the guarantee that has to catch it does. One test a mutant; prints a table. */
export async function huntMutants(hunt: Hunt): Promise<number> {
  const chosen = mutants.filter(({ name }) => hunt.name === null || name === hunt.name);
  if (chosen.length === 0) throw new RangeError(`no mutant ${hunt.name}: see --list-mutants`);
  const counts = { passed: 0, failed: 0, skipped: 0 };
  for (const mutant of chosen) {
    if (performance.now() >= hunt.untilMs) {
      counts.skipped += 1;
      continue;
    }
    const { afterRuns, ran, seed, message } = await huntMutant(mutant, hunt);
    if (afterRuns === null) counts.failed += 1;
    else counts.passed += 1;
    const found = afterRuns === null ? `NOT CAUGHT in ${ran} runs` : `caught in ${String(afterRuns).padStart(3)} runs (seed ${seed})`;
    process.stdout.write(`${mutant.guarantee.padEnd(36)} ${mutant.name.padEnd(38)} ${found}  ${message}\n`);
  }
  process.stdout.write(`${closingLine(counts)}\n`);
  return counts.failed > 0 ? 1 : 0;
}

/** Only the mutant's own guarantee is checked: what another one would have seen first is no answer. */
export async function huntMutant({ name, guarantee }: Mutant, { seed, runs, workers, untilMs }: Omit<Hunt, "name">): Promise<Caught> {
  const pool = openPool(Math.min(workers, runs), { mutant: name, guarantee });
  let next = 0;
  let ran = 0;
  let caught: Caught | null = null;
  const lane = async (): Promise<void> => {
    while (next < runs && caught === null && performance.now() < untilMs) {
      const schedule = scheduleOf(seed + next, leastWorld);
      next += 1;
      const { violation } = await pool.run({ schedule, validates: false, hashes: false, logFd: null });
      ran += 1;
      if (violation?.guarantee === guarantee && caught === null)
        caught = { afterRuns: ran, ran, seed: schedule.seed, message: violation.message };
    }
  };
  try {
    await Promise.all(Array.from({ length: Math.min(workers, runs) }, lane));
  } finally {
    await pool.close();
  }
  return caught ?? { afterRuns: null, ran, seed: null, message: "" };
}
