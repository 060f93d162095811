// Runs the simulation on Node 24; runs itself on whatever Node the machine has.
import { join } from "node:path";
import { ensureInstall } from "./lib/ensure-install.mjs";
import { node24, ROOT, toolEnv } from "./lib/repo.mjs";
import { runChild } from "./lib/run-child.mjs";
import { closingLine } from "./lib/test-count.mjs";

/**
 * Every core has a run of its own, so that threads which collect garbage beside it only take its time; and what is old is worth collecting
 * where it has grown to five times what was left of it, because a run throws nearly all of it away at its end.
 */
const engine = ["--single-threaded-gc", "--heap-growing-percent=400"];

try {
  await ensureInstall();
  const main = join(ROOT, "test", "sim", "main.ts");
  process.exitCode = await runChild(node24(), [...engine, main, ...process.argv.slice(2)], { env: toolEnv() });
} catch (error) {
  process.stderr.write(`npm run sim: ${error instanceof Error ? error.message : String(error)}\n`);
  process.stdout.write(`${closingLine({ passed: 0, failed: 1, skipped: 0 })}\n`);
  process.exitCode = 1;
}
