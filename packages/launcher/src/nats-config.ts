import { existsSync, renameSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { CredentialsError } from "@mcp-failover/bus";
import { coreAccount } from "@mcp-failover/contracts";
import { makeCredentials, serverFiles } from "./credentials/make-credentials.ts";
import { UsageError } from "./options.ts";

/** Permissions on the bus (docs/adr/0009), and users of our own Redis: `on` or `off`. */
const variable = "MCPF_BUS_PERMISSIONS";
/** The account of a server without accounts. */
const globalAccount = "$G";

type Environment = Readonly<Record<string, string | undefined>>;

export function natsConfigFile(dataDir: string): string {
  return join(dataDir, "nats.conf");
}

/** The folder of the bus's credentials; null for a bus without permissions. Throws {@link UsageError}. */
export function credentialsFolder(env: Environment, dataDir: string): string | null {
  return wantsPermissions(env) ? join(dataDir, "credentials") : null;
}

/** By default on our own server alone: somebody else's has to have taken in the accounts first. Throws {@link UsageError}. */
function wantsPermissions(env: Environment): boolean {
  const wanted = env[variable] || (env["NATS_URL"] ? "off" : "on");
  if (wanted !== "on" && wanted !== "off") throw new UsageError(`${variable} ${wanted}: it is on or off`);
  return wanted === "on";
}

/** Makes the credentials, if any, and the configuration of our nats-server, which must not run yet: its streams may have to move. */
export function prepareBus(options: {
  readonly env: Environment;
  readonly dataDir: string;
  readonly port: number;
  readonly credentials: string | null;
}): void {
  const { env, dataDir, port, credentials } = options;
  const isOurs = !env["NATS_URL"];
  // Whoever runs a server of their own puts them there, and has their server take in `nats/accounts.conf`.
  if (credentials !== null) makeOwn(credentials, () => makeCredentials({ folder: credentials, nowMs: Date.now(), onlookers: isOurs }));
  if (!isOurs) return;
  if (credentials === null) moveStreams(dataDir, coreAccount, globalAccount);
  else moveStreams(dataDir, globalAccount, coreAccount);
  writeFileSync(natsConfigFile(dataDir), natsConfig({ dataDir, port, credentials }), { mode: 0o600 });
}

/** Makes something in our own folder of credentials. Throws CredentialsError where it is somebody else's. */
export function makeOwn(folder: string, make: () => void): void {
  try {
    make();
  } catch (error) {
    const { code = "" } = error as NodeJS.ErrnoException;
    if (!["EACCES", "EPERM"].includes(code)) throw error;
    // As those are that were made for containers.
    throw new CredentialsError(`${folder} belongs to another user (${code}): give another --data-dir, or move it away`);
  }
}

/** The configuration of nats-server for the local stack: on loopback, so without TLS, and with onlookers; with accounts where there are credentials. */
function natsConfig(options: { readonly dataDir: string; readonly port: number; readonly credentials: string | null }): string {
  const { dataDir, port, credentials } = options;
  return [
    `host: "127.0.0.1"`,
    `port: ${port}`,
    "max_payload: 1MB",
    // On a busy machine a client needs longer for its proof than the 2 s that are the default.
    "authorization { timeout: 10 }",
    // The streams' limits add up to more than the default on a small disk, three quarters of what is free: it would refuse to make them. See infra/nats.
    `jetstream { store_dir: ${JSON.stringify(join(dataDir, "nats"))}, max_file_store: 16GB }`,
    // Taken from the folder of this file; the other paths from that of the process.
    ...(credentials === null ? [] : [`include ${JSON.stringify(relative(dataDir, join(credentials, "nats", serverFiles.accounts)))}`]),
    "",
  ].join("\n");
}

/** Streams belong to an account, in whose folder they lie: those of a stack without permissions go on in one with them, and the other way round. */
function moveStreams(dataDir: string, from: string, to: string): void {
  const folder = (account: string): string => join(dataDir, "nats", "jetstream", account);
  if (existsSync(folder(from)) && !existsSync(folder(to))) renameSync(folder(from), folder(to));
}
