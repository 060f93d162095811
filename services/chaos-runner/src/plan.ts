import { type Bus, NoResponderError, RefusedError } from "@mcp-failover/bus";
import {
  type ChaosCommand,
  type ChaosScenario,
  chaosScenario,
  endpointKey,
  type StatusView,
  subjectFor,
  type UpstreamConfig,
} from "@mcp-failover/contracts";
import { checkBlastRadius, policyFor, standInsOf } from "@mcp-failover/domain";
import type { AppliedTopology, Kit } from "@mcp-failover/service-kit";
import type { CanaryTool } from "./canary.ts";
import { askProcesses, askStatus, type Fault } from "./stack.ts";

/** What a command comes to, before anything is touched. */
export interface Target {
  readonly scenario: ChaosScenario;
  readonly upstream: string;
  readonly config: UpstreamConfig;
  readonly applied: AppliedTopology;
  readonly endpoint: string;
  readonly wasActive: boolean;
  readonly epoch: number;
  readonly fault: Fault;
  /** The fault leaves the endpoint unusable: it is gone, or later than the router waits for any call. */
  readonly takesAway: boolean;
  /** Every tool has a legacy implementation, which the router falls back to. */
  readonly hasLegacy: boolean;
}

/** Names upstream, scenario, endpoint and process. Throws {@link RefusedError} with the known names. */
export async function resolveTarget(bus: Bus, command: ChaosCommand, applied: AppliedTopology, status: StatusView): Promise<Target> {
  const { upstreams } = applied.topology;
  const scenario = chaosScenario.safeParse(command.scenario);
  if (!scenario.success) throw refusal("unknown_scenario", `no scenario ${quote(command.scenario)}`, chaosScenario.options);
  const { target: upstream, options } = command;
  const config = Object.hasOwn(upstreams, upstream) ? upstreams[upstream] : undefined;
  const view = status.upstreams.find(({ name }) => name === upstream);
  if (config === undefined) throw refusal("unknown_upstream", `no upstream ${quote(upstream)} is configured`, Object.keys(upstreams));
  if (view === undefined) {
    throw new RefusedError("not_ready", `the state-store does not show ${upstream} yet: ask again in a second`, true);
  }
  requireSteady(status, view);
  const endpoint = options.endpoint ?? view.active;
  const names = config.endpoints.map(({ name }) => name);
  if (!names.includes(endpoint)) throw refusal("unknown_endpoint", `${upstream} has no endpoint ${quote(endpoint)}`, names);
  const fault = await findFault(bus, scenario.data, endpointKey(upstream, endpoint), options.delayMs);
  const { router } = policyFor(applied.topology, upstream, applied.environment);
  const tools = Object.values(config.tools);
  return {
    scenario: scenario.data,
    upstream,
    config,
    applied,
    endpoint,
    wasActive: endpoint === view.active,
    epoch: view.epoch,
    fault,
    takesAway: fault.kind === "kill" || fault.delayMs >= router.callMs,
    hasLegacy: router.fallback.tool && tools.length > 0 && tools.every(({ legacy }) => legacy !== undefined),
  };
}

/** Throws {@link RefusedError} `not_steady` where the active endpoint is not healthy, or nobody knows. */
function requireSteady({ backupUpToSeq }: StatusView, { name, active, endpoints }: StatusView["upstreams"][number]): void {
  const health = endpoints.find((endpoint) => endpoint.name === active)?.health ?? "not configured";
  if (health !== "healthy") {
    const state = `its active endpoint ${active} is ${health}`;
    throw new RefusedError("not_steady", `${name} is not in a steady state: ${state}; repair it first (\`mcpf why ${name}\`)`);
  }
  if (backupUpToSeq !== undefined) {
    const state = `the state-store cannot read the log, and shows a backup up to #${backupUpToSeq}`;
    throw new RefusedError("not_steady", `nobody knows whether ${name} is in a steady state: ${state}; ask again when it can`, true);
  }
}

/**
 * Looks once more, right before something is done: time went by since the target was chosen. Throws {@link RefusedError} `not_steady` where
 * it is not in the state any more in which it was chosen, `blast_radius` where too much would be broken.
 *
 * @param seqBefore last sequence of AUDIT before the target was chosen
 * @returns the status, and what `force` overrode
 */
export async function lookAgain(
  { bus, nowMs }: Pick<Kit, "bus" | "nowMs">,
  target: Target,
  seqBefore: number,
  force: boolean,
): Promise<{ readonly status: StatusView; readonly overrode: readonly string[] }> {
  const { upstream, endpoint, wasActive, epoch, takesAway, hasLegacy } = target;
  const status = await askStatus(bus);
  const view = status.upstreams.find(({ name }) => name === upstream);
  if (view === undefined) throw new RefusedError("not_steady", `the state-store does not show ${upstream} any more`, true);
  requireSteady(status, view);
  // The status may lag behind the log.
  const decided = await bus.lastOf("AUDIT", subjectFor("failover.decided", upstream));
  if (view.epoch !== epoch || (view.active === endpoint) !== wasActive || (decided !== null && decided.seq > seqBefore)) {
    const moved = `${upstream} moved after ${endpoint} had been chosen as its ${wasActive ? "active endpoint" : "standby"}`;
    throw new RefusedError("not_steady", `${moved}: nothing was injected; ask again when it stays where it is`, true);
  }
  const standIns = standInsOf(target.applied, status, view, nowMs());
  const { overrode, refused } = checkBlastRadius({ upstream: view, endpoint, takesAway, hasLegacy, force, standIns });
  if (refused !== null) throw new RefusedError("blast_radius", refused);
  return { status, overrode };
}

async function findFault(bus: Bus, scenario: ChaosScenario, serves: string, delayMs: number): Promise<Fault> {
  const processes = await askProcesses(bus).catch((error: unknown) => {
    if (!(error instanceof NoResponderError)) throw error;
    throw new RefusedError(
      "no_process",
      "no launcher answers: experiments work on a stack that `npm start` runs, and on containers beside which `npm run compose:launcher` runs",
    );
  });
  const serving = processes.filter(({ endpoint }) => endpoint !== null);
  const process = serving.find(({ endpoint }) => endpoint === serves);
  if (process === undefined) {
    const known = serving.map(({ endpoint }) => String(endpoint));
    throw refusal("no_process", `no process of this stack serves ${serves} (\`serves:\` under \`local.processes\` names it)`, known);
  }
  if (scenario === "killService") {
    if (process.pid === null)
      throw new RefusedError("no_process", `the process ${process.name} is ${process.state}: nothing is there to be killed`);
    return { kind: "kill", process: process.name };
  }
  if (process.faultProxy === null) {
    const known = serving.filter(({ faultProxy }) => faultProxy !== null).map(({ endpoint }) => String(endpoint));
    throw refusal("no_process", `${process.name} has no fault proxy in front of it; set \`fault_proxy: true\` on it`, known);
  }
  return { kind: "slow", process: process.name, proxy: process.faultProxy, delayMs };
}

/**
 * The tool that the canary calls, with its arguments: the named one, else the first of the configuration with `read_only: true` whose
 * required arguments can be made up (see {@link fillArguments}). Throws {@link RefusedError} `unknown_tool` where
 * there is none of the name, `no_canary_tool` where none can be called.
 */
export function chooseTool(
  target: Pick<Target, "upstream" | "config">,
  tools: readonly CanaryTool[],
  wanted: string | null,
): { name: string; args: Record<string, unknown> } {
  const { upstream, config } = target;
  const readOnly = Object.entries(config.tools).flatMap(([name, tool]) => (tool.read_only === true ? [name] : []));
  if (wanted !== null) {
    const tool = tools.find(({ name }) => name === wanted);
    if (tool === undefined)
      throw refusal(
        "unknown_tool",
        `${upstream} has no tool ${quote(wanted)}`,
        tools.map(({ name }) => name),
      );
    if (!readOnly.includes(wanted) && !tool.readOnlyHint)
      throw refusal("no_canary_tool", `${wanted} is not known to be read-only, and a canary calls it ten times a second`, readOnly);
  }
  const names = wanted === null ? readOnly : [wanted];
  for (const name of names) {
    const tool = tools.find((one) => one.name === name);
    const args = tool === undefined ? null : fillArguments(tool.inputSchema);
    if (args !== null) return { name, args };
  }
  const why = wanted === null ? `no tool of ${upstream} fits` : `the required arguments of ${wanted} cannot be made up`;
  throw refusal(
    "no_canary_tool",
    `${why}; mark one without required arguments \`read_only: true\` in failover.yaml, or name one`,
    readOnly,
  );
}

/** The least that a tool takes: "canary" for a string, 1 for a number, false, the first of an enum. Null where that is not enough. */
function fillArguments(inputSchema: unknown): Record<string, unknown> | null {
  const { required = [], properties = {} } = (inputSchema ?? {}) as { required?: readonly string[]; properties?: Record<string, unknown> };
  const args: Record<string, unknown> = {};
  for (const name of required) {
    const value = fillOne(properties[name]);
    if (value === undefined) return null;
    args[name] = value;
  }
  return args;
}

function fillOne(schema: unknown): unknown {
  const { type, enum: options, const: only, minimum, default: usual } = (schema ?? {}) as Record<string, unknown>;
  if (usual !== undefined) return usual;
  if (only !== undefined) return only;
  if (Array.isArray(options)) return options[0];
  if (type === "string") return "canary";
  if (type === "boolean") return false;
  if (type === "number" || type === "integer") return typeof minimum === "number" && minimum > 1 ? minimum : 1;
  return undefined;
}

function refusal(code: string, what: string, known: readonly string[]): RefusedError {
  return new RefusedError(code, `${what}; known: ${known.join(", ") || "none"}`);
}

function quote(text: string): string {
  return JSON.stringify(text.slice(0, 100));
}
