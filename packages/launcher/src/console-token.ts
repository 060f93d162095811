import { join } from "node:path";
import { consoleTokenFile, openSecrets, readConsoleTokens } from "@mcp-failover/service-kit";
import { makeConsoleToken } from "./credentials/make-credentials.ts";
import { makeOwn } from "./nats-config.ts";

const secretName = "MCPF_CONSOLE_TOKEN";

export interface ConsoleToken {
  /** What the console is given in its environment; where it has credentials it reads the token there, and sees a new one without a restart. */
  readonly env: Readonly<Record<string, string>>;
  /** Where a person finds it. */
  readonly place: string;
  /** The console's address with the token in it, for a browser. What is behind "#" is sent to nobody. */
  link(consoleUrl: string): string;
}

/**
 * The token of those who may act in the console of a local stack: the secret `MCPF_CONSOLE_TOKEN`, else one that is made once and lies in
 * `credentials/cli` of the data directory, with permissions on the bus and without. Throws TokenError and CredentialsError.
 */
export function consoleToken(options: {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly dataDir: string;
  /** The folder of the credentials of the bus; null: a bus without permissions. */
  readonly credentials: string | null;
}): ConsoleToken {
  const folder = options.credentials ?? join(options.dataDir, "credentials");
  const secrets = openSecrets(options.env, undefined);
  const isGiven = secrets.has(secretName);
  if (!isGiven) makeOwn(folder, () => makeConsoleToken(folder));
  const own = join(folder, "cli");
  const [token = ""] = readConsoleTokens(secrets, own);
  return {
    env: options.credentials === null ? { [secretName]: token } : {},
    place: isGiven ? `the secret ${secretName}` : join(own, consoleTokenFile),
    link: (consoleUrl) => `${consoleUrl}/#token=${encodeURIComponent(token)}`,
  };
}
