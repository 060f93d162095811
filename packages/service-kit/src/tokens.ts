import { createHash, timingSafeEqual } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Secrets } from "./secrets.ts";

interface TokenKind {
  readonly secret: string;
  readonly file: string;
  /** Who has to be given it. */
  readonly advice: string;
}

/** In the folders of credentials of routers and probers; `packages/launcher` writes it. */
export const probeTokenFile = "probe.token";
/** In the folders of credentials of the console and of `cli`, the people who operate. */
export const consoleTokenFile = "console.token";
const probes: TokenKind = { secret: "MCPF_PROBE_TOKEN", file: probeTokenFile, advice: "the same to every router and prober" };
const consoles: TokenKind = {
  secret: "MCPF_CONSOLE_TOKEN",
  file: consoleTokenFile,
  advice: "the same to the console and to whoever acts in the console",
};

/** What is given as the token cannot be one. Never with what was given. */
export class TokenError extends Error {
  override readonly name = "TokenError";
  readonly code = "token_invalid";
  readonly retriable = false;
}

type ReadTokens = (secrets: Pick<Secrets, "has" | "resolve">, credentialsDir: string | undefined) => readonly string[];

/**
 * By what a router knows the probers for which it looks at its processes (`/probe/<upstream>/<endpoint>`): the secret `MCPF_PROBE_TOKEN`,
 * else the lines of `probe.token` in the folder of credentials, the newest first. The file is read at each call, so that a renewed token
 * needs no restart. Empty: there is none. Throws {@link TokenError}.
 */
export const readProbeTokens: ReadTokens = (secrets, credentialsDir) => readTokens(probes, secrets, credentialsDir);

/**
 * By what the console knows who may act: the secret `MCPF_CONSOLE_TOKEN`, else the lines of `console.token`, as of {@link readProbeTokens}.
 * Throws {@link TokenError}.
 */
export const readConsoleTokens: ReadTokens = (secrets, credentialsDir) => readTokens(consoles, secrets, credentialsDir);

/** Whether what was shown is one of these. All are looked at, and hashes are of one length: how long it takes says nothing of any. */
export function isOneOf(tokens: readonly string[], shown: string): boolean {
  return tokens.filter((token) => timingSafeEqual(hashOf(token), hashOf(shown))).length > 0;
}

/** What a caller shows in `Authorization: Bearer ...` (RFC 6750, 2.1); null: nothing, or something else. */
export function bearerOf(authorization: string | undefined): string | null {
  return /^bearer +(\S+)$/i.exec(authorization ?? "")?.[1] ?? null;
}

function readTokens(kind: TokenKind, secrets: Pick<Secrets, "has" | "resolve">, credentialsDir: string | undefined): readonly string[] {
  if (secrets.has(kind.secret)) return [checked(kind, secrets.resolve({ secret: kind.secret }), `the secret ${kind.secret}`)];
  if (credentialsDir === undefined) return [];
  const file = join(credentialsDir, kind.file);
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? "unreadable";
    // Folders of an earlier version have none.
    if (code === "ENOENT") return [];
    throw new TokenError(`${file} cannot be read (${code}): let the user that we run as read it`);
  }
  const tokens = text.split("\n").filter((line) => line !== "");
  if (tokens.length === 0) throw new TokenError(`${file} is empty: make the credentials with \`npm run dev:credentials\``);
  return tokens.map((token) => checked(kind, token, file));
}

function checked({ advice }: TokenKind, token: string, place: string): string {
  if (/^[\w.~+/=-]{16,512}$/.test(token)) return token;
  throw new TokenError(`${place} is no token: give 16 to 512 letters, digits or -._~+/=, ${advice}`);
}

function hashOf(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}
