import type { RouterConfig } from "../config.ts";
import { type ServerTls, watchServerTls } from "./server-tls.ts";

/** TLS is configured by halves. */
class TlsSettingsError extends Error {
  override readonly name = "TlsSettingsError";
  readonly code = "tls_settings";
  readonly retriable = false;
}

/** TLS of the port as the environment says; null: plain HTTP. Throws when the files cannot be used. */
export async function startServerTls(
  config: RouterConfig,
  log: { error(details: object, message: string): void },
): Promise<ServerTls | null> {
  const { MCPF_ROUTER_TLS_CERT_FILE: certFile, MCPF_ROUTER_TLS_KEY_FILE: keyFile, MCPF_ROUTER_TLS_CLIENT_CA_FILE: clientCaFile } = config;
  if (certFile === undefined && keyFile === undefined && clientCaFile === undefined) return null;
  if (certFile === undefined || keyFile === undefined) {
    throw new TlsSettingsError("give MCPF_ROUTER_TLS_CERT_FILE and MCPF_ROUTER_TLS_KEY_FILE together; without both the port has no TLS");
  }
  return watchServerTls({ certFile, keyFile, clientCaFile }, (error) => {
    log.error({ err: error, certFile, keyFile }, "the new TLS files cannot be used; the port goes on with the last good ones");
  });
}
