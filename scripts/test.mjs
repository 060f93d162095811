// Finds the test files, runs them on Node 24 and counts. Runs itself on whatever Node the machine has, before anything is installed.
//
//   node scripts/test.mjs [--only unit|integration|e2e] [--concurrency N] [--stuck-after SECONDS] [--again N] [pattern...]
//
// --again N: when at most N files failed, these run again, alone, twice at most. What passes then is told as flaky: tests with real
// processes share a noisy machine, and one that fails once in fifty runs has to be seen without stopping everything else. Default 0.
//
// A pattern is a part of a file's path: `node scripts/test.mjs packages/domain/` or `... breaker.test.ts`.
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative, resolve, sep } from "node:path";
import { parseArgs } from "node:util";
import { ensureInstall } from "./lib/ensure-install.mjs";
import { ensureServers } from "./lib/ensure-servers.mjs";
import { importersOf } from "./lib/importers.mjs";
import { withMoreTries } from "./lib/more-tries.mjs";
import { node24, ROOT, toolEnv } from "./lib/repo.mjs";
import { runChild, ToldToEndError, throwIfToldToEnd } from "./lib/run-child.mjs";
import { closingLine, countTests } from "./lib/test-count.mjs";

/** What time-outs of tests are stretched by: packages/testkit, eventually.ts. */
const PATIENCE = Math.max(1, Number(process.env["MCPF_TEST_PATIENCE"] ?? 1) || 1);
/** One test, whatever it spawns; stretched with everything else that a busy machine is given time for. */
const TEST_TIMEOUT_MS = 120_000 * PATIENCE;
/**
 * Silence after which a run is stuck. node:test waits for ever for a file that leaves a timer or a socket open, and we do not
 * force its exit, because a leak has to show. Longer than the time-out that any single test sets for itself.
 */
const STUCK_AFTER_S = 600;

/** @typedef {"unit" | "integration" | "e2e"} Group */
/**
 * `concurrency`: files at once. They wait for more than half of their time; where tests are given time, as in CI, twice as many run.
 * @type {Record<Group, { concurrency: number, holds: (path: string) => boolean }>}
 */
const GROUPS = {
  unit: { concurrency: 2, holds: (path) => /^(packages|services)\/[^/]+\/test\//.test(path) },
  // From here on tests share the machine's clock and cores with real servers, and would disturb each other, but where they are given time.
  integration: { concurrency: 1, holds: (path) => /^(test|examples)\//.test(path) && !/^test\/(e2e|containers)\//.test(path) },
  e2e: { concurrency: 1, holds: (path) => path.startsWith("test/e2e/") },
};

const total = { passed: 0, failed: 0, skipped: 0 };
/** @type {string[]} tests that failed once */
const flaky = [];
/** @type {number | null} */
let toldToEnd = null;
try {
  await main();
} catch (error) {
  process.stderr.write(`npm test: ${error instanceof Error ? error.message : String(error)}\n`);
  if (error instanceof ToldToEndError) toldToEnd = error.exitCode;
  if (total.failed === 0) total.failed = 1;
}
process.stdout.write(`${closingLine(total)}\n`);
process.exitCode = toldToEnd ?? (total.failed > 0 || total.passed === 0 ? 1 : 0);

async function main() {
  const { values, positionals } = parseArgs({
    options: { only: { type: "string" }, concurrency: { type: "string" }, "stuck-after": { type: "string" }, again: { type: "string" } },
    allowPositionals: true,
  });
  const only = values.only;
  if (only !== undefined && !(only in GROUPS)) throw new RangeError(`--only ${only}: it is one of ${Object.keys(GROUPS).join(", ")}`);
  const concurrency = wholeNumber("--concurrency", values.concurrency);
  const stuckAfterMs = (wholeNumber("--stuck-after", values["stuck-after"]) ?? STUCK_AFTER_S) * 1000;
  const again = wholeNumber("--again", values.again) ?? 0;
  const plan = findTests(/** @type {Group | undefined} */ (only), positionals);

  await ensureInstall();
  const { natsServer, redisServer } = await ensureServers();
  // Each test file and each service that it starts loads about a hundred TypeScript files: what one has made of them, all others take. For this
  // run alone, so that it holds no more than one run has loaded, also of what tests wrote into folders that are gone.
  const compiled = mkdtempSync(join(tmpdir(), "mcp-failover-compiled-"));
  const env = { ...toolEnv(), NATS_SERVER_BIN: natsServer, REDIS_SERVER_BIN: redisServer, NODE_COMPILE_CACHE: compiled };
  try {
    await runPlan(plan, { concurrency, stuckAfterMs, again, env });
  } finally {
    rmSync(compiled, { recursive: true, force: true });
  }
  for (const test of flaky) process.stdout.write(`FLAKY: failed, and passed when its file ran again: ${test}\n`);
  if (total.passed + total.failed === 0) throw new Error("no test ran: every one was skipped");
}

/**
 * @param {readonly [Group, string[]][]} plan
 * @param {{ concurrency: number | undefined, stuckAfterMs: number, again: number, env: NodeJS.ProcessEnv }} options
 */
async function runPlan(plan, { concurrency, stuckAfterMs, again, env }) {
  let left = again;
  for (const [group, files] of plan) {
    process.stdout.write(`${group}: ${files.length} test ${files.length === 1 ? "file" : "files"}\n`);
    // turbo runs several workspaces at once already.
    const atOnce = process.env["TURBO_HASH"] === undefined ? GROUPS[group].concurrency * (PATIENCE >= 2 ? 2 : 1) : 1;
    const counts = await withMoreTries(files, left, (some, tryNumber) =>
      runGroup(some, tryNumber === 1 ? (concurrency ?? atOnce) : 1, stuckAfterMs, env),
    );
    left -= counts.again;
    flaky.push(...counts.flaky);
    total.passed += counts.passed;
    total.failed += counts.failed;
    total.skipped += counts.skipped;
  }
}

/** @param {string} option @param {string | undefined} text */
function wholeNumber(option, text) {
  if (text === undefined) return undefined;
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new RangeError(`${option} ${text}: it is a whole number above 0`);
  return value;
}

/**
 * @param {Group | undefined} only
 * @param {readonly string[]} patterns
 * @returns {[Group, string[]][]} absolute paths, never empty
 */
function findTests(only, patterns) {
  const matchers = patterns.map((pattern) => {
    // What exists is a file or a folder, seen from where we stand; anything else is a part of a path.
    const path = slashed(relative(ROOT, resolve(pattern)));
    const isPath = existsSync(pattern) && path !== "" && !path.startsWith("..");
    return (/** @type {string} */ file) => (isPath ? file === path || file.startsWith(`${path}/`) : file.includes(pattern));
  });
  const files = ["packages", "services", "examples", "test"].flatMap((dir) => walk(join(ROOT, dir))).sort();
  const groups = /** @type {Group[]} */ (Object.keys(GROUPS)).filter((group) => only === undefined || group === only);
  /** @type {[Group, string[]][]} */
  const plan = groups.map((group) => [
    group,
    files.filter((file) => {
      const path = slashed(relative(ROOT, file));
      return GROUPS[group].holds(path) && (matchers.length === 0 || matchers.some((matches) => matches(path)));
    }),
  ]);
  const found = plan.filter(([, some]) => some.length > 0);
  // node --test exits with 0 when nothing matches, which would make a typing error look like success.
  if (found.length === 0) throw new Error(`no test file found${patterns.length === 0 ? "" : ` for ${patterns.join(" ")}`}`);
  return found;
}

/** @param {string} path */
function slashed(path) {
  return path.split(sep).join("/");
}

/** @param {string} dir @returns {string[]} */
function walk(dir) {
  if (!existsSync(dir)) return [];
  return readdirSync(dir, { withFileTypes: true }).flatMap((entry) => {
    if (entry.isDirectory()) return entry.name === "node_modules" ? [] : walk(join(dir, entry.name));
    return entry.name.endsWith(".test.ts") ? [join(dir, entry.name)] : [];
  });
}

/**
 * @param {readonly string[]} files
 * @param {number} concurrency
 * @param {number} stuckAfterMs
 * @param {NodeJS.ProcessEnv} env
 */
async function runGroup(files, concurrency, stuckAfterMs, env) {
  const dir = mkdtempSync(join(tmpdir(), "mcp-failover-test-"));
  const report = join(dir, "events.ndjson");
  // Set by an outer node --test, it would make the inner one run nothing.
  const { NODE_TEST_CONTEXT: _, ...outer } = env;
  // Everything that a test makes is in there: what it leaves is seen, and gone with the run, also when a test was killed.
  const temporary = join(dir, "tmp");
  mkdirSync(temporary);
  const testEnv = { ...outer, TMPDIR: temporary };
  let stuck = false;
  /** @type {NodeJS.Timeout | undefined} */
  let watchdog;
  try {
    const code = await runChild(
      node24(),
      [
        "--test",
        `--test-concurrency=${concurrency}`,
        `--test-timeout=${TEST_TIMEOUT_MS}`,
        "--test-reporter=spec",
        "--test-reporter-destination=stdout",
        `--test-reporter=${new URL("./lib/test-reporter.mjs", import.meta.url).href}`,
        `--test-reporter-destination=${report}`,
        ...files,
      ],
      {
        cwd: ROOT,
        env: testEnv,
        onSpawn: (child) => {
          const startedAt = Date.now();
          watchdog = setInterval(() => {
            const lastSign = existsSync(report) ? statSync(report).mtimeMs : startedAt;
            if (stuck || Date.now() - lastSign < stuckAfterMs) return;
            stuck = true;
            process.stderr.write(
              `npm test: nothing happened for ${stuckAfterMs / 1000} s: a test file does not exit, something in it is still open\n`,
            );
            child.kill("SIGTERM");
          }, 1000);
        },
      },
    );
    throwIfToldToEnd();
    const events = existsSync(report)
      ? readFileSync(report, "utf8")
          .split("\n")
          .filter((line) => line !== "")
          .map((line) => JSON.parse(line))
      : [];
    const counts = countTests(events, files, ROOT, importersOf);
    for (const file of counts.silent) {
      process.stderr.write(`npm test: ${relative(ROOT, file)} reported no test: it declares none, ended early, or did not get its turn\n`);
    }
    // What is no test's own failure is never tried again.
    let beyondTests = stuck;
    if (stuck) counts.failed += 1;
    const left = readdirSync(temporary).filter((name) => /^mcpf?-/.test(name));
    if (left.length > 0) {
      process.stderr.write(`npm test: tests left folders behind, and each has to remove its own: ${left.join(", ")}\n`);
      // One that was ended could not remove its own.
      beyondTests ||= counts.failed === 0;
      counts.failed += 1;
    }
    // Whatever made the run end badly must be seen in the counts as well.
    if (code !== 0 && counts.failed === 0) {
      process.stderr.write(`npm test: node --test exited with ${code} although no test failed\n`);
      counts.failed = 1;
      beyondTests = true;
    }
    return { ...counts, beyondTests };
  } finally {
    clearInterval(watchdog);
    rmSync(dir, { recursive: true, force: true });
  }
}
