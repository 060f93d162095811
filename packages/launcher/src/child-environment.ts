import { secretsIn, type Topology, withoutVariables } from "@mcp-failover/contracts";

type Environment = Readonly<Record<string, string | undefined>>;

/** What every program needs to run at all, and what the operator says about this machine's network. */
const plain = [
  "PATH",
  "HOME",
  "TMPDIR",
  "LANG",
  "LC_ALL",
  "TZ",
  "NODE_COMPILE_CACHE",
  "NODE_OPTIONS",
  "NODE_EXTRA_CA_CERTS",
  "SSL_CERT_FILE",
  "SSL_CERT_DIR",
];
/** Set by us for each process, or a secret itself. */
const ours = new Set([
  "MCPF_INSTANCE",
  "MCPF_HEALTH_PORT",
  "MCPF_SESSION_KEY",
  "MCPF_SECRETS_DIR",
  "MCPF_CREDENTIALS_DIR",
  "MCPF_PARENT_PIPE",
]);

/** What any child gets of our own environment. Never a secret of the configuration. */
export function plainEnvironment(env: Environment): Record<string, string> {
  return pick(env, plain);
}

/** Command lines may hold what only the service that runs them should know, and a token is for the services that show it and that look at it. */
const ownedBy: ReadonlyMap<string, readonly string[]> = new Map([
  ["MCPF_EXEC_ALLOW", ["prober"]],
  ["MCPF_STDIO_ALLOW", ["router"]],
  ["MCPF_PROBE_TOKEN", ["prober", "router"]],
  ["MCPF_CONSOLE_TOKEN", ["console"]],
]);

/** {@link plainEnvironment}, and the settings of one of our own services (`MCPF_...`) that are no secrets. */
export function serviceEnvironment(env: Environment, topology: Topology, service: string): Record<string, string> {
  const secrets = new Set(secretsIn(topology).map(({ name }) => name));
  const settings = Object.keys(env).filter(
    (name) =>
      (name.startsWith("MCPF_") || (service === "router" && name.startsWith("OTEL_"))) &&
      !ours.has(name) &&
      !secrets.has(name) &&
      (ownedBy.get(name)?.includes(service) ?? true),
  );
  return { ...plainEnvironment(env), ...pick(env, settings) };
}

/** Who sends which secrets: the prober to endpoints and in probes of its own, the router to endpoints and legacy APIs, the notifier to channels; bootstrap sees that all are there. */
export function secretsOf(service: string, configured: Topology): string[] {
  const topology = withoutVariables(configured);
  const part: unknown =
    service === "bootstrap"
      ? topology
      : service === "router"
        ? [Object.values(topology.upstreams).map(withoutProbes), topology.agents]
        : service === "prober"
          ? Object.values(topology.upstreams).map(({ endpoints, probe }) => ({ endpoints: endpoints.map(withoutProcess), probe }))
          : service === "notifier"
            ? topology.notifications
            : null;
  return [...new Set(secretsIn(part).map(({ name }) => name))];
}

/** What a process of the router finds in its environment is nothing for a prober. */
function withoutProcess({ stdio: _stdio, ...endpoint }: Topology["upstreams"][string]["endpoints"][number]): unknown {
  return endpoint;
}

/** What only probes send is nothing for a router. */
function withoutProbes({ probe: _probe, endpoints, ...rest }: Topology["upstreams"][string]): unknown {
  return { endpoints: endpoints.map(({ probe: _own, ...endpoint }) => endpoint), ...rest };
}

/** Services that resolve secrets, and so get the folder with one file a secret. */
export const secretHolders: ReadonlySet<string> = new Set(["bootstrap", "router", "prober", "notifier"]);

/** The variables that a configuration's text names in `${NAME}`: what bootstrap needs to read it again. */
export function variablesIn(text: string, env: Environment): Record<string, string> {
  const names = [...text.matchAll(/\$\{([A-Za-z_][A-Za-z0-9_]*)/g)].map(([, name = ""]) => name);
  return pick(env, names);
}

/** The named variables that are set. */
export function pick(env: Environment, names: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    names.flatMap((name): [string, string][] => {
      const value = env[name];
      return value === undefined ? [] : [[name, value]];
    }),
  );
}
