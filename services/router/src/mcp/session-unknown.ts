/**
 * Whether an answer means that the upstream does not know the session (requirement R4): 404 by the protocol; 400 with a JSON-RPC error
 * about the session by server-everything and by SDK servers that lost their memory. Where the request named a session that the server
 * has given, it is proof that the request did not run; where it named none, it is an answer like any other.
 */
export function isSessionUnknown(status: number, body: Buffer): boolean {
  if (status === 404) return true;
  if (status !== 400) return false;
  try {
    const value = JSON.parse(body.toString("utf8")) as { error?: { code?: unknown; message?: unknown } };
    return value.error?.code === -32000 && /session|not initialized/i.test(String(value.error.message));
  } catch {
    return false;
  }
}
