import { randomUUID } from "node:crypto";
import type { Bridge } from "../bridge/bridged-client.ts";
import { clientMessageOf, MessageRefused, refusal, unknownSession } from "../bridge/message-pipe.ts";
import { type PipeLimits, PipeSession, restingLongest } from "../bridge/pipe-session.ts";
import type { UpstreamClient, UpstreamRequest, UpstreamResponse } from "../upstream-client.ts";
import { SseConnection } from "./connection.ts";

export interface SseBridgeLimits extends Pick<PipeLimits, "pendingMax" | "waitingMax" | "waitingCharsMax"> {
  /** Sessions of one endpoint, a connection each. */
  readonly sessionsMax: number;
  readonly idleMs: number;
  /** One that rested for so long may give its place to another. */
  readonly roomIdleMs: number;
  /** The stream has to be open, and to have named where messages go, within this time. */
  readonly openMs: number;
  /** A message has to be taken within this time; its answer comes on the stream. */
  readonly postMs: number;
}
export const sseLimits: SseBridgeLimits = {
  pendingMax: 256,
  waitingMax: 1000,
  waitingCharsMax: 1024 * 1024,
  sessionsMax: 500,
  idleMs: 10 * 60_000,
  roomIdleMs: 5000,
  openMs: 5000,
  postMs: 30_000,
};
const sweepMs = 15_000;

/**
 * Endpoints that speak HTTP+SSE of protocol 2024-11-05, spoken to as servers with Streamable HTTP are. They know no modern era, no resumption and
 * no other line back: a stream that ends is a lost session, which the data plane introduces again.
 */
export function createSseBridge(
  client: UpstreamClient,
  nowMs: () => number,
  limits: Partial<SseBridgeLimits> = {},
): Bridge & { readonly sessionCount: number } {
  const own = { ...sseLimits, ...limits };
  const endpoints = new Map<string, Map<string, PipeSession>>();
  const sweeper = setInterval(() => {
    for (const sessions of endpoints.values()) {
      for (const session of [...sessions.values()]) if (!session.busy && session.usedAtMs < nowMs() - own.idleMs) session.end();
    }
  }, sweepMs);
  sweeper.unref();
  const sessionsOf = (url: string): Map<string, PipeSession> => {
    const known = endpoints.get(url) ?? new Map<string, PipeSession>();
    endpoints.set(url, known);
    return known;
  };

  const begin = async (request: UpstreamRequest): Promise<UpstreamResponse> => {
    const sessions = sessionsOf(request.endpoint.url);
    // The one that has rested longest gives its place to a new one; it is introduced again when its client comes back.
    if (sessions.size >= own.sessionsMax) restingLongest(sessions.values(), nowMs() - own.roomIdleMs)?.end();
    if (sessions.size >= own.sessionsMax) return refusal(429, -32000, "too many sessions; try again later", { "retry-after": "1" });
    const id = randomUUID();
    const session = new PipeSession(id, { ...own, nowMs, onEnd: () => sessions.delete(id) });
    sessions.set(id, session);
    const connection = new SseConnection(client, request.endpoint, own.postMs);
    connection.attach(session);
    try {
      await connection.open({ connectMs: request.connectMs, withinMs: own.openMs, signal: request.signal });
    } catch (error) {
      session.end();
      if (error instanceof MessageRefused) return error.response;
      throw error;
    }
    session.attach(connection);
    return session.begin(request);
  };

  return {
    get sessionCount() {
      return [...endpoints.values()].reduce((count, sessions) => count + sessions.size, 0);
    },
    async send(request) {
      const sessionId = request.headers["mcp-session-id"];
      if (typeof sessionId === "string") return endpoints.get(request.endpoint.url)?.get(sessionId)?.handle(request) ?? unknownSession();
      if (request.method !== "POST") return refusal(405, -32000, "Method not allowed.", { allow: "POST" });
      const message = clientMessageOf(request.body);
      if (message?.kind === "request" && message.method === "initialize") return begin(request);
      return refusal(400, -32000, "Bad Request: Server not initialized");
    },
    configure(now) {
      const urls = new Set(now.map(({ url }) => url));
      for (const [url, sessions] of [...endpoints]) {
        if (urls.has(url)) continue;
        endpoints.delete(url);
        // What runs may end; a session that is not busy ends now, the others with the sweep.
        for (const session of [...sessions.values()]) if (session.inFlight === 0) session.end();
        if (sessions.size > 0) endpoints.set(url, sessions);
      }
    },
    async close() {
      clearInterval(sweeper);
      for (const sessions of endpoints.values()) for (const session of [...sessions.values()]) session.end();
    },
  };
}
