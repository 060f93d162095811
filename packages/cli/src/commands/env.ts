import { join } from "node:path";
import { writeWhole } from "@mcp-failover/bus";
import { openSecrets, type Secrets } from "@mcp-failover/service-kit";
import { type ActiveVariables, readVariables, upstreamsOf, watchVariables } from "../active-variables.ts";
import type { Context } from "../context.ts";
import { CliError, type ExitCode, usageError } from "../errors.ts";
import { showVariables, type VariablesFormat } from "../variables-text.ts";

export interface EnvOptions {
  readonly format?: string;
  readonly file?: string;
  readonly watch?: boolean;
  readonly showSecrets?: boolean;
}

const formats: readonly string[] = ["export", "dotenv", "json"] satisfies VariablesFormat[];

/**
 * `mcpf env <upstreams>`: the variables of the endpoints that are active now, for `eval "$(mcpf env pinecone)"`, or as a file that `--watch` keeps current.
 * A terminal is shown the names of secrets only.
 */
export async function env(context: Context, upstreams: string, options: EnvOptions): Promise<ExitCode> {
  const { format: asked = options.file === undefined ? "export" : "dotenv", file, watch } = options;
  if (!formats.includes(asked)) throw usageError(`--format is one of ${formats.join(", ")}, not ${asked}`);
  if (watch && file === undefined) throw usageError("--watch keeps a file current: give --file FILE too");
  const format = asked as VariablesFormat;
  const names = upstreamsOf(upstreams);
  const secrets = secretsFor(context);
  const client = await context.fleet();
  const read = (): ActiveVariables => readVariables(client, names, secrets);
  if (file === undefined) {
    const active = read();
    const shown = context.terminal && !options.showSecrets ? hidden(active) : active;
    if (shown !== active) context.out.note("secrets are not shown on a terminal; --show-secrets shows them");
    const value = { endpoints: shown.routes.map(placeOf), variables: Object.fromEntries(shown.variables) };
    if (context.out.format === "table") context.out.text(showVariables(shown, format));
    else context.out.print(value, () => "", [value]);
    return 0;
  }
  const write = async (active: ActiveVariables): Promise<void> => {
    await writeFileOf(file, active, format);
    const value = { file, endpoints: active.routes.map(placeOf), variables: [...active.variables.keys()] };
    context.out.line(value, `${file}: ${[...active.variables.keys()].join(", ")} of ${whereOf(active)}`);
  };
  if (!watch) {
    await write(read());
    return 0;
  }
  const first = read();
  await write(first);
  await new Promise<void>((resolve) => {
    const watching = watchVariables(read, client, first, {
      change: write,
      problem: (text) => context.out.note(`mcpf: ${text}; ${file} stays as it is, and it is tried again`),
    });
    const end = (): void => {
      for (const signal of ends) process.off(signal, end);
      resolve(watching.stop());
    };
    for (const signal of ends) process.on(signal, end);
  });
  return 0;
}

const ends = ["SIGINT", "SIGTERM"] as const;

/** As the launcher and the services find them: the environment, else one file a secret. */
export function secretsFor(context: Context): Secrets {
  return openSecrets(context.env, context.env["MCPF_SECRETS_DIR"] ?? join(context.dataDir, "secrets"));
}

export async function writeFileOf(path: string, active: ActiveVariables, format: VariablesFormat): Promise<void> {
  const text = showVariables(active, format);
  try {
    await writeWhole(path, text);
  } catch (error) {
    throw new CliError(
      1,
      "file_not_written",
      `${path} cannot be written (${(error as NodeJS.ErrnoException).code}): give a path in a folder that is there and is yours`,
    );
  }
}

/** `pinecone/secondary (epoch 3)`, without any value. */
export function whereOf({ routes }: ActiveVariables): string {
  return routes.map(({ upstream, endpoint, epoch }) => `${upstream}/${endpoint.name} (epoch ${epoch})`).join(", ");
}

function placeOf({ upstream, endpoint, epoch, generation }: ActiveVariables["routes"][number]): object {
  return { upstream, endpoint: endpoint.name, url: endpoint.url, epoch, generation };
}

function hidden(active: ActiveVariables): ActiveVariables {
  if (active.secret.size === 0) return active;
  const variables = new Map([...active.variables].map(([name, value]) => [name, active.secret.has(name) ? "[secret]" : value]));
  return { ...active, variables };
}
