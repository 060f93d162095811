import { isObject, type ServerMessage } from "../mcp/envelope.ts";
import { prefixed, prefixedUri, taggedId } from "./names.ts";

type Value = Record<string, unknown>;

/** The lists that several upstreams share, by method. */
export const lists = {
  "tools/list": { key: "tools", changed: "notifications/tools/list_changed" },
  "prompts/list": { key: "prompts", changed: "notifications/prompts/list_changed" },
  "resources/list": { key: "resources", changed: "notifications/resources/list_changed" },
  "resources/templates/list": { key: "resourceTemplates", changed: "notifications/resources/list_changed" },
} as const;
export type ListMethod = keyof typeof lists;
export function isListMethod(method: string): method is ListMethod {
  return Object.hasOwn(lists, method);
}

/** An item of a list as clients of all upstreams see it; null for what has no name. */
export function itemOf(method: ListMethod, upstream: string, separator: string, item: unknown): Value | null {
  if (!isObject(item)) return null;
  const { name, uri, uriTemplate } = item;
  if (method === "resources/list") return typeof uri === "string" ? { ...item, uri: prefixedUri(upstream, uri) } : null;
  if (method === "resources/templates/list") {
    return typeof uriTemplate === "string" ? { ...item, uriTemplate: prefixedUri(upstream, uriTemplate) } : null;
  }
  return typeof name === "string" ? { ...item, name: prefixed(upstream, separator, name) } : null;
}

/** A message of one upstream as clients of all see it: ids of its own requests, and URIs, say whose they are. */
export function fromUpstream(upstream: string, message: ServerMessage, value: Value): Value {
  switch (message.kind) {
    case "request":
      return { ...value, id: taggedId(upstream, message.id) };
    case "notification": {
      const params = isObject(value["params"]) ? value["params"] : {};
      const id = params["requestId"];
      if (message.method === "notifications/cancelled" && (typeof id === "string" || typeof id === "number")) {
        return { ...value, params: { ...params, requestId: taggedId(upstream, id) } };
      }
      return message.method === "notifications/resources/updated" ? { ...value, params: withUri(upstream, params) } : value;
    }
    case "answer":
      return isObject(value["result"]) ? { ...value, result: resultOf(upstream, value["result"]) } : value;
    case "other":
      return value;
  }
}

/** `tools/call` (content), `prompts/get` (messages) and `resources/read` (contents) may name resources. */
function resultOf(upstream: string, result: Value): Value {
  const { content, contents, messages } = result;
  return {
    ...result,
    ...(Array.isArray(content) ? { content: content.map((block) => blockOf(upstream, block)) } : {}),
    ...(Array.isArray(contents) ? { contents: contents.map((part) => (isObject(part) ? withUri(upstream, part) : part)) } : {}),
    ...(Array.isArray(messages)
      ? { messages: messages.map((one) => (isObject(one) ? { ...one, content: blockOf(upstream, one["content"]) } : one)) }
      : {}),
  };
}
function blockOf(upstream: string, block: unknown): unknown {
  if (!isObject(block)) return block;
  if (block["type"] === "resource_link") return withUri(upstream, block);
  if (block["type"] === "resource" && isObject(block["resource"])) return { ...block, resource: withUri(upstream, block["resource"]) };
  return block;
}
function withUri(upstream: string, part: Value): Value {
  return typeof part["uri"] === "string" ? { ...part, uri: prefixedUri(upstream, part["uri"]) } : part;
}
