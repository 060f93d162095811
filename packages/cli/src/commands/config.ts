import { readFileSync } from "node:fs";
import { applyConfiguration, ConfigTooLargeError, configurationInForce } from "@mcp-failover/client";
import { ConfigError, configurationLimits, type ParsedTopology, parseTopology } from "@mcp-failover/contracts";
import type { Context } from "../context.ts";
import { CliError, type ExitCode, usageError } from "../errors.ts";
import type { ChangeOptions } from "./changes.ts";
import { secretsFor } from "./env.ts";

const defaultFile = "failover.yaml";

/** `mcpf config validate [FILE]`: 2 with every problem, its path and what to do. */
export async function validate(context: Context, file: string | undefined): Promise<ExitCode> {
  const { topology, hash } = await load(context, file ?? defaultFile);
  const upstreams = Object.keys(topology.upstreams);
  context.out.print(
    { valid: true, hash, upstreams },
    () => `${file ?? defaultFile} is valid: ${upstreams.length} upstreams (${upstreams.join(", ")}), hash ${hash.slice(0, 12)}`,
  );
  return 0;
}

/**
 * `mcpf config apply FILE --reason TEXT`: the next version in the log. Without `--env` and `MCPF_ENV` the environment in force stays: who
 * changes one address must not switch the fleet to the other one's policies, and need not know which one it runs in.
 */
export async function apply(context: Context, file: string, options: ChangeOptions & { env?: string }): Promise<ExitCode> {
  if (options.reason === undefined || options.reason.trim() === "") throw usageError("a change needs --reason TEXT");
  const wanted = options.env ?? (context.env["MCPF_ENV"] || undefined);
  if (wanted !== undefined && wanted !== "development" && wanted !== "production")
    throw usageError(`--env is development or production, not ${wanted}`);
  const { topology, hash } = await load(context, file);
  const bus = await context.bus();
  const inForce = (await configurationInForce(bus))?.environment ?? null;
  const environment = wanted ?? inForce ?? "development";
  if (inForce !== null && inForce !== environment) context.out.note(`the environment changes from ${inForce} to ${environment}`);
  const upstreams = Object.keys(topology.upstreams).length;
  await context.confirm(`Apply ${file} (${upstreams} upstreams) for ${environment}?`, options.yes ?? false);
  try {
    const result = await applyConfiguration(bus, {
      topology,
      hash,
      fileHash: hash,
      environment,
      by: context.by(),
      reason: options.reason,
      service: "cli",
      instance: context.newId(),
      nowMs: context.nowMs(),
      onlyIfFileChanged: false,
    });
    context.out.print({ ...result, environment }, () =>
      result.applied
        ? `version ${result.version} is applied for ${environment}`
        : `nothing to do: version ${result.version} is the same, for ${environment}`,
    );
    return 0;
  } catch (error) {
    if (error instanceof ConfigTooLargeError) throw usageError(error.message, error.code);
    throw error;
  }
}

/** A configuration file, read as `mcpf config apply` reads it. Throws a {@link CliError} of wrong usage that says what to mend. */
export async function load(context: Context, file: string): Promise<ParsedTopology> {
  let text: string;
  try {
    const bytes = readFileSync(file);
    const { bytesMax } = configurationLimits;
    if (bytes.length > bytesMax) throw usageError(`${file} has ${bytes.length} bytes; a configuration has at most ${bytesMax}`);
    text = bytes.toString("utf8");
  } catch (error) {
    if (error instanceof CliError) throw error;
    throw usageError(`${file} cannot be read (${(error as NodeJS.ErrnoException).code}): give the path of a failover.yaml`, "no_file");
  }
  const secrets = secretsFor(context);
  const { routerUrl, ports } = await context.stack().catch(() => ({ routerUrl: context.env["MCPF_ROUTER_URL"] ?? null, ports: {} }));
  try {
    return parseTopology(text, {
      file,
      // As the launcher does: the file that the stack was started with means the same processes here.
      env: { ...context.env, ...ports },
      hasSecret: (name) => secrets.has(name),
      routerUrls: routerUrl === null ? ["http://127.0.0.1:7300"] : [routerUrl],
    });
  } catch (error) {
    if (error instanceof ConfigError) throw usageError(error.message, error.code);
    throw error;
  }
}
