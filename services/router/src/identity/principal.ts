import { type AgentGrant, mayCallAllTools, mayCallTool, mayUseUpstream, openGrant } from "@mcp-failover/domain";

/** Who makes a request. Sessions are bound to `id`: a session id in other hands is worth nothing. */
export interface Principal {
  /** Unique over all ways to authenticate; empty where nobody has to. */
  readonly id: string;
  /** Whose share is taken of what is bounded by agent: `id`, else where the request came from (`anonymous.ts`). */
  readonly holder: string;
  /** Name in `agents:`; null where nobody has to say who he is. */
  readonly agent: string | null;
  mayUse(upstream: string): boolean;
  mayCall(upstream: string, tool: string): boolean;
  /** True: no tool of the upstream is forbidden, so that no message has to be looked at. */
  mayCallAll(upstream: string): boolean;
  readonly grant: AgentGrant;
  /** Whether who was let in with these rights still would be, for this upstream; empty: for any. What is open may outlive them. */
  still(upstream: string): boolean;
}

export function principalOf(
  id: string,
  agent: string | null,
  grant: AgentGrant,
  still: (upstream: string) => boolean = () => true,
): Principal {
  const all = new Map<string, boolean>();
  return {
    id,
    holder: id,
    agent,
    grant,
    still,
    mayUse: (upstream) => mayUseUpstream(grant, upstream),
    mayCall: (upstream, tool) => mayCallTool(grant, upstream, tool),
    mayCallAll(upstream) {
      let known = all.get(upstream);
      if (known === undefined) {
        known = mayCallAllTools(grant, upstream);
        // Only names of upstreams that exist come here.
        if (all.size < upstreamsMax) all.set(upstream, known);
      }
      return known;
    },
  };
}

const upstreamsMax = 10_000;

/** Everybody, where no agent has a credential. */
export const anybody: Principal = { ...principalOf("", null, openGrant), mayUse: () => true, mayCallAll: () => true };
