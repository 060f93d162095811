import { createServer } from "node:net";
import type { ConfigProblem, LocalProcess } from "@mcp-failover/contracts";

/** Where everything of one stack listens, on loopback. */
export interface PortPlan {
  readonly router: number;
  readonly console: number;
  readonly nats: number;
  readonly redis: number;
  /** The health port of the n-th service process. */
  health(index: number): number;
  /** Where callers reach a local process. */
  public(process: Pick<LocalProcess, "port_offset">): number;
  /** Where the process itself listens: behind its fault proxy when it has one. */
  own(process: Pick<LocalProcess, "port_offset" | "fault_proxy">): number;
}

const consoleOffset = 1;
const natsOffset = 2;
const redisOffset = 3;
const healthOffset = 60;
const behindProxyOffset = 500;
/** Health ports are kept for so many service processes. */
export const servicesMax = 40;

export function planPorts(portBase: number): PortPlan {
  return {
    router: portBase,
    console: portBase + consoleOffset,
    nats: portBase + natsOffset,
    redis: portBase + redisOffset,
    health: (index) => portBase + healthOffset + index,
    public: (process) => portBase + process.port_offset,
    own: (process) => portBase + process.port_offset + (process.fault_proxy ? behindProxyOffset : 0),
  };
}

/** The variable under which a configuration finds the port of a local process. */
export const portVariable = (name: string): string => `MCPF_PORT_${name.toUpperCase().replaceAll("-", "_")}`;

/** What the ports of a configuration's local processes get in the way of: the stack's own, or each other's. */
export function portProblems(processes: readonly LocalProcess[]): ConfigProblem[] {
  const taken = new Map<number, string>([
    [0, "the router"],
    [consoleOffset, "the console"],
    [natsOffset, "nats-server"],
    [redisOffset, "redis-server"],
  ]);
  for (let index = 0; index < servicesMax; index += 1) taken.set(healthOffset + index, "the services' health ports");
  const names = new Map<string, string>();
  const problems: ConfigProblem[] = [];
  processes.forEach((process, index) => {
    const at = `local.processes.${index}`;
    const variable = portVariable(process.name);
    const sameName = names.get(variable);
    if (sameName !== undefined)
      problems.push({
        path: `${at}.name`,
        line: null,
        message: `${process.name} and ${sameName} share the variable ${variable}; rename one`,
      });
    names.set(variable, process.name);
    const plan = planPorts(0);
    for (const offset of new Set([plan.public(process), plan.own(process)])) {
      const owner = taken.get(offset);
      if (owner !== undefined) {
        const free = Array.from({ length: 50 }, (_, i) => 10 + i).find((candidate) => !taken.has(candidate));
        problems.push({ path: `${at}.port_offset`, line: null, message: `offset ${offset} belongs to ${owner}; ${free} is free` });
      }
      taken.set(offset, process.name);
    }
  });
  return problems;
}

/** Those of the ports on which nothing can listen now, because something does. */
export async function busyPorts(ports: readonly number[]): Promise<number[]> {
  const free = await Promise.all(ports.map(isFree));
  return ports.filter((_, index) => free[index] === false);
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen({ port, host: "127.0.0.1", exclusive: true }, () => server.close(() => resolve(true)));
  });
}
