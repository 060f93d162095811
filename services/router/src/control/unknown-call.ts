import type { CallControl, CallDescription } from "./port.ts";

/** A call to an upstream that no configuration names. */
export function unknownCall(call: CallDescription, known: readonly string[]): CallControl {
  const problem = {
    code: "unknown_upstream",
    message: `no upstream ${JSON.stringify(call.upstream.slice(0, 80))} is configured; known: ${known.slice(0, 20).join(", ") || "none"}`,
    retriable: false,
  } as const;
  return {
    deadlineMs: call.deadlineMs,
    fallbackDeadlineMs: call.deadlineMs,
    implementation: "mcp",
    safety: "unsafe",
    stale: false,
    next: () => null,
    problem: () => problem,
    legacy: null,
    end: () => undefined,
  };
}
