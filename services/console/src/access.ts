import { createHash, createHmac, randomBytes } from "node:crypto";
import { bearerOf, isOneOf, TokenError } from "@mcp-failover/service-kit";

/**
 * Who may act in the console.
 *
 * A1  Nobody without one of the tokens, or a session that was begun with one of them. Without a token nobody at all.
 * A2  A session is no token: it ends after `sessionMs`, with the token that it was begun with, and with this process.
 * A3  An address that showed `failuresMax` wrong tokens within `windowMs` is not heard until that time is over. Sessions go on: they cannot
 *     be guessed, so that who shares an address with someone who guesses is not locked out in an incident.
 */
export interface Access {
  /** Null: it may. `session`: what the browser's cookies say. */
  check(shown: { readonly authorization: string | undefined; readonly session: string | undefined; readonly from: string }): Refusal | null;
  /** Begins a session with a token. */
  begin(token: string, from: string): { readonly session: string; readonly expiresAtMs: number } | Refusal;
  /** Whether a session goes on; false where there is no token. */
  isOpen(session: string | undefined): boolean;
  /** Why nobody may act; null: there is a token. */
  closed(): Refusal | null;
}

export interface Refusal {
  readonly status: 401 | 429 | 503;
  readonly code: "token_missing" | "token_wrong" | "too_many_tries" | "no_token";
  /** What to do. Never with a token. */
  readonly message: string;
  readonly headers: Readonly<Record<string, string>>;
}

/** How long a session lasts, in milliseconds: 12 h (NIST SP 800-63B, 4.2.3). */
export const sessionMs = 12 * 3_600_000;
/** Wrong tokens of one address before it has to wait, and for how long they count. */
export const failuresMax = 10;
export const windowMs = 60_000;
/** Of more addresses at once the one that is known longest is forgotten. */
const addressesMax = 1000;
const keyBytes = 32;
const where =
  "it is in console.token of the credentials of `cli` (on the local stack .mcpf/credentials/cli), or the secret MCPF_CONSOLE_TOKEN";
const asksForToken = { "www-authenticate": 'Bearer realm="mcp-failover console"' };

/** `tokens` is read at each question, so that a renewed token needs no restart; it may throw TokenError. */
export function openAccess(options: {
  readonly tokens: () => readonly string[];
  readonly nowMs: () => number;
  /** Somebody showed a wrong token. */
  readonly onWrong: (from: string) => void;
}): Access {
  const { nowMs } = options;
  const key = randomBytes(keyBytes);
  const failures = new Map<string, { count: number; sinceMs: number }>();

  const tokens = (): readonly string[] | Refusal => {
    try {
      const found = options.tokens();
      return found.length > 0 ? found : noToken("this console has no token");
    } catch (error) {
      if (!(error instanceof TokenError)) throw error;
      return noToken(error.message);
    }
  };
  const proofOf = (token: string, expiresAtMs: number): string => {
    const of = createHash("sha256").update(token).digest("hex");
    return createHmac("sha256", key).update(`${expiresAtMs}.${of}`).digest("base64url");
  };
  const isGoing = (session: string, known: readonly string[]): boolean => {
    const [, expires, proof] = /^(\d{1,15})\.([\w-]{43})$/.exec(session) ?? [];
    if (expires === undefined || proof === undefined || Number(expires) <= nowMs()) return false;
    return isOneOf(
      known.map((token) => proofOf(token, Number(expires))),
      proof,
    );
  };
  /** Null: the token is one of these. */
  const tryToken = (token: string, from: string, known: readonly string[]): Refusal | null => {
    const now = nowMs();
    const before = failures.get(from);
    // A clock that was set back begins anew, too.
    const current = before !== undefined && now >= before.sinceMs && now < before.sinceMs + windowMs ? before : { count: 0, sinceMs: now };
    if (current.count >= failuresMax) return tooMany(current.sinceMs + windowMs - now);
    if (isOneOf(known, token)) return null;
    failures.delete(from);
    failures.set(from, { ...current, count: current.count + 1 });
    for (const [oldest] of failures) if (failures.size > addressesMax) failures.delete(oldest);
    options.onWrong(from);
    return { status: 401, code: "token_wrong", message: `this is not the console's token; ${where}`, headers: asksForToken };
  };

  return {
    check({ authorization, session, from }) {
      const known = tokens();
      if (!isList(known)) return known;
      const shown = bearerOf(authorization);
      if (shown !== null) return tryToken(shown, from, known);
      if (session !== undefined && isGoing(session, known)) return null;
      const message = `show the console's token: open the page and give it there, or send Authorization: Bearer <token>; ${where}`;
      return { status: 401, code: "token_missing", message, headers: asksForToken };
    },
    begin(token, from) {
      const known = tokens();
      if (!isList(known)) return known;
      const refusal = tryToken(token, from, known);
      if (refusal !== null) return refusal;
      const expiresAtMs = nowMs() + sessionMs;
      return { session: `${expiresAtMs}.${proofOf(token, expiresAtMs)}`, expiresAtMs };
    },
    isOpen(session) {
      const known = tokens();
      return session !== undefined && isList(known) && isGoing(session, known);
    },
    closed() {
      const known = tokens();
      return isList(known) ? null : known;
    },
  };
}

function isList(known: readonly string[] | Refusal): known is readonly string[] {
  return Array.isArray(known);
}

function noToken(why: string): Refusal {
  const message = `${why}, so it only shows: make the credentials (npm run dev:credentials), or set the secret MCPF_CONSOLE_TOKEN; \`mcpf failover\` needs neither`;
  return { status: 503, code: "no_token", message, headers: {} };
}

function tooMany(waitMs: number): Refusal {
  const seconds = Math.max(1, Math.ceil(waitMs / 1000));
  return {
    status: 429,
    code: "too_many_tries",
    message: `too many wrong tokens came from this address; try again in ${seconds} s`,
    headers: { "retry-after": String(seconds) },
  };
}
