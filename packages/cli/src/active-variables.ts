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
  /** Names that other endpoints of these upstreams set, and the active ones do not: what holds them is of an endpoint that was left. */
  readonly unset: readonly string[];
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
  const names = new Set<string>();
  for (const upstream of upstreams) {
    const { route, own, all } = variablesOf(client, upstream, secrets);
    routes.push(route);
    for (const name of all) names.add(name);
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
  return { routes, variables, secret, unset: [...names].filter((name) => !variables.has(name)) };
}

interface OwnVariable {
  readonly name: string;
  readonly value: string;
  readonly isSecret: boolean;
}

/** `all`: the names that any endpoint sets. */
function variablesOf(client: Client, upstream: string, secrets: Secrets): { route: Route; own: OwnVariable[]; all: string[] } {
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
    const url = urlVariable(upstream);
    const set = [...new Map([...shared, ...own].map((one) => [one.name, one])).values()];
    const all = config.endpoints.flatMap(({ env = {} }) => {
      const names = Object.keys({ ...config.env, ...env });
      return names.length > 0 ? names : [url];
    });
    return { route, own: set.length > 0 ? set : [{ name: url, value: of.url, isSecret: false }], all };
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

/** Whether two are the same: what a program is given, without the places that it is of. */
export function textOf({ variables }: ActiveVariables): string {
  return JSON.stringify([...variables]);
}

/** A disk that was full, a folder that a deploy replaces, a secret that comes after the failover: nothing else would tell of them when they are over. */
const againMs = 1000;

/**
 * Calls `change` with the newest variables whenever they are others than those in force: after a failover, or under another configuration. One call at a time.
 * What cannot be read or fails is said to `problem`, each sentence once, and tried again every second with the variables that are newest then, until it is done.
 * `stop` ends that, and is over when nothing is being done any more.
 */
export function watchVariables(
  read: () => ActiveVariables,
  client: Client,
  inForce: ActiveVariables,
  on: { change(variables: ActiveVariables): Promise<void>; problem(text: string, during: "read" | "change"): void },
): { stop(): Promise<void> } {
  // Null: a change is being made, or was made in part.
  let done: string | null = textOf(inForce);
  let told = "";
  let running: Promise<void> | null = null;
  let lookAgain = false;
  let later: NodeJS.Timeout | undefined;
  let stopped = false;
  const settle = async (): Promise<void> => {
    let during: "read" | "change" = "read";
    try {
      const now = read();
      if (textOf(now) !== done) {
        during = "change";
        done = null;
        await on.change(now);
        done = textOf(now);
      }
      told = "";
    } catch (error) {
      const text = sayProblem(error);
      if (text !== told) on.problem(text, during);
      told = text;
      if (!stopped) later = setTimeout(look, againMs);
    }
  };
  const look = (): void => {
    if (stopped) return;
    if (running !== null) {
      lookAgain = true;
      return;
    }
    clearTimeout(later);
    running = settle().finally(() => {
      running = null;
      if (!lookAgain) return;
      lookAgain = false;
      look();
    });
  };
  const watching = [client.watchRoutes(look), client.watchConfiguration(look)];
  return {
    async stop() {
      stopped = true;
      clearTimeout(later);
      for (const one of watching) one.stop();
      await running;
    },
  };
}

/** Never the value of a variable: errors of reading and writing name variables, secrets and files only. */
function sayProblem(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
