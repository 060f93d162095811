import type { EndpointView } from "../control/port.ts";
import type { DataPlaneLog } from "../mcp/inbound.ts";
import { UpstreamError, type UpstreamRequest, type UpstreamResponse } from "../upstream-client.ts";
import { createGuard } from "./guard.ts";
import { type StdioLimits, stdioLimits } from "./limits.ts";
import { memoryOf, type StdioMemory } from "./memory.ts";
import { type StdioAllow, type StdioDeps, StdioServer } from "./server.ts";

/** All stdio endpoints of this router process, by the URL that stands for each. */
export interface StdioBridge {
  send(request: UpstreamRequest): Promise<UpstreamResponse>;
  /** Starts what is new and retires what is gone: calls that run there end first. */
  configure(endpoints: readonly EndpointView[]): void;
  /** Null: no process of this router. */
  probe(url: string, timeoutMs: number): Promise<{ readonly ok: boolean; readonly reason: string; readonly tookMs: number }> | null;
  /** What the processes of the endpoint use now. */
  memory(url: string): Promise<StdioMemory>;
  look(url: string, timeoutMs: number): Promise<"answers" | "silent" | "unclear">;
  reach(url: string): "listens" | "refused";
  pids(): number[];
  close(): Promise<void>;
}

export interface StdioBridgeOptions {
  readonly allow: StdioAllow;
  readonly baseEnv: Readonly<Record<string, string>>;
  readonly log: DataPlaneLog;
  readonly nowMs: () => number;
  readonly limits?: Partial<StdioLimits>;
}

const retireMs = 60_000;

export function createStdioBridge(options: StdioBridgeOptions): StdioBridge {
  const guard = createGuard();
  const deps: StdioDeps = { ...options, guard, limits: { ...stdioLimits, ...options.limits } };
  const servers = new Map<string, StdioServer>();
  const retiring = new Set<Promise<void>>();
  let closed = false;
  const sweeper = setInterval(() => {
    for (const server of servers.values()) {
      server.sweep().catch((error: unknown) => options.log.error({ err: error }, "the processes of a stdio server could not be looked at"));
    }
  }, deps.limits.sweepMs);
  sweeper.unref();

  const serverOf = (endpoint: EndpointView): StdioServer | null => {
    const known = servers.get(endpoint.url);
    if (known !== undefined || closed || endpoint.via?.kind !== "stdio") return known ?? null;
    const server = new StdioServer(endpoint.name, endpoint.via, deps);
    servers.set(endpoint.url, server);
    return server;
  };
  const retire = (url: string, server: StdioServer, graceMs: number): Promise<void> => {
    servers.delete(url);
    const over = server.retire(graceMs).finally(() => retiring.delete(over));
    retiring.add(over);
    return over;
  };

  return {
    async send(request) {
      const server = serverOf(request.endpoint);
      if (server === null) throw new UpstreamError("refused", `${request.endpoint.name} is no longer configured`, false);
      return server.handle(request);
    },
    configure(endpoints) {
      const urls = new Set(endpoints.map(({ url }) => url));
      for (const endpoint of endpoints) serverOf(endpoint);
      for (const [url, server] of [...servers]) {
        if (urls.has(url)) continue;
        retire(url, server, retireMs).catch((error: unknown) => options.log.error({ err: error }, "a stdio server could not be retired"));
      }
    },
    probe: (url, timeoutMs) => servers.get(url)?.probe(timeoutMs) ?? null,
    memory: (url) => memoryOf(servers.get(url)?.pids ?? []),
    look: async (url, timeoutMs) => servers.get(url)?.look(timeoutMs) ?? "unclear",
    reach: (url) => servers.get(url)?.reach() ?? "refused",
    pids: () => [...servers.values()].flatMap((server) => server.pids),
    async close() {
      closed = true;
      clearInterval(sweeper);
      for (const [url, server] of [...servers]) void retire(url, server, 0).catch(() => undefined);
      await Promise.allSettled([...retiring]);
      guard.stop();
    },
  };
}
