import { createHash } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";
import type { RouterAuth, SecretRef, Topology } from "@mcp-failover/contracts";
import { audienceMatches, grantOf, identityRequired, mayUseUpstream } from "@mcp-failover/domain";
import { decodeJwt, decodeProtectedHeader, errors, type JWTPayload, type JWTVerifyGetKey, type JWTVerifyOptions, jwtVerify } from "jose";
import { RefusedRequest } from "../errors.ts";
import { type Peer, peerOf } from "../tls/peer.ts";
import { anonymousOf } from "./anonymous.ts";
import type { Guard } from "./guard.ts";
import { discoveredOf, type KeySets } from "./key-sets.ts";
import { anybody, type Principal, principalOf } from "./principal.ts";

/**
 * Agents by token. Guarantees:
 * I1  Where an agent has a credential, or there is an issuer, nobody is let in without a good token: 401 says how to get one.
 * I2  A token is compared by its SHA-256; neither it nor the hash is ever in a log line, an error or an answer.
 * I3  A JWT is good with a signature by a key of its issuer, in its time, and made for this router (`aud`), which is looked at for every
 *     request; a good one is believed for at most `believedMs` without looking at the signature again, and never longer than the
 *     configuration that let it in.
 * I5  A certificate of a client counts where the request has no token, while it is valid, and only where it names one agent and no second one.
 * I4  Keys that cannot be fetched refuse nobody whom the last good ones let in.
 */
export interface TokenGuardOptions {
  readonly configuration: () => Topology | null;
  readonly secrets: { resolve(value: string | SecretRef): string };
  readonly keys: KeySets;
  readonly nowMs: () => number;
  /** A token of the configuration that cannot be used. */
  readonly onProblem: (agent: string, error: unknown) => void;
}

type Issuer = RouterAuth["issuers"][number];
interface Rules {
  readonly required: boolean;
  readonly byHash: ReadonlyMap<string, Principal>;
  /** Agent by `issuer subject`. */
  readonly bySubject: ReadonlyMap<string, string>;
  /** Agent by a name in a certificate, as `agentsOf` writes it. */
  readonly byCertificate: ReadonlyMap<string, string>;
  /** Of connections that were seen with this configuration. */
  readonly byPeer: WeakMap<Peer, Principal>;
  readonly issuers: readonly Issuer[];
  readonly publicUrls: readonly string[];
  readonly topology: Topology | null;
}

const believedMs = 60_000;
const believedMax = 10_000;
const tokenCharsMax = 16 * 1024;
const leewaySeconds = 30;
/** Asymmetric ones alone: with a shared secret everybody who can check a token could make one. */
const algorithms = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"];
const wellKnown = "/.well-known/oauth-protected-resource";

export function createTokenGuard(options: TokenGuardOptions): Guard & { required(): boolean; byCertificate(): boolean } {
  let rules: Rules = {
    required: false,
    byHash: new Map(),
    bySubject: new Map(),
    byCertificate: new Map(),
    byPeer: new WeakMap(),
    issuers: [],
    publicUrls: [],
    topology: null,
  };
  /** JWTs by their hash. Dropped with every new configuration. */
  const believed = new Map<
    string,
    { readonly principal: Principal; readonly audience: unknown; readonly issuer: Issuer; readonly untilMs: number }
  >();

  const current = (): Rules => {
    const topology = options.configuration();
    if (topology !== rules.topology && topology !== null) {
      rules = rulesOf(topology, options, stillOf);
      believed.clear();
    }
    return rules;
  };

  /** By its token's hash: what it is worth now. */
  const stillOf =
    (hash: string) =>
    (upstream: string): boolean => {
      const now = current();
      const principal = now.byHash.get(hash);
      return !now.required || (principal !== undefined && (upstream === "" || principal.mayUse(upstream)));
    };
  /** Until somebody has to say who he is. */
  const everybody = anonymousOf({ ...anybody, still: () => !current().required });

  /** Null: the certificate names nobody. */
  const ofPeer = (peer: Peer, now: Rules, place: Place): Principal | null => {
    if (peer.untilMs <= options.nowMs()) throw unauthorized(now, place, "the certificate of the client has expired");
    const before = now.byPeer.get(peer);
    if (before !== undefined) return before;
    const agents = agentsOf(peer, now);
    const [name = ""] = agents;
    if (agents.size > 1) throw unauthorized(now, place, `the certificate of the client names ${agents.size} agents`);
    const config = now.topology?.agents[name];
    if (config === undefined) return null;
    const principal = principalOf(`agent:${name}`, name, grantOf(config), (upstream) => {
      if (peer.untilMs <= options.nowMs()) return false;
      const later = current();
      if (!later.required) return true;
      const still = agentsOf(peer, later);
      const grant = still.size === 1 && still.has(name) ? later.topology?.agents[name] : undefined;
      return grant !== undefined && (upstream === "" || mayUseUpstream(grantOf(grant), upstream));
    });
    now.byPeer.set(peer, principal);
    return principal;
  };

  /** Null: the configuration changed meanwhile, and says perhaps something else of this token. */
  const verify = async (token: string, hash: string, now: Rules, place: Place): Promise<Principal | null> => {
    const issuer = issuerOf(token, now);
    if (issuer === null) throw unauthorized(now, place, "the token is none of an issuer that is configured");
    const payload = await verified(token, issuer, now, place);
    // From here on nothing is waited for: what is believed is what the configuration says now.
    if (current() !== now) return null;
    const name = payload[issuer.agent_claim];
    const agent = typeof name === "string" ? now.bySubject.get(`${issuer.issuer} ${name}`) : undefined;
    const config = agent === undefined ? undefined : now.topology?.agents[agent];
    if (agent === undefined || config === undefined) {
      throw new RefusedRequest(
        403,
        -32000,
        `no agent is configured for this token (its ${issuer.agent_claim}); add it to agents.<name>.subjects`,
      );
    }
    const granted = new Set(String(payload["scope"] ?? "").split(" "));
    const missing = (issuer.scopes ?? []).filter((scope) => !granted.has(scope));
    if (missing.length > 0) throw unauthorized(now, place, `the token lacks ${missing.join(" ")}`, missing);
    const untilTokenMs = Number(payload.exp) * 1000 + leewaySeconds * 1000;
    const id = `jwt:${hashOf(`${issuer.issuer} ${name} ${payload.sub}`).slice(0, 32)}`;
    const principal = principalOf(id, agent, grantOf(config), (upstream) => {
      const later = current();
      if (later === now) return options.nowMs() < untilTokenMs;
      const known = later.issuers.some((one) => one.issuer === issuer.issuer) && later.bySubject.get(`${issuer.issuer} ${name}`) === agent;
      const grant = known ? later.topology?.agents[agent] : undefined;
      return options.nowMs() < untilTokenMs && grant !== undefined && (upstream === "" || mayUseUpstream(grantOf(grant), upstream));
    });
    checkAudience(payload.aud, issuer, now, place);
    if (believed.size >= believedMax) believed.delete(believed.keys().next().value as string);
    const untilMs = Math.min(options.nowMs() + believedMs, untilTokenMs);
    believed.set(hash, { principal, audience: payload.aud, issuer, untilMs });
    return principal;
  };

  const verified = async (token: string, issuer: Issuer, now: Rules, place: Place): Promise<JWTPayload> => {
    const source = issuer.jwks_url ?? discoveredOf(issuer.issuer);
    for (let tries = 1; ; tries++) {
      const key = await options.keys.get(source);
      if (key === null) {
        throw new RefusedRequest(503, -32000, "the keys of the tokens' issuer are out of reach; try again", { "retry-after": "5" });
      }
      try {
        const { payload } = await verifiedByAny(token, key, {
          issuer: issuer.issuer,
          algorithms,
          clockTolerance: leewaySeconds,
          requiredClaims: ["exp", "aud"],
          currentDate: new Date(options.nowMs()),
        });
        return payload;
      } catch (error) {
        if (mayBeByNewKey(error, token) && tries === 1 && (await options.keys.again(source))) continue;
        throw unauthorized(now, place, sayWhy(error));
      }
    }
  };

  const guard: ReturnType<typeof createTokenGuard> = {
    required: () => current().required,
    byCertificate: () => current().byCertificate.size > 0,
    identify(headers, face, upstream, socket) {
      const now = current();
      if (!now.required) return everybody(socket);
      const place = { face, upstream };
      const token = bearerOf(headers);
      if (token === null) {
        // Who sends something else as a credential is not let in by what is beside it.
        const mayName = now.byCertificate.size > 0 && headers.authorization === undefined;
        const peer = mayName && socket ? peerOf(socket) : null;
        const named = peer === null ? null : ofPeer(peer, now, place);
        if (named === null) throw unauthorized(now, place, null);
        return named;
      }
      const hash = hashOf(token);
      const known = now.byHash.get(hash);
      if (known !== undefined) return known;
      const before = believed.get(hash);
      if (before !== undefined && before.untilMs > options.nowMs()) {
        checkAudience(before.audience, before.issuer, now, place);
        return before.principal;
      }
      believed.delete(hash);
      if (now.issuers.length === 0 || token.split(".").length !== 3) throw unauthorized(now, place, "the token is not known");
      // Each further time is one more new configuration.
      return verify(token, hash, now, place).then((principal) => principal ?? guard.identify(headers, face, upstream, socket));
    },
    metadata(path) {
      const now = current();
      const [base] = now.publicUrls;
      if (now.issuers.length === 0 || base === undefined || !path.startsWith(wellKnown)) return null;
      const prefix = new URL(base).pathname.replace(/\/$/, "");
      let rest = path.slice(wellKnown.length);
      if (prefix !== "" && rest.startsWith(prefix)) rest = rest.slice(prefix.length);
      if (rest !== "" && rest !== "/mcp" && !/^\/(?:mcp|http)\/[\w.-]{1,128}$/.test(rest)) return null;
      const scopes = [...new Set(now.issuers.flatMap(({ scopes: wanted = [] }) => wanted))];
      return {
        resource: rest === "" ? base : `${base.replace(/\/$/, "")}${rest}`,
        authorization_servers: now.issuers.map(({ issuer }) => issuer),
        bearer_methods_supported: ["header"],
        resource_name: "mcp-failover",
        ...(scopes.length === 0 ? {} : { scopes_supported: scopes }),
      };
    },
  };
  return guard;
}

interface Place {
  readonly face: "mcp" | "http";
  readonly upstream: string;
}

/** `/mcp` alone is all upstreams as one server. */
function pathOf({ face, upstream }: Place): string {
  return upstream === "" ? `/${face}` : `/${face}/${upstream}`;
}

function rulesOf(topology: Topology, options: TokenGuardOptions, stillOf: (hash: string) => (upstream: string) => boolean): Rules {
  const byHash = new Map<string, Principal>();
  const bySubject = new Map<string, string>();
  const issuers = topology.router.auth?.issuers ?? [];
  for (const [name, agent] of Object.entries(topology.agents)) {
    const grant = grantOf(agent);
    for (const token of agent.tokens ?? []) {
      try {
        const hash = "sha256" in token ? token.sha256 : hashOf(options.secrets.resolve(token));
        byHash.set(hash, principalOf(`agent:${name}`, name, grant, stillOf(hash)));
      } catch (error) {
        // The agent cannot come in with it; the others can.
        options.onProblem(name, error);
      }
    }
    for (const subject of agent.subjects ?? []) {
      bySubject.set(typeof subject === "string" ? `${issuers[0]?.issuer} ${subject}` : `${subject.issuer} ${subject.subject}`, name);
    }
  }
  const byCertificate = new Map(
    Object.entries(topology.agents).flatMap(([name, { certificates = [] }]) =>
      certificates.map((one) => [Object.entries(one).flat().join(" "), name] as const),
    ),
  );
  const { public_urls: publicUrls } = topology.router;
  return { required: identityRequired(topology), byHash, bySubject, byCertificate, byPeer: new WeakMap(), issuers, publicUrls, topology };
}

/** The agents that a certificate names, each as the configuration writes it. */
function agentsOf({ dns, uris, commonName, sha256 }: Peer, { byCertificate }: Rules): ReadonlySet<string> {
  const names = [`sha256 ${sha256}`, ...dns.map((one) => `dns ${one}`), ...uris.map((one) => `uri ${one}`)];
  if (commonName !== null) names.push(`common_name ${commonName}`);
  return new Set(names.flatMap((one) => byCertificate.get(one) ?? []));
}

function checkAudience(audience: unknown, issuer: Issuer, rules: Rules, place: Place): void {
  const own = rules.publicUrls.flatMap((url) => [url, `${url.replace(/\/$/, "")}${pathOf(place)}`]);
  if (!audienceMatches(audience, [...own, ...(issuer.audiences ?? [])]))
    throw unauthorized(rules, place, "the token was made for another resource");
}

function issuerOf(token: string, rules: Rules): Issuer | null {
  try {
    const { iss } = decodeJwt(token);
    return rules.issuers.find(({ issuer }) => issuer === iss) ?? null;
  } catch (error) {
    if (error instanceof errors.JOSEError) return null;
    throw error;
  }
}

/** The bearer token, or null. Tokens in the URL are not taken: they would be in every log (RFC 9700, 4.3.2). */
function bearerOf(headers: IncomingHttpHeaders): string | null {
  const { authorization } = headers;
  if (authorization === undefined || authorization.length > tokenCharsMax) return null;
  return /^bearer +([\w.~+/=-]+)$/i.exec(authorization)?.[1] ?? null;
}

function hashOf(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

/** 401, or 403 for scopes that are missing, with what RFC 6750 and RFC 9728 say about `WWW-Authenticate`. */
function unauthorized(rules: Rules, place: Place, why: string | null, scopes: readonly string[] = []): RefusedRequest {
  const [base] = rules.publicUrls;
  const parts = [`realm="mcp-failover"`];
  if (why !== null) parts.push(`error="${scopes.length > 0 ? "insufficient_scope" : "invalid_token"}"`, `error_description="${why}"`);
  if (scopes.length > 0) parts.push(`scope="${scopes.join(" ")}"`);
  if (rules.issuers.length > 0 && base !== undefined && /^[\w.-]{0,128}$/.test(place.upstream)) {
    const { origin, pathname } = new URL(base);
    parts.push(`resource_metadata="${origin}${wellKnown}${pathname.replace(/\/$/, "")}${pathOf(place)}"`);
  }
  const message =
    why === null
      ? `send a bearer token: Authorization: Bearer ...${rules.byCertificate.size > 0 ? ", or a certificate that names an agent" : ""}`
      : `the token is refused: ${why}`;
  return new RefusedRequest(scopes.length > 0 ? 403 : 401, -32000, message, { "www-authenticate": `Bearer ${parts.join(", ")}` });
}

/** Keys of one issuer that a token without `kid` is tried with: two while they are renewed, and a few more. */
const alikeMax = 8;

/** A token need not say which of the issuer's keys it was signed with (RFC 7515, 4.1.4). Throws what {@link jwtVerify} does. */
async function verifiedByAny(token: string, keys: JWTVerifyGetKey, how: JWTVerifyOptions): Promise<{ readonly payload: JWTPayload }> {
  try {
    return await jwtVerify(token, keys, how);
  } catch (error) {
    if (!(error instanceof errors.JWKSMultipleMatchingKeys)) throw error;
    let tries = 0;
    for await (const key of error) {
      if (++tries > alikeMax) break;
      try {
        return await jwtVerify(token, key, how);
      } catch (wrong) {
        // One that cannot be used says nothing of the next one.
        if (wrong instanceof errors.JOSEError && !(wrong instanceof errors.JWSSignatureVerificationFailed)) throw wrong;
      }
    }
    throw new errors.JWSSignatureVerificationFailed();
  }
}

/** By a key that the issuer has had for less time than its keys are kept here. */
function mayBeByNewKey(error: unknown, token: string): boolean {
  if (error instanceof errors.JWKSNoMatchingKey) return true;
  return error instanceof errors.JWSSignatureVerificationFailed && decodeProtectedHeader(token).kid === undefined;
}

/** Never the error's own text, which could repeat a part of the token. */
function sayWhy(error: unknown): string {
  // Of the token jose says what is wrong with an error of its own.
  if (!(error instanceof errors.JOSEError)) return "the issuer's key for it cannot be used";
  if (error instanceof errors.JWTExpired) return "it has expired";
  if (error instanceof errors.JWTClaimValidationFailed) return `its claim ${error.claim} is missing or wrong`;
  if (error instanceof errors.JWKSNoMatchingKey) return "its key is not one of the issuer's";
  if (error instanceof errors.JWSSignatureVerificationFailed) return "its signature is wrong";
  if (error instanceof errors.JOSEAlgNotAllowed) return "its algorithm is not allowed";
  return "it is not valid";
}
