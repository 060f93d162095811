/**
 * How the parts of several upstreams are told apart in one server. Guarantees:
 * N1  What a client is given for a tool, prompt or resource says by itself whose it is, in every router process and after any restart.
 * N2  The way back gives exactly the upstream and the name or URI that it came from, or nothing.
 */
export function prefixed(upstream: string, separator: string, name: string): string {
  return `${upstream}${separator}${name}`;
}

/** The longest name of an upstream wins, should one begin with another. */
export function splitName(given: string, separator: string, upstreams: readonly string[]): { upstream: string; name: string } | null {
  let found: { upstream: string; name: string } | null = null;
  for (const upstream of upstreams) {
    if (!given.startsWith(upstream + separator) || (found !== null && found.upstream.length > upstream.length)) continue;
    found = { upstream, name: given.slice(upstream.length + separator.length) };
  }
  return found;
}

const scheme = "mcpf+";

/** A scheme has small letters, digits, '+', '-' and '.' (RFC 3986, 3.1): '_' is written '..', a capital '.' and its small letter. */
function inScheme(upstream: string): string {
  return upstream.replaceAll("_", "..").replaceAll(/[A-Z]/g, (letter) => `.${letter.toLowerCase()}`);
}

/** Put before a URI or a URI template: `mcpf+everything+demo://resource/1`. */
export function prefixedUri(upstream: string, uri: string): string {
  return `${scheme}${inScheme(upstream)}+${uri}`;
}

export function splitUri(given: string, upstreams: readonly string[]): { upstream: string; uri: string } | null {
  if (!given.startsWith(scheme)) return null;
  const end = given.indexOf("+", scheme.length);
  const name = given.slice(scheme.length, end);
  const upstream = end < 0 ? undefined : upstreams.find((candidate) => inScheme(candidate) === name);
  return upstream === undefined ? null : { upstream, uri: given.slice(end + 1) };
}

const requestPrefix = "mcpa.";

/** Ids of the servers' own requests: two servers both count from 0. */
export function taggedId(upstream: string, id: string | number): string {
  return `${requestPrefix}${upstream}.${JSON.stringify(id)}`;
}
export function splitId(given: unknown): { upstream: string; id: string | number } | null {
  if (typeof given !== "string" || !given.startsWith(requestPrefix)) return null;
  const dot = given.indexOf(".", requestPrefix.length);
  if (dot < 0) return null;
  try {
    const id: unknown = JSON.parse(given.slice(dot + 1));
    return typeof id === "string" || typeof id === "number" ? { upstream: given.slice(requestPrefix.length, dot), id } : null;
  } catch {
    // Not an id that this router made.
    return null;
  }
}
