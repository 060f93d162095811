import { existsSync, renameSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { coreAccount } from "@mcp-failover/contracts";
import { makeCredentials, serverFiles } from "./credentials/make-credentials.ts";

/** Permissions on the bus (docs/adr/0009): `on` or `off`. */
const variable = "MCPF_BUS_PERMISSIONS";
/** The account of a server without accounts. */
const globalAccount = "$G";

export function natsConfigFile(dataDir: string): string {
  return join(dataDir, "nats.conf");
}

/**
 * Makes the credentials of the bus and the configuration of our nats-server. Returns the folder of the credentials; null for a bus without
 * permissions.
 */
export function prepareBus(options: {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly dataDir: string;
  readonly port: number;
}): string | null {
  const { env, dataDir, port } = options;
  const wanted = env[variable] === "on";
  if (!wanted) {
    if (!env["NATS_URL"]) moveStreams(dataDir, coreAccount, globalAccount);
    return null;
  }
  // Whoever runs a server of their own puts them there, and has their server take in `nats/accounts.conf`.
  const folder = join(dataDir, "credentials");
  makeCredentials({ folder, nowMs: Date.now() });
  if (!env["NATS_URL"]) {
    moveStreams(dataDir, globalAccount, coreAccount);
    writeFileSync(natsConfigFile(dataDir), natsConfig({ dataDir, port, credentials: folder }), { mode: 0o600 });
  }
  return folder;
}

/** The configuration of nats-server for the local stack: on loopback, so without TLS; who brings no key is refused. */
function natsConfig(options: { readonly dataDir: string; readonly port: number; readonly credentials: string }): string {
  return [
    `host: "127.0.0.1"`,
    `port: ${options.port}`,
    "max_payload: 1MB",
    // On a busy machine a client needs longer for its proof than the 2 s that are the default.
    "authorization { timeout: 10 }",
    `jetstream { store_dir: ${JSON.stringify(join(options.dataDir, "nats"))} }`,
    // Taken from the folder of this file; the other paths from that of the process.
    `include ${JSON.stringify(relative(options.dataDir, join(options.credentials, "nats", serverFiles.accounts)))}`,
    "",
  ].join("\n");
}

/** Streams belong to an account, in whose folder they lie: those of a stack without permissions go on in one with them, and the other way round. */
function moveStreams(dataDir: string, from: string, to: string): void {
  const folder = (account: string): string => join(dataDir, "nats", "jetstream", account);
  if (existsSync(folder(from)) && !existsSync(folder(to))) renameSync(folder(from), folder(to));
}
