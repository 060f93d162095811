// npm run soak -- [--minutes 10] [--case NAME] [--quick]: a fresh stack a case, 300 calls a second, and nothing may move.
import { parseArgs } from "node:util";
import { closingLine } from "../../scripts/lib/test-count.mjs";
import { table } from "../bench/table.ts";
import { cases } from "./cases.ts";
import { type SoakResult, soak, stillMoves } from "./soak.ts";
import { startWorld } from "./world.ts";

const callsPerSecond = 300;
const quickMs = 15_000;
/** After a clock has jumped nothing automatic happens for 30 s. */
const stillMovesMs = 60_000;

const say = (line: string): void => void process.stdout.write(`${line}\n`);
const total = { passed: 0, failed: 0, skipped: 0 };
const results: SoakResult[] = [];
try {
  const { values } = parseArgs({
    options: { minutes: { type: "string", default: "10" }, case: { type: "string" }, quick: { type: "boolean", default: false } },
  });
  const minutes = Number(values.minutes);
  if (!(minutes > 0)) throw new RangeError(`--minutes ${values.minutes}: it is a number above 0`);
  const chosen = cases.filter(({ name }) => values.case === undefined || values.case === name);
  if (chosen.length === 0) throw new RangeError(`--case ${values.case}: it is one of ${cases.map(({ name }) => name).join(", ")}`);
  for (const one of chosen) await runCase(one, values.quick ? quickMs : minutes * 60_000);
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
} catch (error) {
  process.stderr.write(`npm run soak: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
  total.failed += 1;
}
say(closingLine(total));
process.exitCode = total.failed > 0 ? 1 : 0;

async function runCase(one: (typeof cases)[number], durationMs: number): Promise<void> {
  say(`== ${one.name}: ${one.what}`);
  const world = await startWorld(callsPerSecond);
  try {
    const result = await soak(world, one, durationMs, say);
    results.push(result);
    for (const move of result.moves) say(`  MOVED: ${move}`);
    if (result.moves.length > 0) total.failed += 1;
    else {
      const movedMs = await stillMoves(world, stillMovesMs);
      say(`  nothing moved; then the active endpoint was killed, and it moved after ${Math.round(movedMs)} ms`);
      total.passed += 1;
    }
  } finally {
    await world.stop();
  }
}
