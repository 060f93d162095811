import type { CallControl } from "../control/port.ts";
import { type Envelope, isObject } from "./envelope.ts";
import type { Inbound, McpContext } from "./inbound.ts";
import { newSessionKey, nowhere, SessionTooLargeError } from "./seal.ts";

/**
 * What an upstream's servers last said of themselves, so that an agent can begin, and reach the tools that have a legacy implementation,
 * while no MCP server of the upstream is there (rollback strategy, "System-Level Fallback"). Guarantees:
 * F1  It stands in only for `initialize`, `tools/list`, and `server/discover` where a server has answered that before, only after every attempt at a
 *     server has failed, and only where the upstream has tools that the fallback may serve, or a rollback sends to legacy.
 * F2  It offers those tools and nothing else. Definitions are those that the servers gave last, else a name with an open schema.
 * F3  Its sessions have no place yet: the first server that is there again takes them over by replay, sticky ones too.
 * F4  While a rollback has all of the upstream's legacy tools, a server has {@link standInMs} for each of these requests: one that hangs keeps nobody
 *     from beginning. That says nothing of its health.
 */
export interface FaceBook {
  /** The result of an `initialize` that a server answered. */
  learnServer(upstream: string, asked: unknown, result: unknown): void;
  /** The result of a `tools/list`; a part of a longer list is not kept. */
  learnTools(upstream: string, result: unknown): void;
  /** The result of a `server/discover` that a server answered. */
  learnDiscovered(upstream: string, result: unknown): void;
  /** What a server of the upstream said last to `server/discover`; null: none has, and clients begin by `initialize`. */
  discovered(upstream: string): object | null;
  server(upstream: string): { readonly serverInfo?: unknown; readonly instructions?: unknown };
  /** The version that servers of the upstream agreed to when asked for this one. */
  agreedVersion(upstream: string, asked: unknown): string;
  tool(upstream: string, name: string): object | null;
}

/** Answers for an upstream whose servers are all out of reach; the result, or null where this is nothing to stand in for (F1). */
export type StandIn = () => { readonly result: object; readonly headers: Readonly<Record<string, string>> } | null;

const versions = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
const upstreamsMax = 10_000;
const toolsMax = 1000;
const rememberedBytesMax = 1024 * 1024;
/** Milliseconds. With what a connect may take besides, an agent has begun within two seconds. */
export const standInMs = 1500;

export function createFaceBook(): FaceBook {
  const servers = new Map<string, { serverInfo?: unknown; instructions?: unknown; agreed: Map<string, string> }>();
  const tools = new Map<string, Map<string, object>>();
  const discovered = new Map<string, object>();
  return {
    learnServer(upstream, asked, result) {
      if (!isObject(result) || (!servers.has(upstream) && servers.size >= upstreamsMax)) return;
      const { protocolVersion, serverInfo, instructions } = result;
      const agreed = servers.get(upstream)?.agreed ?? new Map<string, string>();
      if (typeof asked === "string" && typeof protocolVersion === "string" && versions.includes(asked)) agreed.set(asked, protocolVersion);
      const kept = JSON.stringify({ serverInfo, instructions }).length <= rememberedBytesMax ? { serverInfo, instructions } : {};
      servers.set(upstream, { ...kept, agreed });
    },
    learnTools(upstream, result) {
      if (!isObject(result) || !Array.isArray(result["tools"]) || result["nextCursor"] !== undefined) return;
      const named = result["tools"].filter(
        (tool): tool is Record<string, unknown> & { name: string } => isObject(tool) && typeof tool["name"] === "string",
      );
      if (named.length > toolsMax || JSON.stringify(named).length > rememberedBytesMax) return;
      if (tools.has(upstream) || tools.size < upstreamsMax) tools.set(upstream, new Map(named.map((tool) => [tool.name, tool])));
    },
    learnDiscovered(upstream, result) {
      if (!isObject(result) || JSON.stringify(result).length > rememberedBytesMax) return;
      if (discovered.has(upstream) || discovered.size < upstreamsMax) discovered.set(upstream, result);
    },
    discovered: (upstream) => discovered.get(upstream) ?? null,
    server: (upstream) => servers.get(upstream) ?? {},
    agreedVersion(upstream, asked) {
      const wanted = typeof asked === "string" && versions.includes(asked) ? asked : (versions[0] as string);
      return servers.get(upstream)?.agreed.get(wanted) ?? wanted;
    },
    tool: (upstream, name) => tools.get(upstream)?.get(name) ?? null,
  };
}

type Request = Extract<Envelope, { kind: "request" }>;

/** What an agent asks first. A further page of a list is of one that has begun. */
export function isBeginning({ method, params }: Request): boolean {
  return method === "initialize" || method === "server/discover" || (method === "tools/list" && params["cursor"] === undefined);
}

/** How a request can be answered without any server, or null (F1). */
export function standInFor(
  context: McpContext,
  inbound: Inbound,
  envelope: Request,
  call: Pick<CallControl, "legacyFace">,
): StandIn | null {
  if (!isBeginning(envelope)) return null;
  const tools = call.legacyFace?.().tools ?? [];
  if (tools.length === 0) return null;
  if (envelope.method === "tools/list") return () => ({ result: listOf(context, inbound, envelope.era, tools), headers: {} });
  if (envelope.method === "initialize") return () => begin(context, inbound, envelope.params);
  const known = context.faces.discovered(inbound.view.name);
  return known === null ? null : () => ({ result: { ...known, capabilities: { tools: {} }, ttlMs: 0 }, headers: {} });
}

function listOf(context: McpContext, { view, principal }: Inbound, era: Request["era"], legacyTools: readonly string[]): object {
  const tools = legacyTools
    .filter((name) => principal.mayCall(view.name, name))
    .map((name) => context.faces.tool(view.name, name) ?? { name, inputSchema: { type: "object" } });
  return { ...(era === "modern" ? { resultType: "complete", ttlMs: 0, cacheScope: "private" } : {}), tools };
}

function begin(context: McpContext, { view, principal }: Inbound, params: Readonly<Record<string, unknown>>): ReturnType<StandIn> {
  const version = context.faces.agreedVersion(view.name, params["protocolVersion"]);
  const { serverInfo, instructions } = context.faces.server(view.name);
  try {
    const sealed = {
      key: newSessionKey(),
      upstream: view.name,
      version,
      clientParams: params,
      capabilities: ["tools"],
      endpoint: nowhere,
      upstreamSession: null,
      issuedAtMs: context.nowMs(),
      principal: principal.id,
    };
    const session = context.sessions.start(sealed, principal.holder);
    const result = {
      protocolVersion: version,
      capabilities: { tools: {} },
      serverInfo: serverInfo ?? { name: view.name, version: "legacy" },
      ...(instructions === undefined ? {} : { instructions }),
    };
    return { result, headers: { "mcp-session-id": session.id } };
  } catch (error) {
    if (error instanceof SessionTooLargeError) return null;
    throw error;
  }
}
