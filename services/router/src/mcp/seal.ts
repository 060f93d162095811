import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from "node:crypto";
import { deflateRawSync, inflateRawSync } from "node:zlib";

/**
 * A session id of the router holds the session: any router process with the key can serve it, and no client can read or forge it.
 * `mcpf1.` and base64url of nonce (12), tag (16) and AES-256-GCM of the compressed content. Visible ASCII, as the protocol asks for.
 */
export interface SealedSession {
  /** Names the session in the directory; random. */
  readonly key: string;
  readonly upstream: string;
  /** The negotiated protocol version. */
  readonly version: string;
  /** The client's `initialize` params, to introduce it to another endpoint. */
  readonly clientParams: Readonly<Record<string, unknown>>;
  /** What the first server offered: `tools`, `resources.subscribe`, ... (see {@link capabilityPaths}). */
  readonly capabilities: readonly string[];
  readonly endpoint: string;
  /** The upstream's own session id; null when it has none. */
  readonly upstreamSession: string | null;
  readonly issuedAtMs: number;
  /** Who began it; nobody else is served with it (requirement R2). Empty or absent: nobody had to say who he is. */
  readonly principal?: string;
}

export interface Sealer {
  /** Throws {@link SessionTooLargeError}. */
  seal(session: SealedSession): string;
  /** Null: not sealed with this key, damaged, or of another version. */
  open(id: string): SealedSession | null;
  /** For what travels between router processes. */
  wrap(text: string): string;
  /** Null: not wrapped with this key. */
  unwrap(wrapped: string): string | null;
}

/** The client introduces itself with more than a session id can hold. */
export class SessionTooLargeError extends Error {
  override readonly name = "SessionTooLargeError";
  readonly code = "session_too_large";
  readonly retriable = false;
  constructor(bytes: number) {
    super(`the params of initialize are too large to carry in a session id (${bytes} bytes compressed; at most ${sealedBytesMax})`);
  }
}

const prefix = "mcpf1.";
/** Compressed content; leaves room for the other headers of a request. */
const sealedBytesMax = 8 * 1024;
const openedBytesMax = 4 * 1024 * 1024;
const sessionContext = Buffer.from("mcp-failover session 1");
const wrapContext = Buffer.from("mcp-failover between routers 1");

/** Makes a sealer; the secret may be any text of at least 16 characters. */
export function createSealer(secret: string): Sealer {
  const key = Buffer.from(hkdfSync("sha256", secret, "mcp-failover", "session id", 32));
  const lock = (plain: Buffer, context: Buffer): Buffer => {
    const nonce = randomBytes(12);
    const cipher = createCipheriv("aes-256-gcm", key, nonce).setAAD(context);
    const sealed = Buffer.concat([cipher.update(plain), cipher.final()]);
    return Buffer.concat([nonce, cipher.getAuthTag(), sealed]);
  };
  /** Null for any failure: they all mean the same, that this is none of ours. */
  const unlock = (bytes: Buffer, context: Buffer): string | null => {
    if (bytes.length < 29) return null;
    try {
      const decipher = createDecipheriv("aes-256-gcm", key, bytes.subarray(0, 12)).setAAD(context).setAuthTag(bytes.subarray(12, 28));
      const plain = Buffer.concat([decipher.update(bytes.subarray(28)), decipher.final()]);
      return inflateRawSync(plain, { maxOutputLength: openedBytesMax }).toString("utf8");
    } catch {
      return null;
    }
  };
  return {
    seal(session) {
      const plain = deflateRawSync(JSON.stringify(toTuple(session)));
      if (plain.length > sealedBytesMax) throw new SessionTooLargeError(plain.length);
      return prefix + lock(plain, sessionContext).toString("base64url");
    },
    open(id) {
      if (!id.startsWith(prefix) || id.length > 2 * sealedBytesMax) return null;
      const text = unlock(Buffer.from(id.slice(prefix.length), "base64url"), sessionContext);
      return text === null ? null : fromTuple(JSON.parse(text));
    },
    wrap: (text) => lock(deflateRawSync(text), wrapContext).toString("base64url"),
    unwrap: (wrapped) => unlock(Buffer.from(wrapped, "base64url"), wrapContext),
  };
}

/** The endpoint of a session that began while no server was there. */
export const nowhere = "";

export function newSessionKey(): string {
  return randomBytes(16).toString("base64url");
}

function toTuple(s: SealedSession): unknown[] {
  return [
    s.key,
    s.upstream,
    s.version,
    s.clientParams,
    s.capabilities,
    s.endpoint,
    s.upstreamSession,
    s.issuedAtMs,
    ...(s.principal ? [s.principal] : []),
  ];
}
function fromTuple(tuple: unknown): SealedSession {
  const [key, upstream, version, clientParams, capabilities, endpoint, upstreamSession, issuedAtMs, principal] = tuple as [
    string,
    string,
    string,
    Record<string, unknown>,
    string[],
    string,
    string | null,
    number,
    string | undefined,
  ];
  return { key, upstream, version, clientParams, capabilities, endpoint, upstreamSession, issuedAtMs, ...(principal ? { principal } : {}) };
}

/** What a server declared, as sorted paths: `["resources", "resources.subscribe", "tools"]`; flags that are false are left out. */
export function capabilityPaths(capabilities: unknown): string[] {
  const paths: string[] = [];
  if (typeof capabilities !== "object" || capabilities === null) return paths;
  for (const [name, value] of Object.entries(capabilities)) {
    // What is experimental differs between servers without a promise to the client.
    if (name === "experimental" || value === false || value === null) continue;
    paths.push(name);
    if (typeof value !== "object") continue;
    for (const [inner, flag] of Object.entries(value as object)) {
      if (flag !== false && flag !== null) paths.push(`${name}.${inner}`);
    }
  }
  return paths.sort().slice(0, 64);
}
