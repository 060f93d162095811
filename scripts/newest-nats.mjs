// Builds the newest nats-server that the tests know into the user's cache, where Go is installed. Does nothing where it is there already.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

/** As in packages/testkit/src/newest-nats.ts. */
const version = "2.15.2";
const folder = join(process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache"), "mcpf", `nats-server-${version}`);

if (existsSync(join(folder, "nats-server"))) {
  process.stdout.write(`${folder} has it already\n`);
} else if (spawnSync("go", ["version"], { stdio: "ignore" }).status !== 0) {
  process.stderr.write(`go is not installed, so nats-server ${version} is not built, and the tests that need it are skipped\n`);
  process.exitCode = 1;
} else {
  const { status } = spawnSync("go", ["install", `github.com/nats-io/nats-server/v2@v${version}`], {
    stdio: "inherit",
    env: { ...process.env, GOBIN: folder },
  });
  process.exitCode = status ?? 1;
}
