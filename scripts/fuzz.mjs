// Fuzzes the router on Node 24; runs itself on whatever Node the machine has.
import { join } from "node:path";
import { ensureInstall } from "./lib/ensure-install.mjs";
import { ensureServers } from "./lib/ensure-servers.mjs";
import { node24, ROOT, toolEnv } from "./lib/repo.mjs";
import { runChild } from "./lib/run-child.mjs";
import { closingLine } from "./lib/test-count.mjs";

try {
  await ensureInstall();
  const { natsServer, redisServer } = await ensureServers();
  const main = join(ROOT, "test", "fuzz", "main.ts");
  const env = { ...toolEnv(), NATS_SERVER_BIN: natsServer, REDIS_SERVER_BIN: redisServer };
  process.exitCode = await runChild(node24(), [main, ...process.argv.slice(2)], { cwd: ROOT, env });
} catch (error) {
  process.stderr.write(`npm run fuzz: ${error instanceof Error ? error.message : String(error)}\n`);
  process.stdout.write(`${closingLine({ passed: 0, failed: 1, skipped: 0 })}\n`);
  process.exitCode = 1;
}
