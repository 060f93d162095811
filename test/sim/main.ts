import { closeSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { closingLine } from "../../scripts/lib/test-count.mjs";
import { cellsRequiredFromRuns, judgeCoverage, sumCoverage } from "./coverage.ts";
import { huntMutants } from "./mutant-hunt.ts";
import { mutants } from "./mutants.ts";
import { openPool, type Pool } from "./pool.ts";
import { leastWorld, scheduleOf } from "./schedule.ts";
import { shrink } from "./shrink.ts";
import type { RunResult, Schedule } from "./world-types.ts";

const usage = `npm run sim -- [--seed S] [--runs N] [--minutes M] [--workers N] [--log FILE] [--schedule FILE] [--validate] [--no-shrink]
                [--broken NAME]
npm run sim -- --mutant NAME [--runs 200]     one change of production code, until its guarantee catches it
npm run sim -- --mutants [--runs 200]         all of them
npm run sim -- --list-mutants                 by the names of which --broken shows how a failure is told`;

interface Wanted {
  readonly seed: number;
  readonly runs: number;
  /** No run begins after this long. */
  readonly untilMs: number;
  readonly workers: number;
  readonly log: string | null;
  readonly schedule: { readonly file: string; readonly schedule: Schedule } | null;
  readonly validates: boolean;
  readonly shrinks: boolean;
  /** A mutant in the production code of all runs. */
  readonly broken: string | null;
}

/** Runs worlds and says what did not hold. Ends with `N passed, N failed, N skipped`, one test a run (or a mutant). */
async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      seed: { type: "string" },
      runs: { type: "string" },
      minutes: { type: "string" },
      workers: { type: "string" },
      log: { type: "string" },
      schedule: { type: "string" },
      validate: { type: "boolean" },
      "no-shrink": { type: "boolean" },
      mutant: { type: "string" },
      mutants: { type: "boolean" },
      "list-mutants": { type: "boolean" },
      broken: { type: "string" },
    },
  });
  if (values["list-mutants"]) {
    for (const { name, guarantee, what } of mutants) process.stdout.write(`${name}\t${guarantee}\t${what}\n`);
    return 0;
  }
  const seed = wholeNumber("--seed", values.seed, Date.now() % 1_000_000);
  const hunts = values.mutants === true || values.mutant !== undefined;
  const runs = wholeNumber("--runs", values.runs, hunts ? 200 : 1);
  const workers = Math.min(runs, wholeNumber("--workers", values.workers, Math.min(2, availableParallelism())));
  const minutes = wholeNumber("--minutes", values.minutes, 24 * 60);
  const untilMs = performance.now() + minutes * 60_000;
  if (hunts) return huntMutants({ name: values.mutant ?? null, seed, runs, workers, untilMs });
  return runAll({
    seed,
    runs: values.schedule === undefined ? runs : 1,
    untilMs,
    workers: values.log === undefined ? workers : 1,
    log: values.log ?? null,
    schedule:
      values.schedule === undefined
        ? null
        : { file: values.schedule, schedule: JSON.parse(readFileSync(values.schedule, "utf8")) as Schedule },
    validates: values.validate ?? false,
    shrinks: values["no-shrink"] !== true && values.schedule === undefined,
    broken: values.broken ?? null,
  });
}

async function runAll(wanted: Wanted): Promise<number> {
  const { seed, runs, workers, log } = wanted;
  process.stdout.write(
    wanted.schedule === null ? `seeds ${seed} to ${seed + runs - 1}, ${workers} at a time\n` : `the schedule ${wanted.schedule.file}\n`,
  );
  const pool = openPool(workers, { mutant: wanted.broken });
  const logFd = log === null ? null : openSync(log, "w");
  const begunMs = performance.now();
  const begunCpu = process.cpuUsage();
  const results: RunResult[] = [];
  const failed: RunResult[] = [];
  try {
    let next = 0;
    const lane = async (): Promise<void> => {
      while (next < runs && performance.now() < wanted.untilMs) {
        const schedule = wanted.schedule?.schedule ?? scheduleOf(seed + next, leastWorld);
        next += 1;
        const result = await pool.run({ schedule, validates: wanted.validates, hashes: wanted.schedule !== null, logFd });
        results.push(result);
        if (wanted.schedule !== null) process.stdout.write(`log ${result.logHash}\n`);
        if (result.violation === null) continue;
        failed.push(result);
        sayViolation(result, wanted);
        if (wanted.shrinks) await sayShrunk(schedule, result, pool, wanted);
      }
    };
    await Promise.all(Array.from({ length: workers }, lane));
  } finally {
    await pool.close();
    if (logFd !== null) closeSync(logFd);
  }
  const tookMs = performance.now() - begunMs;
  const { user, system } = process.cpuUsage(begunCpu);
  const hours = Math.max(1, results.length);
  const emptyCells = wanted.schedule === null ? sayCoverage(results) : 0;
  process.stdout.write(
    `${results.length} simulated hours in ${(tookMs / 1000).toFixed(1)} s, ${Math.round(tookMs / hours)} ms each, ${Math.round((user + system) / 1000 / hours)} ms of processor time each\n`,
  );
  // The table is one test of its own, once there are runs enough to fill it.
  const judged = wanted.schedule === null && results.length >= cellsRequiredFromRuns;
  const counts = {
    passed: results.length - failed.length + (judged && emptyCells === 0 ? 1 : 0),
    failed: failed.length + (judged && emptyCells > 0 ? 1 : 0),
    skipped: 0,
  };
  process.stdout.write(`${closingLine(counts)}\n`);
  return counts.failed > 0 || results.length === 0 ? 1 : 0;
}

function sayViolation({ violation, seed }: RunResult, { schedule, broken }: Wanted): void {
  if (violation === null) return;
  process.stdout.write(`\nseed ${seed}: ${violation.message}\n  ${JSON.stringify(violation.details)}\n`);
  const again = schedule === null ? `--seed ${seed} --runs 1` : `--schedule ${schedule.file}`;
  process.stdout.write(`  again: npm run sim -- ${again}${brokenOption(broken)} --log sim.log\n`);
}

/** Writes the smallest schedule found that breaks the same guarantee, and says how to run it. */
async function sayShrunk(
  schedule: Schedule,
  { seed, violation }: RunResult,
  pool: Pool,
  { validates, untilMs, broken }: Wanted,
): Promise<void> {
  if (violation === null) return;
  const shrunk = await shrink(schedule, violation, {
    untilMs,
    breaks: async (smaller) => {
      const again = await pool.run({ schedule: smaller, validates, hashes: false, logFd: null });
      return again.violation;
    },
  });
  const file = `sim-failure-${seed}.json`;
  writeFileSync(file, `${JSON.stringify(shrunk.schedule, null, 2)}\n`);
  const { faults, world } = shrunk.schedule;
  process.stdout.write(
    `  shrunk in ${shrunk.tries} runs from ${schedule.faults.length} faults and ${schedule.world.calls} calls to ${faults.length} and ${world.calls}: ${shrunk.violation.message}\n`,
  );
  for (const fault of faults) process.stdout.write(`    ${JSON.stringify(fault)}\n`);
  process.stdout.write(`  again: npm run sim -- --schedule ${file}${brokenOption(broken)}\n`);
}

const brokenOption = (broken: string | null): string => (broken === null ? "" : ` --broken ${broken}`);

/** Prints the table over all runs; how many cells that have to be filled are empty, or are not in the table's list. */
function sayCoverage(results: readonly RunResult[]): number {
  const sums = sumCoverage(results.map(({ coverage }) => coverage));
  for (const [name, count] of [...sums].sort(([a], [b]) => (a < b ? -1 : 1)))
    process.stdout.write(`${String(count).padStart(9)} ${name}\n`);
  const { empty, unlisted, required } = judgeCoverage(sums);
  process.stdout.write(`${required - empty.length} of ${required} required cells are filled\n`);
  if (empty.length > 0)
    process.stdout.write(`empty${results.length < cellsRequiredFromRuns ? ` (allowed below ${cellsRequiredFromRuns} runs)` : ""}:\n`);
  for (const cell of empty) process.stdout.write(`          ${cell}\n`);
  if (unlisted.length > 0) process.stdout.write(`counted, and not listed in test/sim/coverage.ts:\n`);
  for (const cell of unlisted) process.stdout.write(`          ${cell}\n`);
  return empty.length + unlisted.length;
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
