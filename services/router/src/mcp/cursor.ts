import { createHash } from "node:crypto";
import { isObject } from "./envelope.ts";

/**
 * Cursors of lists belong to the server that gave them (requirement R16): with several endpoints they carry its name to the client and lose it on
 * the way back. One of an endpoint that cannot be asked any more is refused with -32602, as a server refuses a cursor that it does not know.
 */
const prefix = "mcpf.";

export interface Cursor {
  readonly tag: string;
  readonly cursor: string;
}

/** Short name of an endpoint, the same in every router process. */
export function endpointTag(endpoint: string): string {
  return createHash("sha256").update(endpoint).digest("base64url").slice(0, 8);
}

/** Null: no cursor, or none of ours. */
export function readCursor(cursor: unknown): Cursor | null {
  if (typeof cursor !== "string" || !cursor.startsWith(prefix) || cursor[prefix.length + 8] !== ".") return null;
  return { tag: cursor.slice(prefix.length, prefix.length + 8), cursor: cursor.slice(prefix.length + 9) };
}

/** The answer with its `nextCursor` tagged; null where it has none. */
export function tagNextCursor(value: Readonly<Record<string, unknown>>, endpoint: string): Record<string, unknown> | null {
  const { result } = value;
  if (!isObject(result) || typeof result["nextCursor"] !== "string") return null;
  return { ...value, result: { ...result, nextCursor: tagged(endpointTag(endpoint), result["nextCursor"]) } };
}

export function tagged(tag: string, text: string): string {
  return `${prefix}${tag}.${text}`;
}
