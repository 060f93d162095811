import { endpointTag, readCursor, tagged } from "./cursor.ts";
import { isObject } from "./envelope.ts";

/**
 * A `requestState` belongs to the server that gave it (requirement R14): with several endpoints it carries the name of its own to the
 * client and loses it on the way back. That one is preferred for the call that goes on; where it cannot take it another one is asked,
 * which knows the state if its replicas share a key, and says so if not.
 */
const key = Buffer.from('"requestState"');

/** The body without the name, and the name; null: it has none. Nearly all bodies are not looked through but for one word. */
export function readIssuedState(
  body: Buffer,
  params: () => Readonly<Record<string, unknown>>,
): { readonly tag: string; readonly body: Buffer } | null {
  if (!body.includes(key)) return null;
  const issued = readCursor(params()["requestState"]);
  if (issued === null) return null;
  // Cut out where that is seen to be it: what the client says besides keeps its own bytes, large numbers too.
  const head = Buffer.from(`"${tagged(issued.tag, "")}`);
  const at = body.indexOf(head);
  const cut = at === -1 ? null : Buffer.concat([body.subarray(0, at + 1), body.subarray(at + head.length)]);
  if (cut !== null && parsed(cut).params["requestState"] === issued.cursor) return { tag: issued.tag, body: cut };
  const message = parsed(body);
  return { tag: issued.tag, body: Buffer.from(JSON.stringify({ ...message, params: { ...message.params, requestState: issued.cursor } })) };
}

function parsed(body: Buffer): { readonly params: Readonly<Record<string, unknown>> } {
  return JSON.parse(body.toString("utf8"));
}

/** The answer with its `requestState` named; null where it asks for nothing. */
export function tagIssuedState(value: Readonly<Record<string, unknown>>, endpoint: string): Record<string, unknown> | null {
  const { result } = value;
  if (!isObject(result) || result["resultType"] !== "input_required" || typeof result["requestState"] !== "string") return null;
  return { ...value, result: { ...result, requestState: tagged(endpointTag(endpoint), result["requestState"]) } };
}
