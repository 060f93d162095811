import { accessSync, constants } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

/** The newest server that the tests know; `node scripts/newest-nats.mjs` builds it where Go is installed. */
const newestNatsVersion = "2.15.2";

/** Path of the newest nats-server, or why it is not there: what needs replicas, or shall hold on it too, is skipped with that reason. */
export function newestNats(): { readonly binary: string } | { readonly missing: string } {
  const cache = process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache");
  const binary = process.env["NATS_SERVER_NEWEST_BIN"] || join(cache, "mcpf", `nats-server-${newestNatsVersion}`, "nats-server");
  try {
    accessSync(binary, constants.X_OK);
    return { binary };
  } catch {
    return { missing: `nats-server ${newestNatsVersion} is not built: run \`node scripts/newest-nats.mjs\`, which needs Go` };
  }
}
