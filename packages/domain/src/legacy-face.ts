/**
 * What an agent finds of an upstream when it begins and no MCP server answers: the tools whose legacy implementation serves it (rollback strategy,
 * "System-Level Fallback").
 *
 * Invariants, cited by the tests:
 * V1  A tool is offered only where a call of it can be served: the fallback may, or a rollback sends all of its calls there. A ramp is no such rollback.
 * V2  A rollback is in force for whoever begins only where it sends every tool that has a legacy implementation there. Of an upstream that serves one
 *     of them by MCP still, an agent is not kept.
 */
export interface LegacyFaceQuestion {
  /** Those that have a legacy implementation, with `mcpPercent` of every scope that covers the agent's calls of it and was ever decided on. */
  readonly tools: readonly { readonly name: string; readonly mcpPercents: readonly number[] }[];
  /** The configuration switches everything to legacy. */
  readonly legacyMode: boolean;
  /** A call of this agent may fall back. */
  readonly fallback: boolean;
}

export interface LegacyFace {
  /** In the order in which they are configured. */
  readonly tools: readonly string[];
  /** Nothing is gained by waiting long for a server. */
  readonly inForce: boolean;
}

export function legacyFaceOf({ tools, legacyMode, fallback }: LegacyFaceQuestion): LegacyFace {
  const sent = legacyMode ? tools : tools.filter(({ mcpPercents }) => mcpPercents.includes(0));
  const offered = fallback ? tools : sent;
  return { tools: offered.map(({ name }) => name), inForce: tools.length > 0 && sent.length === tools.length };
}
