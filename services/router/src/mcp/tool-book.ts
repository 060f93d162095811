import { hashOf } from "@mcp-failover/contracts";
import { isObject } from "./envelope.ts";

/**
 * Which tools the endpoints of an upstream have, to tell which of them can stand in for another (requirement R16). Guarantees:
 * T1  Two tools are the same when name, input schema and output schema are; descriptions may differ.
 * T2  Only whole lists count: of one that came in pages nothing is said.
 * T3  A difference is told once for each list that has it.
 */
export interface ToolBook {
  /** The result of a `tools/list` that was asked for without a cursor. */
  learn(upstream: string, endpoint: string, result: unknown): void;
  knows(upstream: string, endpoint: string): boolean;
  /** Names of the tools that are not the same on both; empty where one of the lists is unknown. */
  differing(upstream: string, one: string, other: string): readonly string[];
}

/** A release changes a list, and then the server is restarted: sessions are replayed and the list is asked for again. */
const keptMs = 60_000;
const endpointsMax = 10_000;
const toolsMax = 1000;

interface Known {
  readonly hash: string;
  readonly tools: ReadonlyMap<string, string>;
  readonly atMs: number;
}

export function createToolBook(
  nowMs: () => number,
  onDifference: (found: { upstream: string; endpoint: string; other: string; tools: readonly string[] }) => void,
): ToolBook {
  const lists = new Map<string, Map<string, Known>>();
  const told = new Set<string>();
  const listOf = (upstream: string, endpoint: string): Known | undefined => lists.get(upstream)?.get(endpoint);
  const differing: ToolBook["differing"] = (upstream, one, other) => {
    const [first, second] = [listOf(upstream, one), listOf(upstream, other)];
    if (first === undefined || second === undefined || first.hash === second.hash) return [];
    const names = new Set([...first.tools.keys(), ...second.tools.keys()]);
    return [...names].filter((name) => first.tools.get(name) !== second.tools.get(name)).sort();
  };
  return {
    learn(upstream, endpoint, result) {
      const tools = toolsOf(result);
      if (tools === null) return;
      const own = lists.get(upstream) ?? new Map<string, Known>();
      if (!own.has(endpoint) && own.size >= endpointsMax) return;
      const hash = hashOf([...tools].sort(([a], [b]) => (a < b ? -1 : 1)));
      own.set(endpoint, { hash, tools, atMs: nowMs() });
      lists.set(upstream, own);
      for (const [other, list] of own) {
        const pair = [`${endpoint} ${hash}`, `${other} ${list.hash}`].sort().join(" ");
        const names = differing(upstream, endpoint, other);
        if (names.length === 0 || told.has(`${upstream} ${pair}`)) continue;
        if (told.size >= endpointsMax) told.clear();
        told.add(`${upstream} ${pair}`);
        onDifference({ upstream, endpoint, other, tools: names });
      }
    },
    knows(upstream, endpoint) {
      const list = listOf(upstream, endpoint);
      return list !== undefined && list.atMs > nowMs() - keptMs;
    },
    differing,
  };
}

function toolsOf(result: unknown): Map<string, string> | null {
  if (!isObject(result) || !Array.isArray(result["tools"]) || result["nextCursor"] !== undefined) return null;
  const tools = new Map<string, string>();
  for (const tool of result["tools"].slice(0, toolsMax) as unknown[]) {
    if (!isObject(tool) || typeof tool["name"] !== "string") continue;
    tools.set(tool["name"], hashOf({ input: tool["inputSchema"] ?? null, output: tool["outputSchema"] ?? null }));
  }
  return tools;
}
