// npm run bench -- [NAME... | all] [--json FILE] [--quick] [--again N] [--<option> VALUE]...
// --again N: when at most N benchmarks missed a bound, these run once more at the end, and the second measurement counts; both are shown.
import { readdirSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { closingLine } from "../../scripts/lib/test-count.mjs";
import type { Benchmark, Measured } from "./benchmark.ts";
import { table } from "./table.ts";

/** Its own test points it at other benchmarks. */
const dir = process.env["MCPF_BENCH_DIR"] ?? fileURLToPath(new URL(".", import.meta.url));
const suffix = ".bench.ts";
const total = { passed: 0, failed: 0, skipped: 0 };
const say = (line: string): void => void process.stdout.write(`${line}\n`);

interface Asked {
  readonly names: readonly string[];
  readonly jsonFile: string | null;
  readonly quick: boolean;
  readonly again: number;
  readonly args: Readonly<Record<string, string>>;
}

try {
  const known = readdirSync(dir)
    .filter((file) => file.endsWith(suffix))
    .map((file) => file.slice(0, -suffix.length))
    .sort();
  const asked = readArguments(process.argv.slice(2));
  if (asked.names.length === 0) await list(known);
  else await runAll(asked.names.includes("all") ? known : asked.names, known, asked);
} catch (error) {
  process.stderr.write(`npm run bench: ${error instanceof Error ? error.message : String(error)}\n`);
  total.failed += 1;
}
say(closingLine(total));
process.exitCode = total.failed > 0 ? 1 : 0;

function readArguments(words: readonly string[]): Asked {
  const names: string[] = [];
  const args: Record<string, string> = {};
  for (let index = 0; index < words.length; index += 1) {
    const word = words[index] as string;
    if (!word.startsWith("--")) names.push(word);
    else if (word.includes("=")) args[word.slice(2, word.indexOf("="))] = word.slice(word.indexOf("=") + 1);
    else {
      const next = words[index + 1];
      const hasValue = word !== "--quick" && next !== undefined && !next.startsWith("--");
      args[word.slice(2)] = hasValue ? next : "true";
      if (hasValue) index += 1;
    }
  }
  const { json = null, quick, again: againText = "0", ...own } = args;
  const again = Number(againText);
  if (!Number.isInteger(again) || again < 0) throw new RangeError(`--again ${againText}: it is a whole number`);
  if (json !== null && (names.length !== 1 || names[0] === "all")) throw new RangeError("--json FILE is for one benchmark at a time");
  // npm runs us in the root; a path is meant from where the caller stands.
  return {
    names,
    jsonFile: json === null ? null : resolve(process.env["INIT_CWD"] ?? ".", json),
    quick: quick === "true",
    again,
    args: own,
  };
}

async function load(name: string): Promise<Benchmark> {
  const { bench } = (await import(pathToFileURL(join(dir, `${name}${suffix}`)).href)) as { bench: Benchmark };
  return bench;
}

async function list(known: readonly string[]): Promise<void> {
  say("npm run bench -- NAME [--json FILE] [--quick] [options]; `all` runs every one\n");
  for (const name of known) {
    const { what, notMeasured, options = {} } = await load(name);
    say(`${name}\n  ${what}\n  Not measured: ${notMeasured}`);
    for (const [option, meaning] of Object.entries(options)) say(`  --${option}  ${meaning}`);
  }
}

async function runAll(names: readonly string[], known: readonly string[], asked: Asked): Promise<void> {
  const missed: { readonly name: string; readonly counted: Counted }[] = [];
  for (const name of names) {
    if (!known.includes(name)) throw new RangeError(`there is no benchmark ${name}; there are ${known.join(", ")}`);
    const counted = await runOne(name, asked);
    if (counted.failed > 0) missed.push({ name, counted });
  }
  if (missed.length > asked.again) return;
  for (const { name, counted } of missed) {
    say(`AGAIN: ${name} missed ${counted.failed} of its bounds; the second measurement counts`);
    total.passed -= counted.passed;
    total.failed -= counted.failed;
    await runOne(name, asked);
  }
}

interface Counted {
  readonly passed: number;
  readonly failed: number;
}

/** What it added to the total: its bounds, or one failure where it ended with an error. */
async function runOne(name: string, asked: Asked): Promise<Counted> {
  const bench = await load(name);
  const strange = Object.keys(asked.args).find((option) => !(option in (bench.options ?? {})));
  if (strange !== undefined) throw new RangeError(`--${strange}: ${name} has no such option; run \`npm run bench\` to see what it has`);
  say(`== ${name}${asked.quick ? " (quick)" : ""}\n${bench.what}\nNot measured: ${bench.notMeasured}`);
  const startedAt = new Date().toISOString();
  const startedMs = performance.now();
  let measured: Measured;
  try {
    measured = await bench.run({ args: asked.args, say, quick: asked.quick });
  } catch (error) {
    // The others still run.
    process.stderr.write(`${name}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
    return count({ passed: 0, failed: 1 });
  }
  show(measured);
  say(`${((performance.now() - startedMs) / 1000).toFixed(1)} s\n`);
  if (asked.jsonFile !== null) {
    const machine = { node: process.version, cores: cpus().length, processor: cpus()[0]?.model ?? "unknown" };
    writeFileSync(asked.jsonFile, `${JSON.stringify({ name, startedAt, quick: asked.quick, machine, ...measured }, null, 2)}\n`);
  }
  const passed = measured.bounds.filter(({ held }) => held).length;
  return count({ passed, failed: measured.bounds.length - passed });
}

function count(counted: Counted): Counted {
  total.passed += counted.passed;
  total.failed += counted.failed;
  return counted;
}

function show({ ratios, bounds }: Measured): void {
  const rows = Object.entries(ratios).map(([name, ratio]) => [name, short(ratio)]);
  if (rows.length > 0) say(`\n${table(["ratio", "value"], rows)}`);
  if (bounds.length > 0)
    say(
      `\n${table(
        ["bound", "limit", "measured", "unit", ""],
        bounds.map((bound) => [bound.name, short(bound.limit), short(bound.value), bound.unit, bound.held ? "held" : "NOT HELD"]),
      )}`,
    );
}

function short(value: number): string {
  return Math.abs(value) >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
}
