import type { AccessRules } from "./access.ts";
import type { LastLists } from "./aggregate/last-lists.ts";
import { createAggregate } from "./aggregate/serve.ts";
import { type Bridges, bridgedClient } from "./bridge/bridged-client.ts";
import type { RouterControl } from "./control/port.ts";
import { createSseBridge, sseLimits } from "./http-sse/bridge.ts";
import { type Guard, openGuard } from "./identity/guard.ts";
import type { SessionDirectory } from "./mcp/directory.ts";
import { createEraBook } from "./mcp/era.ts";
import { createFaceBook } from "./mcp/face.ts";
import type { DataPlaneLog, DataPlaneMetrics, McpContext, StreamClaims } from "./mcp/inbound.ts";
import { createOfferBook } from "./mcp/offer-book.ts";
import { createReplay } from "./mcp/replay.ts";
import { createRightsWatch } from "./mcp/rights.ts";
import { createSealer } from "./mcp/seal.ts";
import type { Session } from "./mcp/session.ts";
import { createSessionTable } from "./mcp/session-table.ts";
import type { EventId } from "./mcp/stream-log.ts";
import { createTaskBook, type TaskBook } from "./mcp/task-book.ts";
import { createToolBook } from "./mcp/tool-book.ts";
import { observedControl } from "./observe/observed-control.ts";
import type { Observing } from "./observe/start-observing.ts";
import { type RouterServer, type RouterServerOptions, startServer } from "./server.ts";
import type { ServerTls } from "./tls/server-tls.ts";
import { createUpstreamClient } from "./upstream-client.ts";

/** The data plane of one router process: everything between the port and the upstreams. */
export interface DataPlaneOptions {
  readonly host: string;
  readonly port: number;
  /** Seals session ids; the same in all router processes behind one port. */
  readonly sessionSecret: string;
  readonly control: RouterControl;
  readonly directory: SessionDirectory;
  readonly claims: StreamClaims;
  /** What upstreams of `/mcp` gave last, in common with other processes. */
  readonly lastLists?: LastLists;
  readonly access: () => AccessRules;
  /** Which endpoint runs a task; without it this process alone knows. */
  readonly tasks?: TaskBook;
  /** Who makes a request; without it everybody may do everything. */
  readonly guard?: Guard;
  /** By what probers are known; without it they are on this machine. */
  readonly probeTokens?: () => readonly string[];
  /** What is told of each call. */
  readonly observing?: Observing;
  /** Of the port; without it plain HTTP. */
  readonly tls?: ServerTls | null;
  readonly log: DataPlaneLog;
  readonly metrics: DataPlaneMetrics;
  readonly health: RouterServerOptions["health"];
  readonly nowMs: () => number;
  readonly limits?: Partial<DataPlaneLimits>;
  /** The router's own reader of small plain calls, before node:http. */
  readonly front?: boolean;
  /** What reaches endpoints that speak no Streamable HTTP; closed with the data plane. */
  readonly bridges?: Bridges;
}
export interface DataPlaneLimits {
  readonly heartbeatMs: number;
  readonly awayMsMax: number;
  readonly sessionsMax: number;
  /** Of one agent; of one address, where nobody has to say who he is. */
  readonly agentSessionsMax: number;
  readonly sessionIdleMs: number;
  /** Connections an endpoint, of calls and of streams each. */
  readonly connectionsMax: number;
}
const limitsDefault: DataPlaneLimits = {
  heartbeatMs: 15_000,
  awayMsMax: 60_000,
  sessionsMax: 50_000,
  agentSessionsMax: 10_000,
  sessionIdleMs: 30 * 60_000,
  connectionsMax: 2048,
};

export interface DataPlane extends RouterServer {
  readonly sessionCount: number;
  /** A session that is in memory, by its key; for what other processes say of it. */
  sessionByKey(key: string): Session | null;
  /** What they say of one with `/mcp`. */
  sessionChanged(key: string, from: EventId | null): void;
}

/** Starts to listen. */
export async function startDataPlane(options: DataPlaneOptions): Promise<DataPlane> {
  const { nowMs, log, metrics, observing } = options;
  const control = observing === undefined ? options.control : observedControl(options.control, observing, nowMs);
  const limits = { ...limitsDefault, ...options.limits };
  const http = createUpstreamClient({ connectionsMax: limits.connectionsMax, headerBytesMax: 64 * 1024, idleMs: 4000 });
  const client = bridgedClient(
    http,
    { sse: createSseBridge(http, nowMs, { idleMs: Math.min(sseLimits.idleMs, limits.sessionIdleMs) }), ...options.bridges },
    () => control.upstreams().flatMap((name) => control.upstream(name)?.endpoints ?? []),
  );
  const sessions = createSessionTable({
    sealer: createSealer(options.sessionSecret),
    sessionsMax: limits.sessionsMax,
    agentSessionsMax: limits.agentSessionsMax,
    idleMs: limits.sessionIdleMs,
    nowMs,
  });
  const tools = createToolBook(nowMs, (found) => {
    log.warn({ ...found }, "endpoints of one upstream have different tools: they do not stand in for each other");
    metrics.toolsDiffer?.(found.upstream, found.endpoint);
  });
  const offers = createOfferBook((found) => {
    log.warn({ ...found }, "endpoints of one upstream offer different things: a session of the other one does not move to this one");
    metrics.offersDiffer?.(found.upstream, found.endpoint);
  });
  const replay = createReplay({
    client,
    tools,
    offers,
    log,
    directory: options.directory,
    nowMs,
    onReplay: (session, endpoint, outcome, tookMs) => {
      metrics.replay(session.sealed.upstream, outcome);
      log.debug({ upstream: session.sealed.upstream, endpoint, outcome, tookMs }, "session replay");
    },
  });
  const rights = createRightsWatch();
  const mcp: McpContext = {
    rights,
    control,
    client,
    sessions,
    directory: options.directory,
    replay,
    eras: createEraBook(client, nowMs),
    claims: options.claims,
    faces: createFaceBook(),
    tools,
    offers,
    tasks: options.tasks ?? createTaskBook(),
    log,
    metrics,
    nowMs,
    heartbeatMs: limits.heartbeatMs,
    awayMsMax: limits.awayMsMax,
    openEnded: new Set(),
  };
  const aggregate = createAggregate(mcp, observing?.trace ?? null, options.lastLists ?? null);
  const server = await startServer({
    aggregate,
    host: options.host,
    port: options.port,
    mcp,
    http: { control, client, log, metrics, nowMs },
    access: options.access,
    guard: options.guard ?? openGuard,
    probeTokens: options.probeTokens ?? (() => []),
    tls: options.tls ?? null,
    front: options.front ?? false,
    trace: observing?.trace ?? null,
    health: options.health,
  });
  const stopFollowing = control.onRouteChange((upstream) => {
    const view = control.upstream(upstream);
    for (const session of sessions.all()) if (session.sealed.upstream === upstream) session.stream?.tick(view);
    client.retain(new Set(control.upstreams().flatMap((name) => control.upstream(name)?.endpoints.map(({ url }) => url) ?? [])));
  });
  return {
    url: server.url,
    port: server.port,
    get connections() {
      return server.connections;
    },
    get sessionCount() {
      return sessions.size;
    },
    sessionByKey: (key) => sessions.byKey(key),
    sessionChanged: aggregate.changed,
    async close(graceMs) {
      stopFollowing();
      aggregate.close();
      rights.stop();
      await server.close(graceMs);
      await client.close();
    },
  };
}
