import type { StreamDefinition } from "@mcp-failover/contracts";

/** Only ever wider: what an older version needs stays. */
export function widened(have: StreamDefinition, want: StreamDefinition): StreamDefinition {
  const orUnlimited = (a: number, b: number) => (a === 0 || b === 0 ? 0 : Math.max(a, b));
  return {
    ...have,
    subjects: [...new Set([...have.subjects, ...want.subjects])],
    maxAgeMs: orUnlimited(have.maxAgeMs, want.maxAgeMs),
    maxBytes: Math.max(have.maxBytes, want.maxBytes),
    maxMsgBytes: Math.max(have.maxMsgBytes, want.maxMsgBytes),
    duplicateWindowMs: Math.max(have.duplicateWindowMs, want.duplicateWindowMs),
  };
}
