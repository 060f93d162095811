import { join } from "node:path";
import type { LocalProcess, Topology } from "@mcp-failover/contracts";
import { pick, plainEnvironment, secretHolders, secretsOf, serviceEnvironment, variablesIn } from "./child-environment.ts";
import { natsConfigFile } from "./nats-config.ts";
import { type PortPlan, portVariable, servicesMax } from "./ports.ts";
import { answersOn, askHttp } from "./probe-up.ts";
import type { RedisPlan } from "./redis-config.ts";
import type { ProcessSpec } from "./supervised.ts";

/** The services of the local stack and how many of each (design: three probers, so that a majority can disagree with one). */
const serviceCounts = {
  prober: 3,
  "breaker-state": 1,
  "failover-controller": 1,
  "rollback-controller": 1,
  router: 2,
  "state-store": 1,
  notifier: 1,
  "chaos-runner": 1,
  console: 1,
} as const;

/** Processes of a higher rank depend on those of a lower one: started after them, stopped before them. */
export const ranks = { nats: 1, redis: 2, upstream: 3, service: 4 } as const;

export interface PlanInput {
  readonly root: string;
  readonly dataDir: string;
  readonly topology: Topology;
  readonly configFile: string;
  readonly configText: string;
  readonly environment: "development" | "production";
  readonly ports: PortPlan;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Null: somebody else runs it, and its URL is in `natsUrl`. */
  readonly natsServer: string | null;
  readonly natsUrl: string;
  readonly redis: RedisPlan;
  readonly sessionKey: string;
  /** What the console is given of the token of those who may act. */
  readonly consoleEnv: Readonly<Record<string, string>>;
  /** The folder of the bus's credentials; null: a bus without permissions. */
  readonly credentials: string | null;
  /** The script of a service; tests put fakes here. */
  readonly scriptOf: (service: string) => string;
}

export interface PlannedProcess {
  readonly spec: ProcessSpec;
  readonly rank: number;
  /** Where it says whether it is ready; null for what is ready once it is up. */
  readonly healthUrl: string | null;
}

export interface StackPlan {
  readonly processes: readonly PlannedProcess[];
  /** The one-shot: command and environment. */
  readonly bootstrap: { readonly command: readonly [string, ...string[]]; readonly env: Readonly<Record<string, string>> };
  /** Every port that must be free before anything is started. */
  readonly ports: readonly number[];
}

/** Everything that the stack runs, without starting any of it. */
export function planStack(input: PlanInput): StackPlan {
  const { ports, topology } = input;
  const infrastructure = planInfrastructure(input);
  const upstreams = planUpstreams(input);
  const services = planServices(input);
  const common = commonEnvironment(input, "bootstrap");
  if (1 + services.length > servicesMax) throw new RangeError(`health ports are kept for ${servicesMax} services`);
  return {
    processes: [...infrastructure, ...upstreams, ...services],
    bootstrap: {
      command: [process.execPath, input.scriptOf("bootstrap")],
      env: {
        ...variablesIn(input.configText, input.env),
        ...localPorts(topology.local.processes, ports),
        ...common,
        ...secretEnvironment("bootstrap", input),
        MCPF_CONFIG: input.configFile,
        MCPF_INSTANCE: "bootstrap-1",
        MCPF_HEALTH_PORT: "0",
        MCPF_PARENT_PIPE: "1",
      },
    },
    ports: [
      ports.router,
      ports.console,
      ...(input.natsServer === null ? [] : [ports.nats]),
      ...(input.redis.server === null ? [] : [ports.redis]),
      ...topology.local.processes.flatMap((local) => [...new Set([ports.public(local), ports.own(local)])]),
      ...[...upstreams, ...services].flatMap(({ healthUrl }) => (healthUrl === null ? [] : [Number(new URL(healthUrl).port)])),
    ],
  };
}

function planInfrastructure(input: PlanInput): PlannedProcess[] {
  const { ports, dataDir } = input;
  const base = { kind: "infrastructure", cwd: dataDir, env: plainEnvironment(input.env), restartAfterMs: 0 } as const;
  const none = { endpoint: null, faultProxy: null, parentPipe: false } as const;
  const planned: PlannedProcess[] = [];
  if (input.natsServer !== null) {
    const command = [input.natsServer, "-c", natsConfigFile(dataDir)] as const;
    const isUp = (): Promise<boolean> => answersOn(ports.nats);
    planned.push({ rank: ranks.nats, healthUrl: null, spec: { ...base, ...none, name: "nats", command, isUp } });
  }
  if (input.redis.server !== null) {
    const { command, isUp } = input.redis.server;
    planned.push({ rank: ranks.redis, healthUrl: null, spec: { ...base, ...none, name: "redis", command, isUp } });
  }
  return planned;
}

function planUpstreams(input: PlanInput): PlannedProcess[] {
  const { ports, topology } = input;
  const proxied = topology.local.processes.filter((local) => local.fault_proxy);
  const planned: PlannedProcess[] = [];
  if (proxied.length > 0) {
    const listeners = proxied.map((local) => ({ name: local.name, listenPort: ports.public(local), targetPort: ports.own(local) }));
    planned.push(planService(input, "fault-proxy", "fault-proxy", 0, { MCPF_FAULT_LISTENERS: JSON.stringify(listeners) }, ranks.upstream));
  }
  for (const local of topology.local.processes) {
    const own = ports.own(local);
    const [program = "", ...args] = local.command;
    planned.push({
      rank: ranks.upstream,
      healthUrl: null,
      spec: {
        name: local.name,
        kind: "upstream",
        // "node" is the Node that runs us: the machine's own may be too old.
        command: [program === "node" ? process.execPath : program, ...args],
        cwd: input.root,
        env: {
          ...plainEnvironment(input.env),
          ...localPorts(topology.local.processes, ports),
          MCPF_PARENT_PIPE: "1",
          ...local.env,
          PORT: String(own),
        },
        restartAfterMs: local.restart_after_ms,
        isUp: () =>
          local.ready_path === undefined
            ? answersOn(own)
            : askHttp(`http://127.0.0.1:${own}${local.ready_path}`).then((answer) => answer !== null && answer.status < 500),
        endpoint: local.serves ?? null,
        faultProxy: local.fault_proxy ? local.name : null,
        parentPipe: true,
      },
    });
  }
  return planned;
}

function planServices(input: PlanInput): PlannedProcess[] {
  // The first health port is the fault proxy's.
  let index = 1;
  return Object.entries(serviceCounts).flatMap(([service, count]) =>
    Array.from({ length: count }, (_, number) => {
      const own: Record<string, string> = secretEnvironment(service, input);
      if (service === "router") own["MCPF_SESSION_KEY"] = input.sessionKey;
      if (service === "state-store") Object.assign(own, input.redis.env);
      if (service === "console") Object.assign(own, input.consoleEnv);
      const planned = planService(input, service, `${service}-${number + 1}`, index, own, ranks.service);
      index += 1;
      return planned;
    }),
  );
}

function planService(
  input: PlanInput,
  service: string,
  name: string,
  healthIndex: number,
  own: Readonly<Record<string, string>>,
  rank: number,
): PlannedProcess {
  const healthUrl = `http://127.0.0.1:${input.ports.health(healthIndex)}`;
  return {
    rank,
    healthUrl,
    spec: {
      name,
      kind: "service",
      command: [process.execPath, input.scriptOf(service)],
      cwd: input.root,
      env: {
        ...commonEnvironment(input, service),
        ...own,
        MCPF_INSTANCE: name,
        MCPF_HEALTH_PORT: String(input.ports.health(healthIndex)),
        MCPF_PARENT_PIPE: "1",
      },
      restartAfterMs: 0,
      isUp: () => askHttp(`${healthUrl}/healthz`).then((answer) => answer?.status === 200),
      endpoint: null,
      faultProxy: null,
      parentPipe: true,
    },
  };
}

function commonEnvironment(input: PlanInput, service: string): Record<string, string> {
  return {
    ...serviceEnvironment(input.env, input.topology, service),
    NATS_URL: input.natsUrl,
    ...(input.credentials === null ? {} : { MCPF_CREDENTIALS_DIR: join(input.credentials, service) }),
    MCPF_DATA_DIR: input.dataDir,
    MCPF_ENV: input.environment,
    MCPF_ROUTER_PORT: String(input.ports.router),
    MCPF_ROUTER_URL: `http://127.0.0.1:${input.ports.router}`,
    MCPF_CONSOLE_PORT: String(input.ports.console),
    MCPF_CONSOLE_URL: `http://127.0.0.1:${input.ports.console}`,
  };
}

function secretEnvironment(service: string, input: PlanInput): Record<string, string> {
  if (!secretHolders.has(service)) return {};
  return {
    ...pick(input.env, secretsOf(service, input.topology)),
    MCPF_SECRETS_DIR: input.env["MCPF_SECRETS_DIR"] ?? join(input.dataDir, "secrets"),
  };
}

/** `MCPF_PORT_<NAME>` of each local process: where callers reach it. */
export function localPorts(processes: readonly Pick<LocalProcess, "name" | "port_offset">[], ports: PortPlan): Record<string, string> {
  return Object.fromEntries(processes.map((local) => [portVariable(local.name), String(ports.public(local))]));
}
