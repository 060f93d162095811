// Everything that can be said about the repository without starting the stack. turbo decides what to run again.
//
//   node scripts/verify.mjs [--static] [what turbo takes]
//
// --static leaves the tests out: CI runs them all afterwards, by `npm test`.
import { readFileSync } from "node:fs";
import { ensureInstall } from "./lib/ensure-install.mjs";
import { ensureServers } from "./lib/ensure-servers.mjs";
import { localBin, ROOT, toolEnv } from "./lib/repo.mjs";
import { runChild } from "./lib/run-child.mjs";
import { closingLine } from "./lib/test-count.mjs";

const STATIC_TASKS = ["workspace-rules", "import-rules", "lint", "knip", "typecheck"];
const words = process.argv.slice(2);
const tasks = words.includes("--static") ? STATIC_TASKS : [...STATIC_TASKS, "test"];

const total = { passed: 0, failed: 0, skipped: 0 };
try {
  await ensureInstall();
  await verify();
} catch (error) {
  process.stderr.write(`npm run verify: ${error instanceof Error ? error.message : String(error)}\n`);
  total.failed += 1;
}
process.stdout.write(`${closingLine(total)}\n`);
process.exitCode = total.failed > 0 || total.passed === 0 ? 1 : 0;

async function verify() {
  const { natsServer, redisServer } = await ensureServers();
  let output = "";
  const code = await runChild(
    localBin("turbo"),
    ["run", ...tasks, "--continue=always", "--output-logs=errors-only", "--summarize", ...words.filter((word) => word !== "--static")],
    {
      cwd: ROOT,
      env: { ...toolEnv(), NATS_SERVER_BIN: natsServer, REDIS_SERVER_BIN: redisServer, TURBO_TELEMETRY_DISABLED: "1", DO_NOT_TRACK: "1" },
      stdio: ["ignore", "pipe", "inherit"],
      onSpawn: (child) => {
        child.stdout?.on("data", (/** @type {Buffer} */ chunk) => {
          output += chunk.toString("utf8");
          process.stdout.write(chunk);
        });
      },
    },
  );
  countTasks(output);
  if (code !== 0 && total.failed === 0) throw new Error(`turbo exited with ${code}`);
}

/**
 * One passed or failed a task of turbo; the counts of the tests themselves stand in the output of each `test` task.
 * @param {string} output of turbo, which names the file that summarises the run
 */
function countTasks(output) {
  const file = /Summary:\s+(\S+\.json)/.exec(output)?.[1];
  if (file === undefined) throw new Error("turbo did not say where its summary is");
  /** @type {{ taskId: string, command: string, execution?: { exitCode?: number | null }, cache: { status: string } }[]} */
  const ran = JSON.parse(readFileSync(file, "utf8")).tasks;
  for (const { taskId, command, execution, cache } of ran) {
    if (command === "<NONEXISTENT>") continue;
    if (execution?.exitCode === 0 || cache.status === "HIT") total.passed += 1;
    else {
      total.failed += 1;
      process.stdout.write(`failed: ${taskId}\n`);
    }
  }
}
