// Builds the newest nats-server that the tests know into the user's cache (`~/.cache/mcpf`), where Go is installed and its module proxy is
// reached: also Debian's Go, which is older than the server wants. Does nothing where it is there already.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { findGo, natsServerCache, natsServerModule } from "./lib/newest-nats-server.mjs";

/** As in packages/testkit/src/newest-nats.ts. */
const version = "2.15.2";

process.exitCode = main();

function main() {
  const folder = natsServerCache(version);
  if (existsSync(join(folder, "nats-server"))) {
    process.stdout.write(`${folder} has it already\n`);
    return 0;
  }
  const go = findGo((line) => process.stdout.write(`${line}\n`));
  if ("problem" in go) {
    process.stderr.write(`nats-server ${version} is not built, and the tests that need it are skipped: ${go.problem}\n`);
    return 1;
  }
  const env = { ...process.env, ...go.env, GOBIN: folder };
  const { status } = spawnSync(go.program, ["install", natsServerModule(version)], { stdio: "inherit", env });
  return status ?? 1;
}
