import { readFileSync } from "node:fs";
import { ConfigError, type LocalProcess, parseTopology, type Topology } from "@mcp-failover/contracts";
import { parseDocument } from "yaml";
import { localPorts } from "./plan.ts";
import { type PortPlan, portProblems } from "./ports.ts";

export interface LoadedConfig {
  readonly topology: Topology;
  readonly text: string;
  /** `MCPF_PORT_<NAME>` of the local processes. */
  readonly portVariables: Readonly<Record<string, string>>;
}

/** Reads and checks the configuration, with the ports that this stack gives to its local processes. Throws {@link ConfigError}. */
export function readConfig(
  file: string,
  options: {
    readonly ports: PortPlan;
    readonly env: Readonly<Record<string, string | undefined>>;
    readonly hasSecret: (name: string) => boolean;
  },
): LoadedConfig {
  const text = readText(file);
  const portVariables = localPorts(namedProcesses(text), options.ports);
  const { topology } = parseTopology(text, {
    file,
    env: { ...options.env, ...portVariables },
    hasSecret: options.hasSecret,
    routerUrls: [`http://127.0.0.1:${options.ports.router}`],
  });
  const problems = portProblems(topology.local.processes);
  if (problems.length > 0) throw new ConfigError(problems, file);
  return { topology, text, portVariables };
}

function readText(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const fix = code === "ENOENT" ? "there is no such file; give another with --config" : message;
    throw new ConfigError([{ path: "(file)", line: null, message: fix }], file);
  }
}

/** Names and offsets of the local processes, before `${...}` can be filled in; the full check that follows names what is wrong. */
function namedProcesses(text: string): Pick<LocalProcess, "name" | "port_offset">[] {
  const document = parseDocument(text);
  if (document.errors.length > 0) return [];
  const raw = plain(document) as { local?: { processes?: unknown } } | null;
  const found = raw?.local?.processes;
  if (!Array.isArray(found)) return [];
  return found.flatMap((entry) => {
    const { name, port_offset } = (entry ?? {}) as { name?: unknown; port_offset?: unknown };
    return typeof name === "string" && typeof port_offset === "number" ? [{ name, port_offset }] : [];
  });
}

/** Null where its aliases cannot be written out: the full check names them. */
function plain(document: ReturnType<typeof parseDocument>): unknown {
  try {
    return document.toJS({ maxAliasCount: 100 });
  } catch (error) {
    if (error instanceof ReferenceError) return null;
    throw error;
  }
}
