import type { ClientResponse } from "../client-exchange.ts";
import type { Principal } from "../identity/principal.ts";
import type { McpContext } from "./inbound.ts";

/**
 * Streams that are open for somebody. A call is looked at when it comes; a stream was looked at once, and may last for days. Guarantees:
 * W1  A stream whose agent may not use the upstream any more, or whose token is not good any more (withdrawn, expired, another configuration), is
 *     closed within `lookMs`; a client that comes back is looked at as any other.
 */
export interface RightsWatch {
  /** `upstream` is empty for all of them (`/mcp`). Returns how to stop watching. */
  watch(principal: Principal, upstream: string, end: () => void): () => void;
  stop(): void;
}

const lookMs = 1000;

export function createRightsWatch(): RightsWatch {
  const open = new Set<{ readonly principal: Principal; readonly upstream: string; readonly end: () => void }>();
  const ticker = setInterval(() => {
    for (const stream of open) {
      if (stream.principal.still(stream.upstream)) continue;
      open.delete(stream);
      stream.end();
    }
  }, lookMs);
  ticker.unref();
  return {
    watch(principal, upstream, end) {
      const stream = { principal, upstream, end };
      open.add(stream);
      return () => open.delete(stream);
    },
    stop: () => clearInterval(ticker),
  };
}

/**
 * A stream that ends with its client, with the rights of its agent (W1), or with the router, whichever is first. `end` is called for the
 * last two, and at once where the client has left already: nobody hears of that a second time.
 */
export function lasting(
  { openEnded, rights }: Pick<McpContext, "openEnded" | "rights">,
  stream: {
    readonly response: ClientResponse;
    readonly principal: Principal;
    readonly upstream: string;
    /** It ends with the answer of a call, so that a router that stops waits for it. */
    readonly isOfCall?: boolean;
  },
  end: () => void,
): void {
  const { response, principal, upstream } = stream;
  if (response.destroyed) {
    end();
    return;
  }
  const unwatch = rights.watch(principal, upstream, end);
  if (stream.isOfCall !== true) openEnded.add(end);
  response.once("close", () => {
    unwatch();
    openEnded.delete(end);
  });
}
