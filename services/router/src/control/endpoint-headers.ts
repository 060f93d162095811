import type { EndpointConfig, SecretRef } from "@mcp-failover/contracts";

interface SecretSource {
  resolve(value: string | SecretRef): string;
}
type HeaderConfig = Readonly<Record<string, string | SecretRef>>;

export type ResolvedHeaders =
  | { readonly ok: true; readonly headers: Readonly<Record<string, string>> }
  /** `reason` names the secret that is missing, and holds no value. */
  | { readonly ok: false; readonly reason: string };

/** A value with a line break could smuggle a header in; the message does not repeat it, because it may be a secret. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
const forbidden = /[\u0000-\u0008\u000a-\u001f\u007f]/;

/**
 * The headers of one endpoint with their secrets resolved, names in lower case; basic credentials become `authorization`. They stay in
 * memory, and go to this endpoint alone.
 */
export function resolveHeaders(
  config: { readonly headers: HeaderConfig; readonly auth?: EndpointConfig["auth"] },
  secrets: SecretSource,
): ResolvedHeaders {
  const headers: Record<string, string> = {};
  try {
    for (const [name, value] of Object.entries(config.headers)) headers[name.toLowerCase()] = secrets.resolve(value);
    if (config.auth !== undefined) {
      const username = secrets.resolve(config.auth.username);
      // RFC 7617: the first colon ends the user name.
      if (username.includes(":"))
        return { ok: false, reason: "the user name of auth has a colon in it, which HTTP basic credentials cannot hold" };
      headers["authorization"] = `Basic ${Buffer.from(`${username}:${secrets.resolve(config.auth.password)}`, "utf8").toString("base64")}`;
    }
  } catch (error) {
    return { ok: false, reason: error instanceof Error ? error.message : "a secret cannot be resolved" };
  }
  for (const [name, value] of Object.entries(headers)) {
    if (forbidden.test(value)) return { ok: false, reason: `the value of the header ${name} has a control character in it; correct it` };
  }
  return { ok: true, headers };
}
