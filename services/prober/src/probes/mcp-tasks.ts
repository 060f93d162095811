import { canonicalJson, type ProbeCheck, sha256 } from "@mcp-failover/contracts";
import { failedExpectation, nothingSeen, probeCheckPolicy } from "@mcp-failover/domain";
import type { CheckContext, CheckFound } from "./check.ts";
import { hardResult, type ProbeResult } from "./result.ts";
import type { RpcAnswer } from "./rpc.ts";

/** Sends one request in the probe's session; `judged` is what the answer says of the endpoint. */
export type McpCall = (
  method: string,
  params: Readonly<Record<string, unknown>>,
  named?: string,
) => Promise<{ readonly answer: RpcAnswer; readonly judged: ProbeResult }>;

/**
 * What is looked at beyond a sign of life.
 *
 * T1  The tool list is asked for every `toolsEveryMs`, the canary tool called every `canaryEveryMs`, and while something is wrong with them at
 *     every probe: one bad answer never counts twice, and its end is noticed at once. In between, the last good finding stands.
 * T2  The list is compared with the pinned hash, else with the first list that this prober saw of this configuration.
 * T3  A list is one value however a server orders it and whatever its pages; pages and tools are bounded.
 */
export interface McpTasks {
  run(context: CheckContext, alive: CheckFound, call: McpCall): Promise<CheckFound>;
  retain(identities: ReadonlyMap<string, string>): void;
}

interface Watch {
  readonly identity: string;
  /** Of the first list that was seen: hashes by tool. */
  baseline: ToolList | null;
  last: { readonly found: CheckFound; readonly isWell: boolean; readonly atMs: number } | null;
}
interface ToolList {
  readonly hash: string;
  readonly tools: ReadonlyMap<string, string>;
}

export function isToolsCheck({ type }: Pick<ProbeCheck, "type">): boolean {
  return type === "mcp_tools" || type === "mcp_canary";
}

export function openMcpTasks(): McpTasks {
  const watches = new Map<string, Watch>();

  function watchOf({ key, identity }: CheckContext): Watch {
    const known = watches.get(key);
    if (known?.identity === identity) return known;
    const watch: Watch = { identity, baseline: null, last: null };
    watches.set(key, watch);
    return watch;
  }

  return {
    async run(context, alive, call) {
      const { check, nowMs } = context;
      const watch = watchOf(context);
      const everyMs =
        check.type === "mcp_tools"
          ? (check.tools?.every_ms ?? probeCheckPolicy.toolsEveryMs)
          : (check.canary?.every_ms ?? probeCheckPolicy.canaryEveryMs);
      // A clock that was set back does not make it younger.
      if (watch.last?.isWell && nowMs >= watch.last.atMs && nowMs - watch.last.atMs < everyMs) {
        const { found } = watch.last;
        // Alive now, and well when it was last looked at (T1).
        return {
          result: { ...found.result, ...alive.result, ...ofTools(found.result) },
          seen: { ...found.seen, latencyMs: alive.seen.latencyMs ?? 0 },
        };
      }
      const found = check.type === "mcp_tools" ? await compareTools(context, alive, call, watch) : await callCanary(context, alive, call);
      const isAsExpected = check.expect.every((expectation) => failedExpectation(expectation, { ...nothingSeen, ...found.seen }) === null);
      watch.last = { found, isWell: isAsExpected && found.result.outcome === "ok" && found.result.degraded === undefined, atMs: nowMs };
      return found;
    },
    retain(identities) {
      for (const [key, { identity }] of watches) if (identities.get(key) !== identity) watches.delete(key);
    },
  };
}

const ofTools = ({ toolsHash }: ProbeResult) => (toolsHash === undefined ? {} : { toolsHash });

/** T2. */
async function compareTools({ check }: CheckContext, alive: CheckFound, call: McpCall, watch: Watch): Promise<CheckFound> {
  const { tools: wanted } = check;
  const listed = await listTools(call);
  if ("failed" in listed) return { result: listed.failed, seen: alive.seen };
  if ("problem" in listed) return drift(alive, listed.problem, null);
  const list = toolList(listed.tools, wanted?.descriptions ?? false);
  const seen = { ...alive.seen, json: { tools: listed.tools } };
  watch.baseline ??= list;
  const missing = (wanted?.include ?? []).filter((name) => !list.tools.has(name));
  const well: CheckFound = { result: { ...alive.result, toolsHash: list.hash }, seen };
  if (missing.length > 0) return drift(well, `expected the tools ${names(missing)}; they are missing`, list.hash);
  const expected = wanted?.hash ?? watch.baseline.hash;
  if (list.hash === expected) return well;
  const changes = wanted?.hash === undefined ? `: ${changesOf(watch.baseline, list)}` : "";
  return drift(
    well,
    `the tool list is not as ${wanted?.hash === undefined ? "first seen" : "pinned"}: expected ${expected}, saw ${list.hash}${changes}`,
    list.hash,
  );
}

function drift({ result, seen }: CheckFound, detail: string, toolsHash: string | null): CheckFound {
  const degraded = { code: "tools_drift", detail: detail.slice(0, 300) };
  return { result: { ...result, degraded, ...(toolsHash === null ? {} : { toolsHash }) }, seen };
}

type Listed = { readonly tools: readonly unknown[] } | { readonly problem: string } | { readonly failed: ProbeResult };

/** T3. */
async function listTools(call: McpCall): Promise<Listed> {
  const tools: unknown[] = [];
  let cursor: unknown;
  for (let page = 0; page < probeCheckPolicy.toolPagesMax; page += 1) {
    const { answer, judged } = await call("tools/list", typeof cursor === "string" ? { cursor } : {});
    if (judged.outcome === "hard" || judged.outcome === "auth" || judged.outcome === "soft") return { failed: judged };
    if (answer.kind !== "result")
      return { problem: `tools/list: expected a list, saw ${answer.kind === "error" ? `JSON-RPC error ${answer.errorCode}` : answer.why}` };
    const { tools: more, nextCursor } = (answer.result ?? {}) as { tools?: unknown; nextCursor?: unknown };
    if (!Array.isArray(more)) return { problem: "tools/list: expected a list, saw a result without tools" };
    tools.push(...more);
    if (tools.length > probeCheckPolicy.toolsMax)
      return { problem: `tools/list: expected at most ${probeCheckPolicy.toolsMax} tools, saw more` };
    if (typeof nextCursor !== "string") return { tools };
    cursor = nextCursor;
  }
  return { problem: `tools/list: expected at most ${probeCheckPolicy.toolPagesMax} pages, saw more` };
}

/** The identity of a tool list: of each tool its name, schemas and annotations; titles and descriptions where asked. */
function toolList(tools: readonly unknown[], descriptions: boolean): ToolList {
  const byName = new Map<string, string>();
  for (const tool of tools) {
    const { name, inputSchema, outputSchema, annotations, title, description } = (tool ?? {}) as Record<string, unknown>;
    const told = descriptions ? { title, description } : {};
    byName.set(String(name), sha256(canonicalJson({ name, inputSchema, outputSchema, annotations, ...told })));
  }
  const sorted = [...byName].sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
  return { hash: `sha256:${sha256(canonicalJson(sorted))}`, tools: new Map(sorted) };
}

function changesOf(before: ToolList, after: ToolList): string {
  const added = [...after.tools.keys()].filter((name) => !before.tools.has(name));
  const gone = [...before.tools.keys()].filter((name) => !after.tools.has(name));
  const other = [...after.tools].filter(([name, hash]) => before.tools.has(name) && before.tools.get(name) !== hash).map(([name]) => name);
  const parts = [
    [added, "new"],
    [gone, "gone"],
    [other, "changed"],
  ] as const;
  return parts.flatMap(([list, what]) => (list.length === 0 ? [] : [`${what} ${names(list)}`])).join("; ");
}

/** A few names, and only such as a tool may have: what a server sends is not repeated as it is. */
function names(list: readonly string[]): string {
  const shown = list.slice(0, 3).map((name) => (/^[\w./-]{1,64}$/.test(name) ? name : "(odd name)"));
  return `${shown.join(", ")}${list.length > 3 ? ` and ${list.length - 3} more` : ""}`;
}

async function callCanary({ check }: CheckContext, alive: CheckFound, call: McpCall): Promise<CheckFound> {
  const tool = check.canary?.tool ?? "";
  const { answer, judged } = await call("tools/call", { name: tool, arguments: check.canary?.arguments ?? {} }, tool);
  if (judged.outcome === "hard" || judged.outcome === "auth" || judged.outcome === "soft") return { result: judged, seen: alive.seen };
  const { era } = alive.result;
  if (answer.kind !== "result") {
    const saw = answer.kind === "error" ? `JSON-RPC error ${answer.errorCode}` : answer.why;
    return { result: hardResult("malformed", `canary ${tool}: expected an answer, saw ${saw}`, answer.status, era), seen: alive.seen };
  }
  const seen = { ...alive.seen, status: answer.status, latencyMs: answer.ms, json: answer.result };
  if ((answer.result as { isError?: unknown } | null)?.isError === true) {
    return {
      result: hardResult("malformed", `canary ${tool}: expected an answer, saw isError: the tool itself fails`, answer.status, era),
      seen,
    };
  }
  return { result: alive.result, seen };
}
