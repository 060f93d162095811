import type { Client, Route } from "@mcp-failover/client";
import { UnknownUpstreamError } from "@mcp-failover/domain";
import { MissingSecretError, type Secrets } from "@mcp-failover/service-kit";
import { CliError, usageError } from "./errors.ts";

/** The variables of the endpoints that are active now. Their values may be secrets: they go to a child, a file or standard output, and nowhere else. */
export interface ActiveVariables {
  readonly routes: readonly Route[];
  readonly variables: ReadonlyMap<string, string>;
  /** Names of those variables that hold a secret. */
  readonly secret: ReadonlySet<string>;
}

const upstreamsMax = 50;

/** `pinecone,neo4j` as names. */
export function upstreamsOf(text: string): readonly string[] {
  const names = [...new Set(text.split(",").map((name) => name.trim()))];
  if (names.some((name) => name === "") || names.length > upstreamsMax)
    throw usageError(`give the names of 1 to ${upstreamsMax} upstreams with commas between, not ${JSON.stringify(text)}`);
  return names;
}

/**
 * Reads what is active, and resolves its variables. An upstream without `env:` gives its URL as `<NAME>_URL`. Throws {@link CliError} for an upstream that is not
 * configured, a secret that is missing, and a variable that two upstreams give different values.
 */
export function readVariables(client: Client, upstreams: readonly string[], secrets: Secrets): ActiveVariables {
  const variables = new Map<string, string>();
  const secret = new Set<string>();
  const from = new Map<string, string>();
  const routes: Route[] = [];
  for (const upstream of upstreams) {
    const { route, own } = variablesOf(client, upstream, secrets);
    routes.push(route);
    for (const { name, value, isSecret } of own) {
      // Node's own error would repeat the value.
      if (value.includes("\0"))
        throw usageError(`${name} of ${upstream} holds a NUL, which no variable can: correct its secret`, "variable_nul");
      if (variables.has(name) && variables.get(name) !== value)
        throw usageError(
          `${from.get(name)} and ${upstream} both set ${name}: give one of them another name under env:`,
          "variable_conflict",
        );
      variables.set(name, value);
      from.set(name, upstream);
      if (isSecret) secret.add(name);
    }
  }
  return { routes, variables, secret };
}

interface OwnVariable {
  readonly name: string;
  readonly value: string;
  readonly isSecret: boolean;
}

function variablesOf(client: Client, upstream: string, secrets: Secrets): { route: Route; own: OwnVariable[] } {
  try {
    const config = client.configuration(upstream);
    const route = client.route(upstream);
    const endpoint = config.endpoints.find(({ name }) => name === route.endpoint.name);
    const of = { url: route.endpoint.url, host: new URL(route.endpoint.url).host, name: route.endpoint.name };
    const shared = Object.entries(config.env ?? {}).map(([name, what]) => ({ name, value: of[what], isSecret: false }));
    const own = Object.entries(endpoint?.env ?? {}).map(([name, value]) => ({
      name,
      value: secrets.resolve(value),
      isSecret: typeof value !== "string",
    }));
    const all = [...new Map([...shared, ...own].map((one) => [one.name, one])).values()];
    return { route, own: all.length > 0 ? all : [{ name: urlVariable(upstream), value: of.url, isSecret: false }] };
  } catch (error) {
    if (error instanceof UnknownUpstreamError) throw usageError(error.message, error.code);
    if (error instanceof MissingSecretError) throw new CliError(1, error.code, error.message);
    throw error;
  }
}

/** `my-index` gives `MY_INDEX_URL`. */
function urlVariable(upstream: string): string {
  const name = upstream.toUpperCase().replaceAll(/[^A-Z0-9]/g, "_");
  return `${/^[0-9]/.test(name) ? "_" : ""}${name}_URL`;
}

/**
 * Calls `onChange` with the first variables, and whenever they have changed: after a failover, or under another configuration. What cannot be read is said to
 * `onProblem`, and the last variables stay in force.
 */
export function watchVariables(
  read: () => ActiveVariables,
  client: Client,
  on: { change(variables: ActiveVariables): void; problem(error: unknown): void },
): { stop(): void } {
  let last = "";
  const look = (): void => {
    try {
      const now = read();
      const text = JSON.stringify([...now.variables]);
      if (text === last) return;
      last = text;
      on.change(now);
    } catch (error) {
      on.problem(error);
    }
  };
  const watching = [client.watchRoutes(look), client.watchConfiguration(look)];
  return {
    stop: () => {
      for (const one of watching) one.stop();
    },
  };
}
