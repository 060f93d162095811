import { isObject, subscriptionKey } from "./envelope.ts";

type Value = Readonly<Record<string, unknown>>;

const lists = {
  toolsListChanged: "notifications/tools/list_changed",
  promptsListChanged: "notifications/prompts/list_changed",
  resourcesListChanged: "notifications/resources/list_changed",
} as const;
const urisMax = 256;

/**
 * What a client that listens hears when another server, or the same one again, says the rest: each list, and each resource, that it was promised to hear
 * of may have changed while nobody listened for it, and the client does not see the gap (requirement R16). Nothing that it was not promised.
 */
export function changesPromised(acknowledgement: Value, id: string | number): object[] {
  const params = isObject(acknowledgement["params"]) ? acknowledgement["params"] : {};
  const promised = isObject(params["notifications"]) ? params["notifications"] : {};
  const given = promised["resourceSubscriptions"];
  const uris = Array.isArray(given) ? given.filter((uri): uri is string => typeof uri === "string").slice(0, urisMax) : [];
  const note = (method: string, own: object): object => ({ jsonrpc: "2.0", method, params: { ...own, _meta: { [subscriptionKey]: id } } });
  return [
    ...Object.entries(lists).flatMap(([kind, method]) => (promised[kind] === true ? [note(method, {})] : [])),
    ...uris.map((uri) => note("notifications/resources/updated", { uri })),
  ];
}
