import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { CredentialsError, connectBus, readCredentials } from "@mcp-failover/bus";
import { ConfigError } from "@mcp-failover/contracts";
import { baseEnvironment, EnvironmentError, openSecrets, parseEnvironment } from "@mcp-failover/service-kit";
import { bootstrap } from "./bootstrap.ts";
import { bootstrapEnvironment } from "./config.ts";

// A one-shot: it ends with 0 when everything is there, 1 when it could not be made, 2 when environment or configuration are wrong.
process.exitCode = await main();

async function main(): Promise<number> {
  let redact = (text: string): string => text;
  const complain = (text: string): void => {
    process.stderr.write(`${redact(text)}\n`);
  };
  try {
    const base = parseEnvironment(baseEnvironment, process.env);
    const config = parseEnvironment(bootstrapEnvironment, process.env);
    const secrets = openSecrets(process.env, base.MCPF_SECRETS_DIR);
    redact = secrets.redact;
    const text = await readConfiguration(config.MCPF_CONFIG);
    const instance = base.MCPF_INSTANCE ?? `bootstrap-${randomUUID().slice(0, 8)}`;
    const credentials = base.MCPF_CREDENTIALS_DIR === undefined ? {} : { credentials: readCredentials(base.MCPF_CREDENTIALS_DIR) };
    const bus = connectBus({ servers: base.NATS_URL, name: `bootstrap/${instance}`, instance, ...credentials });
    try {
      await bootstrap({
        bus,
        text,
        file: config.MCPF_CONFIG,
        env: process.env,
        environment: config.MCPF_ENV,
        routerUrls: config.MCPF_ROUTER_URL,
        hasSecret: secrets.has,
        replicas: config.MCPF_NATS_REPLICAS,
        waitMs: config.MCPF_BOOTSTRAP_WAIT_MS,
        instance,
        nowMs: () => Date.now(),
        say: (line) => process.stdout.write(`bootstrap: ${redact(line)}\n`),
      });
      return 0;
    } finally {
      await bus.close();
    }
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    complain(`bootstrap: ${error.message}`);
    return error instanceof ConfigError || error instanceof EnvironmentError || error instanceof CredentialsError ? 2 : 1;
  }
}

async function readConfiguration(file: string): Promise<string> {
  try {
    return await readFile(file, "utf8");
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "unreadable";
    throw new ConfigError(
      [{ path: "(file)", line: null, message: `cannot be read (${code}): set MCPF_CONFIG to the path of failover.yaml` }],
      file,
    );
  }
}
