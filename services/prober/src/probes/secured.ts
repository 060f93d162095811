import type { SecureContext } from "node:tls";
import type { EndpointTls } from "@mcp-failover/contracts";
import { clientContext } from "@mcp-failover/service-kit";

/** A file of `tls:` cannot be read here, or certificate and key do not fit: what is wrong is here, and callers fail by the same. */
class TlsFilesError extends Error {
  override readonly name = "TlsFilesError";
  readonly code = "ERR_TLS_FILES";
  readonly retriable = true;
}

/** What a connection to an endpoint with `tls:` is made with, as the router makes it. Throws {@link TlsFilesError}. */
export function secured(tls: EndpointTls): { readonly secureContext: SecureContext; readonly servername?: string } {
  try {
    return { secureContext: clientContext(tls), ...(tls.server_name === undefined ? {} : { servername: tls.server_name }) };
  } catch (error) {
    throw new TlsFilesError(`the files of tls: cannot be used: ${error instanceof Error ? error.message : String(error)}`, {
      cause: error,
    });
  }
}
