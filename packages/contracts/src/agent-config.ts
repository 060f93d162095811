import { z } from "zod";
import { secretRef } from "./secret-ref.ts";

/** Who agents are and what they may use: `agents:` and `router.auth:` of the configuration. */

const pattern = z
  .string()
  .regex(/^[\w.:*-]{1,128}(?:\/[\w.:*/-]{1,128})?$/, "give a name, in which * stands for any text; for tools also upstream/tool");

const subject = z.union([
  z.string().min(1).max(512),
  z.strictObject({ issuer: z.url({ protocol: /^https?$/ }), subject: z.string().min(1).max(512) }),
]);

const certificate = z.union(
  [
    z.strictObject({ dns: z.string().regex(/^[a-z0-9_.-]{1,253}$/) }),
    z.strictObject({ uri: z.string().min(1).max(2048) }),
    z.strictObject({ common_name: z.string().min(1).max(256) }),
    z.strictObject({ sha256: z.string().regex(/^[0-9a-f]{64}$/) }),
  ],
  { error: "write { dns: name in lower case }, { uri: spiffe://... }, { common_name: ... } or { sha256: 64 digits in lower case }" },
);

/** One agent. */
export const agentConfig = z.strictObject({
  /** The upstream tools that it uses; it can be rolled back as a whole. */
  tools: z.array(z.string()).default([]),
  /** Its bearer tokens: secrets, or their SHA-256 in hex. Several, so that they can be renewed one after another. */
  tokens: z
    .array(
      z.union([secretRef, z.strictObject({ sha256: z.string().regex(/^[0-9a-f]{64}$/) })], {
        error: "write { secret: NAME } or { sha256: ... } with 64 digits in lower case, never the token itself",
      }),
    )
    .min(1)
    .max(20)
    .optional(),
  /** What names it in the tokens of `router.auth.issuers` (by default their `sub`). */
  subjects: z.array(subject).min(1).max(100).optional(),
  /**
   * What names it in the certificate that its client shows, where the router's port asks for one: a name in it, or the SHA-256 of the whole
   * (DER). A request with a bearer token is the token's.
   */
  certificates: z.array(certificate).min(1).max(100).optional(),
  /** What it may use; everything where nothing is said. */
  allow: z.strictObject({ upstreams: z.array(pattern).max(1000).optional(), tools: z.array(pattern).max(1000).optional() }).optional(),
});
export type AgentConfig = z.infer<typeof agentConfig>;

const loopback = /^http:\/\/(?:127\.0\.0\.1|localhost|\[::1\])(?::\d+)?(?:\/|$)/;

const isSafeForKeys = (url: string): boolean => url.startsWith("https://") || loopback.test(url);

/** Keys from a line that anybody can change would let anybody in. */
const keysUrl = z
  .url({ protocol: /^https?$/, error: "give a URL that begins with https://" })
  .refine(isSafeForKeys, "use https://; http:// is for loopback alone");

/** OAuth 2.1: the router is a protected resource (RFC 9728), tokens are JWTs (RFC 9068). */
export const routerAuth = z.strictObject({
  issuers: z
    .array(
      z
        .strictObject({
          /** Exactly as in `iss`. */
          issuer: z.url({ protocol: /^https?$/ }),
          /** Without it the issuer's own metadata say where its keys are (RFC 8414, OpenID Connect Discovery). */
          jwks_url: keysUrl.optional(),
          /** Values of `aud` that mean this router, besides its `public_urls` with and without the path of the upstream. */
          audiences: z.array(z.string().min(1).max(512)).max(20).optional(),
          /** The claim that `agents.*.subjects` are compared with. */
          agent_claim: z.string().min(1).max(128).default("sub"),
          /** Scopes that a token has to have. */
          scopes: z
            .array(z.string().regex(/^[\x21\x23-\x5b\x5d-\x7e]+$/))
            .max(20)
            .optional(),
        })
        .refine(({ issuer, jwks_url: keys }) => keys !== undefined || isSafeForKeys(issuer), {
          path: ["jwks_url"],
          error: "give it, or an issuer that begins with https://: its metadata say where its keys are",
        }),
    )
    .min(1, "give at least one issuer")
    .max(10),
});
export type RouterAuth = z.infer<typeof routerAuth>;

/** The parts of a configuration that this is about. */
interface Identities {
  readonly agents: Readonly<Record<string, AgentConfig>>;
  readonly router: { readonly auth?: RouterAuth | undefined; readonly public_urls: readonly string[] };
}

/** What no schema can see: tokens and subjects that name two agents, or nobody. */
export function reportAgentProblems(config: Identities, report: (path: readonly PropertyKey[], message: string) => void): void {
  const { auth, public_urls: urls } = config.router;
  const issuers = auth?.issuers ?? [];
  if (auth !== undefined && urls.length === 0)
    report(["router", "public_urls"], "give the address of the router: tokens are made for it, and clients are told of it (router.auth)");
  const owners = new Map<string, string>();
  const claim = (path: readonly PropertyKey[], key: string, agent: string): void => {
    const owner = owners.get(key);
    if (owner !== undefined) report(path, `the agent ${owner} has it too; give each agent its own`);
    owners.set(key, agent);
  };
  for (const [name, agent] of Object.entries(config.agents)) {
    agent.tokens?.forEach((token, index) => {
      claim(["agents", name, "tokens", index], "secret" in token ? `secret ${token.secret}` : `sha256 ${token.sha256}`, name);
    });
    agent.certificates?.forEach((one, index) => {
      claim(["agents", name, "certificates", index], `certificate ${JSON.stringify(one)}`, name);
    });
    agent.subjects?.forEach((one, index) => {
      const at = ["agents", name, "subjects", index];
      if (issuers.length === 0) report(at, "no issuer is configured; add it to router.auth.issuers");
      else if (typeof one === "string" && issuers.length > 1)
        report(at, "with several issuers write { issuer, subject }: two issuers may give one name to two agents");
      else if (typeof one !== "string" && !issuers.some(({ issuer }) => issuer === one.issuer))
        report(at, `no issuer ${JSON.stringify(one.issuer)}; write it as in router.auth.issuers`);
      claim(at, typeof one === "string" ? `subject ${issuers[0]?.issuer} ${one}` : `subject ${one.issuer} ${one.subject}`, name);
    });
  }
}
