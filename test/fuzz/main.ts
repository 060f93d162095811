// npm run fuzz -- [--requests 100000] [--seed S] [--only N]: malformed requests and answers against a real router process.
import { parseArgs } from "node:util";
import { closingLine } from "../../scripts/lib/test-count.mjs";
import { fuzz } from "./fuzz.ts";

const say = (line: string): void => void process.stdout.write(`${line}\n`);
const total = { passed: 0, failed: 0, skipped: 0 };
try {
  const { values } = parseArgs({
    options: { requests: { type: "string", default: "100000" }, seed: { type: "string" }, only: { type: "string" } },
  });
  const seed = wholeNumber("--seed", values.seed ?? String(Date.now() % 1_000_000));
  say(`seed ${seed}`);
  const stop = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => stop.abort());
  const report = await fuzz({
    requests: wholeNumber("--requests", values.requests),
    seed,
    say,
    signal: stop.signal,
    ...(values.only === undefined ? {} : { only: wholeNumber("--only", values.only) }),
  });
  for (const [kind, count] of [...report.kinds].sort()) say(`${String(count).padStart(7)}  ${kind}`);
  const statuses = [...report.statuses].sort(([a], [b]) => a - b).map(([status, count]) => `${status}: ${count}`);
  say(`answers ${statuses.join(", ")}`);
  say(
    `${report.requests} requests in ${report.seconds.toFixed(1)} s, ${report.forwarded} reached an upstream, ${report.violations.length} violations`,
  );
  for (const violation of report.violations) say(`NOT OK ${violation}`);
  total[report.violations.length === 0 ? "passed" : "failed"] += 1;
} catch (error) {
  process.stderr.write(`npm run fuzz: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
  total.failed += 1;
}
say(closingLine(total));
process.exitCode = total.failed > 0 ? 1 : 0;

function wholeNumber(option: string, text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 0) throw new RangeError(`${option} ${text}: it is a whole number`);
  return value;
}
