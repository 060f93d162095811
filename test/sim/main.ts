import { closeSync, openSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { closingLine } from "../../scripts/lib/test-count.mjs";
import { openPool, type Pool } from "./pool.ts";
import { leastWorld, scheduleOf } from "./schedule.ts";
import type { RunResult, Schedule } from "./world-types.ts";

const usage =
  "npm run sim -- [--seed S] [--runs N] [--workers N] [--log FILE] [--schedule FILE] [--validate] [--mutant NAME] [--list-mutants]";

interface Wanted {
  readonly seed: number;
  readonly runs: number;
  readonly workers: number;
  readonly log: string | null;
  readonly schedule: Schedule | null;
  readonly validates: boolean;
  readonly mutant: string | null;
}

/** Runs worlds and says what did not hold. Ends with `N passed, N failed, N skipped`, one test a run. */
async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      seed: { type: "string" },
      runs: { type: "string" },
      workers: { type: "string" },
      log: { type: "string" },
      schedule: { type: "string" },
      validate: { type: "boolean" },
      mutant: { type: "string" },
      "list-mutants": { type: "boolean" },
    },
  });
  if (values["list-mutants"]) {
    const { mutants } = await import("./mutants.ts");
    for (const { name, guarantee, what } of mutants) process.stdout.write(`${name}\t${guarantee}\t${what}\n`);
    return 0;
  }
  const runs = wholeNumber("--runs", values.runs, 1);
  const wanted: Wanted = {
    seed: wholeNumber("--seed", values.seed, Date.now() % 1_000_000),
    runs,
    workers: Math.min(runs, wholeNumber("--workers", values.workers, Math.min(2, availableParallelism()))),
    log: values.log ?? null,
    schedule: values.schedule === undefined ? null : (JSON.parse(readFileSync(values.schedule, "utf8")) as Schedule),
    validates: values.validate ?? false,
    mutant: values.mutant ?? null,
  };
  return runAll(wanted);
}

async function runAll(wanted: Wanted): Promise<number> {
  const { seed, runs, workers, log, mutant } = wanted;
  process.stdout.write(
    `seeds ${seed} to ${seed + runs - 1}, ${workers} at a time${mutant === null ? "" : `, with the mutant ${mutant}`}\n`,
  );
  // One log has one order: with --log the runs come one after the other.
  const pool = openPool(log === null ? workers : 1, { mutant });
  const logFd = log === null ? null : openSync(log, "w");
  const begunMs = performance.now();
  const results: RunResult[] = [];
  const failed: RunResult[] = [];
  try {
    let next = 0;
    const lane = async (): Promise<void> => {
      while (next < runs) {
        const schedule = wanted.schedule ?? scheduleOf(seed + next, leastWorld);
        next += 1;
        const result = await pool.run({ schedule, validates: wanted.validates, hashes: false, logFd });
        results.push(result);
        if (result.violation === null) continue;
        failed.push(result);
        sayViolation(result, wanted);
      }
    };
    await Promise.all(Array.from({ length: log === null ? workers : 1 }, lane));
    await conclude(results, failed, pool, wanted);
  } finally {
    await pool.close();
    if (logFd !== null) closeSync(logFd);
  }
  const tookMs = performance.now() - begunMs;
  process.stdout.write(
    `${results.length} simulated hours in ${(tookMs / 1000).toFixed(1)} s, ${Math.round(tookMs / results.length)} ms each\n`,
  );
  process.stdout.write(`${closingLine({ passed: results.length - failed.length, failed: failed.length, skipped: 0 })}\n`);
  return failed.length > 0 ? 1 : 0;
}

function sayViolation(result: RunResult, { mutant }: Wanted): void {
  const { violation, seed } = result;
  if (violation === null) return;
  process.stdout.write(`\nseed ${seed}: ${violation.message}\n  ${JSON.stringify(violation.details)}\n`);
  process.stdout.write(`  again: npm run sim -- --seed ${seed} --runs 1 --log sim.log${mutant === null ? "" : ` --mutant ${mutant}`}\n`);
}

/** What is said of all runs together. */
async function conclude(results: readonly RunResult[], _failed: readonly RunResult[], _pool: Pool, _wanted: Wanted): Promise<void> {
  const sums = new Map<string, number>();
  for (const { coverage } of results) for (const [name, count] of Object.entries(coverage)) sums.set(name, (sums.get(name) ?? 0) + count);
  for (const [name, count] of [...sums].sort(([a], [b]) => (a < b ? -1 : 1)))
    process.stdout.write(`${String(count).padStart(9)} ${name}\n`);
}

function wholeNumber(option: string, text: string | undefined, otherwise: number): number {
  if (text === undefined) return otherwise;
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1) throw new RangeError(`${option} ${text}: it is a whole number above 0\n${usage}`);
  return value;
}

try {
  process.exitCode = await main();
} catch (error) {
  process.stderr.write(`npm run sim: ${error instanceof Error ? error.message : String(error)}\n`);
  process.stdout.write(`${closingLine({ passed: 0, failed: 1, skipped: 0 })}\n`);
  process.exitCode = 1;
}
