import { type Implementation, type StatusPageRequest, type StatusView, statusLimits } from "@mcp-failover/contracts";
import { implementationOf, own, type ReadModel, viewTools, viewUpstream } from "./status.ts";

/**
 * The status of the fleet a page at a time: what is named after a name, in the order of the names. The cursor is a name and not a place,
 * because places move when the configuration does; this is the keyset pagination of databases.
 *
 * Invariants:
 * SP1 A page has at most `pageBytesMax` of JSON, or one name alone of at most `upstreamBytesMax`.
 * SP2 All pages of one model are its whole view (S2), each upstream and each agent once.
 * SP3 Whatever happens between two pages: a name that is configured at each of them is on exactly one, as that page's model has it.
 * SP4 `next` of a page is after its `after`, so that reading ends.
 */
export type PagedStatus =
  | { readonly kind: "page"; readonly view: StatusView }
  /** Of this name alone there is more than a message takes. Pages after it can be had. */
  | { readonly kind: "too_large"; readonly name: string; readonly bytes: number };

/** One page of {@link viewStatus}. Tools are on the pages of the upstreams that have them. */
export function pageStatus(
  model: ReadModel,
  services: readonly { readonly name: string; readonly instances: number }[],
  nowMs: number,
  { after = "", limit = Number.POSITIVE_INFINITY }: StatusPageRequest,
): PagedStatus {
  const { pageBytesMax, upstreamBytesMax } = statusLimits;
  const { upstreams = {}, agents = {} } = model.topology ?? {};
  const places = new Map(Object.keys(upstreams).map((name, place) => [name, place]));
  const names = [...new Set([...places.keys(), ...Object.keys(agents)])].filter((name) => name > after).sort();
  const page = { seq: model.seq, next: null as string | null, places: [] as number[] };
  const system = implementationOf(model, "system/system");
  const instances = services.map(({ name, instances }) => ({ name, instances }));
  const shown: StatusView["upstreams"] = [];
  const toolsShown: [string, Implementation][] = [];
  const agentsShown: [string, Implementation][] = [];
  let bytes = emptyBytes + sizeOf(instances);
  for (const [taken, name] of names.entries()) {
    const upstream = own(upstreams, name);
    const view = upstream === undefined ? [] : [viewUpstream(model, name, upstream, nowMs)];
    const tools = upstream === undefined ? [] : viewTools(model, upstream);
    const agent = Object.hasOwn(agents, name) ? [[name, implementationOf(model, `agent/${name}`)] as [string, Implementation]] : [];
    // A little more than it takes on the page: there are fewer brackets and commas.
    bytes += sizeOf([view, tools, agent, places.get(name) ?? null]);
    if (taken === limit || (taken > 0 && bytes > pageBytesMax)) {
      page.next = names[taken - 1] ?? null;
      break;
    }
    if (bytes > upstreamBytesMax) return { kind: "too_large", name, bytes };
    shown.push(...view);
    toolsShown.push(...tools);
    agentsShown.push(...agent);
    if (upstream !== undefined) page.places.push(places.get(name) ?? 0);
  }
  const rollback = { system, agents: Object.fromEntries(agentsShown), tools: Object.fromEntries(toolsShown) };
  return { kind: "page", view: { upstreams: shown, rollback, services: instances, page } };
}

/** A page with nothing on it is smaller. */
const emptyBytes = 512;

/** Bytes of something as JSON. */
function sizeOf(value: unknown): number {
  return Buffer.byteLength(JSON.stringify(value));
}
