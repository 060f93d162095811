import { isIPv4, isIPv6 } from "node:net";
import { RefusedRequest } from "./errors.ts";

/**
 * Refuses requests that a foreign web page makes through a browser (DNS rebinding, requirement R23): the Host must be one of the
 * router's names, and an Origin, which only browsers send, one that is allowed. Checked here, because upstreams never see either.
 */
export interface AccessRules {
  /** Host names without port, besides loopback; `*` allows all. */
  readonly hosts: readonly string[];
  /** Whole origins (`https://console.example.com`), besides loopback; `*` allows all. */
  readonly origins: readonly string[];
}

const loopback = new Set(["localhost", "127.0.0.1", "[::1]"]);

/** Throws {@link RefusedRequest} with 403, as SDK servers do. */
export function checkAccess(host: string | undefined, origin: string | undefined, rules: AccessRules): void {
  const name = hostName(host);
  if (name === null || !(loopback.has(name) || rules.hosts.includes("*") || rules.hosts.includes(name))) {
    throw new RefusedRequest(403, -32000, `Invalid Host: ${String(host).slice(0, 100)}; allow it in router.allowed_hosts`);
  }
  if (origin === undefined) return;
  if (rules.origins.includes("*") || rules.origins.includes(origin)) return;
  let originHost: string | null = null;
  try {
    originHost = new URL(origin).hostname;
  } catch {
    // "null" and other texts that are no URL belong to no allowed page.
    originHost = null;
  }
  if (originHost === null || !loopback.has(originHost)) {
    throw new RefusedRequest(403, -32000, `Invalid Origin: ${origin.slice(0, 100)}; allow it in router.allowed_origins`);
  }
}

/**
 * `/metrics` names upstreams and endpoints, and a rebound page could read it too. Scrapers reach the router by its address, which no page
 * can rebind, or by a name that is allowed. Throws {@link RefusedRequest} with 403.
 */
export function checkMetricsHost(host: string | undefined, rules: AccessRules): void {
  const name = hostName(host);
  if (name !== null && (isIPv4(name) || isIPv6(name.replace(/^\[|\]$/g, "")))) return;
  checkAccess(host, undefined, rules);
}

/** The last Host and its name: nearly all requests name the same one. */
let lastHost = "";
let lastName: string | null = null;

function hostName(host: string | undefined): string | null {
  if (host === undefined) return null;
  if (host === lastHost) return lastName;
  const match = /^(\[[0-9a-fA-F:.]+\]|[^:/@?#\s]+)(?::\d{1,5})?$/.exec(host);
  lastHost = host;
  lastName = match?.[1]?.toLowerCase() ?? null;
  return lastName;
}

/** Which of several Hosts was meant, every reader may see in another way (RFC 9112, 3.2). */
export function checkOneHost(rawHeaders: readonly string[]): void {
  let hosts = 0;
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = rawHeaders[index];
    if (name?.length === 4 && name.toLowerCase() === "host") hosts += 1;
  }
  if (hosts > 1) throw new RefusedRequest(400, -32000, "a request has one Host: send it once");
}

/**
 * A segment of dots, also an encoded one, would lead out of the path of the endpoint, and the endpoint's credential with it. A backslash is a
 * slash to some servers, and what follows a semicolon is no part of the name to others. A fragment is no part of a target (RFC 9112, 3.2): whoever
 * reads `..#` as a URL finds two dots.
 */
export function checkPath(suffix: string): void {
  if (suffix.includes("#")) throw new RefusedRequest(400, -32000, "the path has a fragment: send # as %23");
  const [path = ""] = suffix.split("?", 1);
  const plain = path.replaceAll(/%2e/gi, ".").replaceAll(/%2f|%5c|\\/gi, "/");
  if (plain.split("/").some((segment) => /^\.{1,2}(?:;|$)/.test(segment))) {
    throw new RefusedRequest(400, -32000, "the path has segments of dots (. or ..): send it without them");
  }
}
