import type { EndpointTls } from "@mcp-failover/contracts";
import type { Wire } from "./wire.ts";

/** One MCP session on a legacy server. */
export interface Session {
  /** Null: the server keeps none. */
  id: string | null;
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly tls: EndpointTls | null;
  version: string;
  readonly sinceMs: number;
  usedAtMs: number;
}

/** Every session that servers keep for us, so that each of them is ended: a forgotten one costs the server 67 KB (measured). */
export interface Sessions {
  readonly count: number;
  opened(session: Session): void;
  /** The server has forgotten it by itself. */
  lost(session: Session): void;
  /** Ends it on the server, in the background. */
  end(session: Session): void;
  endAll(): Promise<void>;
}

export function openSessions(wire: Wire, endMs: number): Sessions {
  const open = new Set<Session>();
  const ending = new Set<Promise<void>>();

  async function sendDelete(session: Session, id: string): Promise<void> {
    try {
      const answer = await wire.send({
        url: session.url,
        method: "DELETE",
        headers: { ...session.headers, "mcp-protocol-version": session.version, "mcp-session-id": id },
        tls: session.tls,
        fresh: false,
        signal: AbortSignal.timeout(endMs),
      });
      // 405: this server ends sessions by itself. Whatever else it says, there is nothing more to do.
      answer.release();
    } catch {
      // A server that is gone has no sessions; one that hangs ends them by its own time-out.
    }
  }

  function end(session: Session): void {
    if (!open.delete(session) || session.id === null) return;
    const done = sendDelete(session, session.id).finally(() => ending.delete(done));
    ending.add(done);
  }

  return {
    get count() {
      return open.size;
    },
    opened: (session) => {
      open.add(session);
    },
    lost: (session) => {
      open.delete(session);
    },
    end,
    async endAll() {
      for (const session of [...open]) end(session);
      await Promise.all(ending);
    },
  };
}
