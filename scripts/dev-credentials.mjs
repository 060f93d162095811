// Plain JavaScript without imports from node_modules: it runs on whatever Node the machine has, before anything is installed.
import { join } from "node:path";
import { ensureInstall } from "./lib/ensure-install.mjs";
import { node24, ROOT, toolEnv } from "./lib/repo.mjs";
import { runChild } from "./lib/run-child.mjs";

try {
  await ensureInstall();
  const make = join(ROOT, "packages", "launcher", "src", "credentials", "main.ts");
  process.exitCode = await runChild(node24(), [make, ...process.argv.slice(2)], { env: toolEnv() });
} catch (error) {
  process.stderr.write(`dev:credentials: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
