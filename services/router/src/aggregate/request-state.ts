import { isObject } from "../mcp/envelope.ts";

type Value = Record<string, unknown>;

const prefix = "mcpa";

/**
 * A `requestState` says of which upstream it is, so that it comes back to that one and no other (requirement R14): inside, the upstream's own,
 * byte for byte; or the name of a call that waits in a session of the router.
 */
export function bindState(upstream: string, kind: "stateless" | "session", answer: Value): Value {
  const { result } = answer;
  if (!isObject(result) || result["resultType"] !== "input_required" || typeof result["requestState"] !== "string") return answer;
  return { ...answer, result: { ...result, requestState: [prefix, upstream, kind, result["requestState"]].join(":") } };
}

/** Null: not a state of this upstream. */
export function readState(state: unknown, upstream: string): { readonly kind: "stateless" | "session"; readonly state: string } | null {
  if (typeof state !== "string") return null;
  for (const kind of ["stateless", "session"] as const) {
    const head = `${prefix}:${upstream}:${kind}:`;
    if (state.startsWith(head)) return { kind, state: state.slice(head.length) };
  }
  return null;
}
