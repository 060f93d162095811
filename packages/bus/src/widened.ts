import type { StreamDefinition } from "@mcp-failover/contracts";

/** Only ever wider: what an older version needs stays, and so does what an operator has given. No limit is 0 or -1, as NATS says it. */
export function widened(have: StreamDefinition, want: StreamDefinition): StreamDefinition {
  const orUnlimited = (a: number, b: number) => (a <= 0 || b <= 0 ? Math.min(a, b) : Math.max(a, b));
  return {
    ...have,
    subjects: [...new Set([...have.subjects, ...want.subjects])],
    maxAgeMs: orUnlimited(have.maxAgeMs, want.maxAgeMs),
    maxBytes: orUnlimited(have.maxBytes, want.maxBytes),
    maxMessages: orUnlimited(have.maxMessages, want.maxMessages),
    maxMsgBytes: orUnlimited(have.maxMsgBytes, want.maxMsgBytes),
    duplicateWindowMs: Math.max(have.duplicateWindowMs, want.duplicateWindowMs),
  };
}
