import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Secrets } from "./secrets.ts";

/** In the folders of credentials of routers and probers; `packages/launcher` writes it. */
export const probeTokenFile = "probe.token";
const secretName = "MCPF_PROBE_TOKEN";

/** What is given as the token cannot be one. Never with what was given. */
export class ProbeTokenError extends Error {
  override readonly name = "ProbeTokenError";
  readonly code = "probe_token_invalid";
  readonly retriable = false;
}

/**
 * By what a router knows the probers for which it looks at its processes (`/probe/<upstream>/<endpoint>`): the secret `MCPF_PROBE_TOKEN`,
 * else the lines of `probe.token` in the folder of credentials, the newest first. The file is read at each call, so that a renewed token
 * needs no restart. Empty: there is none. Throws {@link ProbeTokenError}.
 */
export function readProbeTokens(secrets: Pick<Secrets, "has" | "resolve">, credentialsDir: string | undefined): readonly string[] {
  if (secrets.has(secretName)) return [checked(secrets.resolve({ secret: secretName }), `the secret ${secretName}`)];
  if (credentialsDir === undefined) return [];
  const file = join(credentialsDir, probeTokenFile);
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? "unreadable";
    // Folders of an earlier version have none.
    if (code === "ENOENT") return [];
    throw new ProbeTokenError(`${file} cannot be read (${code}): let the user that we run as read it`);
  }
  const tokens = text.split("\n").filter((line) => line !== "");
  if (tokens.length === 0) throw new ProbeTokenError(`${file} is empty: make the credentials with \`npm run dev:credentials\``);
  return tokens.map((token) => checked(token, file));
}

function checked(token: string, place: string): string {
  if (/^[\w.~+/=-]{16,512}$/.test(token)) return token;
  throw new ProbeTokenError(`${place} is no token: give 16 to 512 letters, digits or -._~+/=, the same to every router and prober`);
}
