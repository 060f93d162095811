import { fetchJson } from "./fetch-json.ts";

const metadataBytesMax = 256 * 1024;

/**
 * Where an issuer says that its keys are: its metadata by RFC 8414, else by OpenID Connect Discovery. Metadata that name another issuer are
 * not believed (RFC 8414, 3.3), nor keys from a line that anybody can change. Throws when there are none to be had.
 */
export async function keySetUrlOf(issuer: string, signal: AbortSignal): Promise<string> {
  const problems: unknown[] = [];
  for (const url of metadataUrlsOf(issuer)) {
    try {
      return readMetadata(await fetchJson(url, metadataBytesMax, signal), issuer, url);
    } catch (error) {
      if (signal.aborted) throw error;
      problems.push(error);
    }
  }
  throw new AggregateError(problems, `the metadata of ${issuer} do not say where its keys are; give jwks_url (router.auth.issuers)`);
}

/** In the order in which they are asked for; without a path two of the three are one. */
function metadataUrlsOf(issuer: string): Set<string> {
  const { origin, pathname } = new URL(issuer);
  const path = pathname.replace(/\/$/, "");
  return new Set([
    `${origin}/.well-known/oauth-authorization-server${path}`,
    `${origin}/.well-known/openid-configuration${path}`,
    `${origin}${path}/.well-known/openid-configuration`,
  ]);
}

function readMetadata(value: unknown, issuer: string, url: string): string {
  const metadata = typeof value === "object" && value !== null ? (value as { issuer?: unknown; jwks_uri?: unknown }) : {};
  if (metadata.issuer !== issuer) throw new Error(`${url} is about another issuer`);
  const { jwks_uri: keys } = metadata;
  if (typeof keys !== "string" || !URL.canParse(keys)) throw new Error(`${url} says nothing of keys`);
  // A developer's issuer on loopback has its keys there too.
  const { protocol, hostname } = new URL(keys);
  if (protocol !== "https:" && !(protocol === "http:" && loopback.has(hostname) && loopback.has(new URL(issuer).hostname)))
    throw new Error(`${url} names keys that do not come by https`);
  return keys;
}

const loopback: ReadonlySet<string> = new Set(["127.0.0.1", "localhost", "[::1]"]);
