// npm run soak -- [--minutes 10] [--case NAME] [--rate 300] [--quick]: a fresh stack a case, and nothing may move.
// npm run soak -- --case mixed [--minutes 60] [--seed N] [--rate 40] [--json FILE] [--quick]: mixed traffic and random faults (mixed/).
import { writeFileSync } from "node:fs";
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { closingLine } from "../../scripts/lib/test-count.mjs";
import { table } from "../bench/table.ts";
import { cases } from "./cases.ts";
import { endOf, NothingShownError, soakEnds } from "./mixed/judge.ts";
import { runMixed } from "./mixed/mixed.ts";
import { tell } from "./mixed/tell.ts";
import { problemsOf, type SoakResult, soak, stillMoves } from "./soak.ts";
import { startWorld } from "./world.ts";

const usual = { callsPerSecond: 300, minutes: 10 };
const usualMixed = { callsPerSecond: 40, minutes: 60, faultEveryMs: 20_000, quickMs: 100_000, quickFaultEveryMs: 10_000 };
const quickMs = 15_000;
/** After a clock has jumped nothing automatic happens for 30 s. */
const stillMovesMs = 60_000;

const say = (line: string): void => void process.stdout.write(`${line}\n`);
const total = { passed: 0, failed: 0, skipped: 0 };
const results: SoakResult[] = [];
let nothingShown: string | null = null;
try {
  const { values } = parseArgs({
    options: {
      minutes: { type: "string" },
      case: { type: "string" },
      rate: { type: "string" },
      seed: { type: "string" },
      json: { type: "string" },
      quick: { type: "boolean", default: false },
    },
  });
  const positive = (name: "minutes" | "rate" | "seed", otherwise: number): number => {
    const value = Number(values[name] ?? otherwise);
    if (!(value > 0)) throw new RangeError(`--${name} ${values[name]}: it is a number above 0`);
    return value;
  };
  if (values.case === "mixed") {
    const seed = positive("seed", Math.ceil(Math.random() * 1_000_000_000));
    say(`seed ${seed}`);
    const result = await runMixed({
      seed,
      durationMs: values.quick ? usualMixed.quickMs : positive("minutes", usualMixed.minutes) * 60_000,
      callsPerSecond: positive("rate", usualMixed.callsPerSecond),
      faultEveryMs: values.quick ? usualMixed.quickFaultEveryMs : usualMixed.faultEveryMs,
      say,
    });
    tell(result, say);
    total[result.problems.length === 0 ? "passed" : "failed"] += 1;
    nothingShown = endOf(result.problems) === soakEnds.nothingShown ? result.problems.join("; ") : null;
    writeJson(values.json, result);
  } else {
    const names = [...cases.map(({ name }) => name), "mixed"];
    const chosen = cases.filter(({ name }) => values.case === undefined || values.case === name);
    if (chosen.length === 0) throw new RangeError(`--case ${values.case}: it is one of ${names.join(", ")}`);
    const durationMs = values.quick ? quickMs : positive("minutes", usual.minutes) * 60_000;
    for (const one of chosen) await runCase(one, durationMs, positive("rate", usual.callsPerSecond));
    showCases();
    writeJson(values.json, results);
  }
} catch (error) {
  process.stderr.write(`npm run soak: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
  total.failed += 1;
  if (error instanceof NothingShownError) nothingShown = error.message;
}
if (nothingShown !== null) say(`NOTHING SHOWN: ${nothingShown.split("\n")[0]}`);
say(closingLine(total));
process.exitCode = total.failed === 0 ? soakEnds.passed : nothingShown === null ? soakEnds.failed : soakEnds.nothingShown;

async function runCase(one: (typeof cases)[number], durationMs: number, callsPerSecond: number): Promise<void> {
  say(`== ${one.name}: ${one.what}`);
  const world = await startWorld(callsPerSecond);
  try {
    const result = await soak(world, one, durationMs, say);
    results.push(result);
    for (const [deed, times] of Object.entries(result.deeds)) if (times > 0) say(`  ${times} times: ${deed}`);
    const problems = problemsOf(one, result, callsPerSecond);
    for (const problem of problems) say(`  PROBLEM: ${problem}`);
    if (problems.length > 0) total.failed += 1;
    else {
      const movedMs = await stillMoves(world, stillMovesMs);
      say(`  nothing moved; then the active endpoint was killed, and it moved after ${Math.round(movedMs)} ms`);
      total.passed += 1;
    }
  } finally {
    await world.stop();
  }
}

function showCases(): void {
  const rows = results.map(({ name, seconds, moves, breakersOpened, unhealthy, rejected, failedProbes, calls, failed, p99Ms }) =>
    [name, seconds, moves.length, rejected.length, breakersOpened, unhealthy, failedProbes, calls, failed, p99Ms].map(String),
  );
  const headings = [
    "case",
    "seconds",
    "moves",
    "rejected",
    "breakers opened",
    "said unhealthy",
    "failed probes",
    "calls",
    "failed",
    "p99 ms",
  ];
  say(`\n${table(headings, rows)}`);
}

/** A path is meant from where the caller stands: npm runs us in the root. */
function writeJson(file: string | undefined, result: unknown): void {
  if (file !== undefined) writeFileSync(resolve(process.env["INIT_CWD"] ?? ".", file), `${JSON.stringify(result, null, 2)}\n`);
}
