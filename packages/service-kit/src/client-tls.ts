import { readFileSync, statSync } from "node:fs";
import { createSecureContext, type SecureContext } from "node:tls";
import type { EndpointTls } from "@mcp-failover/contracts";

/**
 * What a connection to an endpoint with `tls:` is made with, by routers and probers alike. The files are read again when they change, so that a renewed certificate is
 * shown by the next connection; read in place, because a connection has nothing to do before it has them, and they are small and few.
 */
interface Kept {
  readonly context: SecureContext;
  readonly stamp: string;
  lookedAtMs: number;
}

const contexts = new Map<string, Kept>();
const contextsMax = 1000;
/** Under a storm of new connections files are not looked at for each of them. */
const lookEveryMs = 1000;

/** Throws when a file cannot be read, or when certificate and key do not fit. */
export function clientContext(tls: EndpointTls): SecureContext {
  const key = tlsKey(tls);
  const nowMs = performance.now();
  const known = contexts.get(key);
  if (known !== undefined && nowMs - known.lookedAtMs < lookEveryMs) return known.context;
  const stamp = [tls.ca_file, tls.cert_file, tls.key_file].map(stampOf).join(" ");
  if (known !== undefined && known.stamp === stamp) {
    known.lookedAtMs = nowMs;
    return known.context;
  }
  const context = createSecureContext({ ca: read(tls.ca_file), cert: read(tls.cert_file), key: read(tls.key_file) });
  if (contexts.size >= contextsMax) contexts.delete(contexts.keys().next().value as string);
  contexts.set(key, { context, stamp, lookedAtMs: nowMs });
  return context;
}

/** Names the settings: connections that were made with other ones are not shared. */
export function tlsKey(tls: EndpointTls): string {
  return JSON.stringify([tls.ca_file, tls.cert_file, tls.key_file, tls.server_name]);
}

function stampOf(path: string | undefined): string {
  if (path === undefined) return "-";
  const { mtimeMs, size, ino } = statSync(path);
  return `${mtimeMs}/${size}/${ino}`;
}
function read(path: string | undefined): Buffer | undefined {
  return path === undefined ? undefined : readFileSync(path);
}
