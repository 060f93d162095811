import type { AgentConfig, Topology } from "@mcp-failover/contracts";

/**
 * What an authenticated agent may use (issue 4, "Identity"). Pure: the router asks it for every call and for every list of tools.
 *
 * Invariants, cited by the tests:
 * G1  What no pattern allows is forbidden; an empty list allows nothing.
 * G2  A pattern is a name in which `*` stands for any text; for tools `upstream/tool`, or a tool alone for every upstream.
 * G3  Matching never backtracks: its time is bounded by the product of the two lengths, whatever an agent calls its tool.
 * G4  A list of tools keeps exactly the tools that a call of the same agent would be let through for, in their order.
 */
export interface AgentGrant {
  readonly upstreams: readonly string[];
  readonly tools: readonly string[];
}

/** What `agents.<name>.allow` grants: everything where nothing is said. */
export function grantOf(agent: AgentConfig): AgentGrant {
  return { upstreams: agent.allow?.upstreams ?? ["*"], tools: agent.allow?.tools ?? ["*"] };
}

/** Whether agents have to say who they are: one of them has a credential, or there is an issuer of tokens. */
export function identityRequired(topology: Pick<Topology, "agents" | "router">): boolean {
  const agents = Object.values(topology.agents);
  const hasCredential = ({ tokens, subjects, certificates }: AgentConfig): boolean =>
    tokens !== undefined || subjects !== undefined || certificates !== undefined;
  return topology.router.auth !== undefined || agents.some(hasCredential);
}

/** Without identities everybody may use everything, as it is on a developer's machine. */
export const openGrant: AgentGrant = { upstreams: ["*"], tools: ["*"] };

/** Whether the agent may use the upstream at all (G1). */
export function mayUseUpstream(grant: AgentGrant, upstream: string): boolean {
  return grant.upstreams.some((pattern) => matchesPattern(pattern, upstream));
}

/** Whether the agent may call the tool of the upstream (G1, G2). */
export function mayCallTool(grant: AgentGrant, upstream: string, tool: string): boolean {
  if (!mayUseUpstream(grant, upstream)) return false;
  return grant.tools.some((pattern) => {
    const slash = pattern.indexOf("/");
    if (slash === -1) return matchesPattern(pattern, tool);
    return matchesPattern(pattern.slice(0, slash), upstream) && matchesPattern(pattern.slice(slash + 1), tool);
  });
}

/** Whether every tool of the upstream may be called, so that nothing has to be looked at. */
export function mayCallAllTools(grant: AgentGrant, upstream: string): boolean {
  return mayUseUpstream(grant, upstream) && grant.tools.some((pattern) => allToolsOf(pattern, upstream));
}

function allToolsOf(pattern: string, upstream: string): boolean {
  if (pattern === "*") return true;
  return pattern.endsWith("/*") && pattern.indexOf("/") === pattern.length - 2 && matchesPattern(pattern.slice(0, -2), upstream);
}

/** The tools of a `tools/list` that the agent may call (G4); what has no name is left out. */
export function allowedTools(grant: AgentGrant, upstream: string, tools: readonly unknown[]): unknown[] {
  return tools.filter((tool) => {
    const name = typeof tool === "object" && tool !== null ? (tool as { name?: unknown }).name : undefined;
    return typeof name === "string" && mayCallTool(grant, upstream, name);
  });
}

/** `*` is any text, everything else is itself. Each part is searched once, from left to right (G3). */
export function matchesPattern(pattern: string, name: string): boolean {
  const parts = pattern.split("*");
  const first = parts[0] as string;
  if (parts.length === 1) return pattern === name;
  const last = parts[parts.length - 1] as string;
  if (name.length < first.length + last.length || !name.startsWith(first) || !name.endsWith(last)) return false;
  let from = first.length;
  const end = name.length - last.length;
  for (const part of parts.slice(1, -1)) {
    const at = name.indexOf(part, from);
    if (at === -1 || at + part.length > end) return false;
    from = at + part.length;
  }
  return true;
}

/** Whether a token is meant for one of these resources (RFC 8707, RFC 9068): `aud` is a text or a list, and has to be there. */
export function audienceMatches(audience: unknown, resources: readonly string[]): boolean {
  const given = Array.isArray(audience) ? audience : [audience];
  return given.some((one) => typeof one === "string" && resources.some((resource) => sameResource(one, resource)));
}

/** A slash at the end names the same resource. */
function sameResource(a: string, b: string): boolean {
  const bare = (text: string): string => (text.endsWith("/") ? text.slice(0, -1) : text);
  return bare(a) === bare(b);
}
