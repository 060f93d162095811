import { resolve } from "node:path";
import { parseArgs } from "node:util";

/** What the command line asks for. Paths are absolute. */
export interface LauncherOptions {
  readonly configFile: string;
  readonly dataDir: string;
  readonly portBase: number;
  readonly environment: "development" | "production";
}

/** The command line cannot be used. */
export class UsageError extends Error {
  override readonly name = "UsageError";
  readonly code = "usage";
  readonly retriable = false;
}

export const usage = `usage: npm start -- [--config FILE] [--data-dir DIR] [--port-base N] [--env development|production]

  --config FILE    the configuration (default examples/local/failover.yaml)
  --data-dir DIR   logs, stores and how to reach the stack (default .mcpf)
  --port-base N    the router listens on N, the console on N+1 (default 7300)
  --env NAME       which environment block of the configuration holds (default MCPF_ENV, else development)

  Every service may say its own words alone, Redis has users, and who brings no key may only look. MCPF_BUS_PERMISSIONS=off lets whoever
  reaches nats-server or redis-server do anything there. With NATS_URL it is off unless you say on
`;

/** Ports up to `N + 1499` are used: offsets reach 999, and 500 more lie behind fault proxies. */
const portBaseMax = 65_535 - 1499;

/**
 * Reads the command line. Paths given are taken from `from`, the defaults from `root`, the repository.
 * Throws {@link UsageError}; `null` when help was asked for.
 */
export function parseOptions(
  args: readonly string[],
  places: { readonly root: string; readonly from: string; readonly env: Readonly<Record<string, string | undefined>> },
): LauncherOptions | null {
  let values: { config?: string; "data-dir"?: string; "port-base"?: string; env?: string; help?: boolean };
  try {
    ({ values } = parseArgs({
      args: [...args],
      options: {
        config: { type: "string" },
        "data-dir": { type: "string" },
        "port-base": { type: "string" },
        env: { type: "string" },
        help: { type: "boolean", short: "h" },
      },
    }));
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
  if (values.help) return null;
  const portBase = Number(values["port-base"] ?? 7300);
  if (!Number.isInteger(portBase) || portBase < 1024 || portBase > portBaseMax)
    throw new UsageError(`--port-base ${values["port-base"]}: give a whole number from 1024 to ${portBaseMax}`);
  const environment = values.env ?? (places.env["MCPF_ENV"] || "development");
  if (environment !== "development" && environment !== "production")
    throw new UsageError(`${values.env === undefined ? "MCPF_ENV" : "--env"} ${environment}: it is development or production`);
  return {
    configFile: values.config === undefined ? resolve(places.root, "examples/local/failover.yaml") : resolve(places.from, values.config),
    dataDir: values["data-dir"] === undefined ? resolve(places.root, ".mcpf") : resolve(places.from, values["data-dir"]),
    portBase,
    environment,
  };
}
