import { type BucketName, buckets, isStdioUrl } from "@mcp-failover/contracts";
import { healthAnswer, type Kit, type Running, readProbeTokens } from "@mcp-failover/service-kit";
import type { AccessRules } from "./access.ts";
import { createLastLists } from "./aggregate/last-lists.ts";
import type { RouterConfig } from "./config.ts";
import { createRouterControl } from "./control/control.ts";
import { answers, reaches } from "./control/reach.ts";
import { type DataPlane, startDataPlane } from "./data-plane.ts";
import { startTokenGuard } from "./identity/start-guard.ts";
import { createStreamClaims, hearCancellations, hearChanges, serveStreamClaims } from "./mcp/claims.ts";
import { createSharedDirectory } from "./mcp/directory.ts";
import { createSealer } from "./mcp/seal.ts";
import { type SharedBucketOptions, sharedBucket, troubleTeller } from "./mcp/shared-bucket.ts";
import { createTaskBook } from "./mcp/task-book.ts";
import { dataPlaneMetrics } from "./metrics.ts";
import { startObserving } from "./observe/start-observing.ts";
import { sessionSecret } from "./session-key.ts";
import { createStdioBridge } from "./stdio/bridge.ts";
import { stdioLimits } from "./stdio/limits.ts";
import { probeAnswer } from "./stdio/probe-answer.ts";
import { startServerTls } from "./tls/start-server-tls.ts";

/** What a request may wait for the directory; a healthy one answers in a few milliseconds. */
const directoryMs = 300;

/**
 * The whole router: `control` hears the log and decides where calls go, the data plane carries them. It says `traffic.observed` (control) and
 * asks and tells other routers with `session.claimed`, `session.cancelled` and `session.changed`.
 */
export async function startRouter(kit: Kit<RouterConfig>): Promise<Running> {
  const { config, bus, log, registry } = kit;
  const secret = await sessionSecret(config.MCPF_SESSION_KEY, kit.dataDir);
  const probeTokens = (): readonly string[] => readProbeTokens(kit.secrets, config.MCPF_CREDENTIALS_DIR);
  // One that cannot be used is said now, and not to the first prober.
  probeTokens();
  const sealer = createSealer(secret);
  const stdio = createStdioBridge({
    allow: config.MCPF_STDIO_ALLOW ?? new Map(),
    baseEnv: { PATH: config.PATH },
    log,
    nowMs: kit.nowMs,
    limits: { idleMs: Math.min(stdioLimits.idleMs, config.MCPF_ROUTER_SESSION_IDLE_MS) },
  });
  const control = await createRouterControl(kit, {
    reaches: async (url, timeoutMs) => (isStdioUrl(url) ? stdio.reach(url) : reaches(url, timeoutMs)),
    answers: (url, timeoutMs) => (isStdioUrl(url) ? stdio.look(url, timeoutMs) : answers(url, timeoutMs)),
    zone: kit.config.MCPF_ZONE ?? null,
  });
  const observing = startObserving(kit);
  const guard = startTokenGuard(kit, control);
  const tls = await startServerTls(config, log);
  let listening: DataPlane | null = null;
  let accessGiven: object | undefined;
  const hosts = config.MCPF_ROUTER_ALLOWED_HOSTS.map((host) => host.toLowerCase());
  let access: AccessRules = { hosts, origins: config.MCPF_ROUTER_ALLOWED_ORIGINS };
  const inCommon = (name: BucketName): SharedBucketOptions => ({
    bucket: () => bus.bucket(name, buckets[name]),
    reachable: () => bus.status.kind === "connected",
    timeoutMs: directoryMs,
    onTrouble: troubleTeller(name, log, kit.nowMs),
  });
  const plane = await startDataPlane({
    host: config.MCPF_ROUTER_HOST,
    port: config.MCPF_ROUTER_PORT,
    sessionSecret: secret,
    control,
    directory: createSharedDirectory(inCommon("router-sessions")),
    lastLists: createLastLists({ ...inCommon("router-lists"), sealer }),
    tasks: createTaskBook(sharedBucket(inCommon("router-sessions"))),
    claims: createStreamClaims(kit, sealer),
    access: () => {
      const given = control.access?.();
      if (given !== accessGiven) {
        accessGiven = given;
        access = {
          hosts: [...hosts, ...(given?.hosts ?? [])],
          origins: [...config.MCPF_ROUTER_ALLOWED_ORIGINS, ...(given?.origins ?? [])],
        };
      }
      return access;
    },
    guard,
    probeTokens,
    tls,
    front: config.MCPF_ROUTER_FRONT === "on",
    observing,
    log,
    metrics: dataPlaneMetrics(registry, {
      sessions: () => listening?.sessionCount ?? 0,
      connections: () => listening?.connections ?? { front: 0, node: 0 },
    }),
    health: async (asked) => (await probeAnswer(asked, control, stdio)) ?? healthAnswer(asked, kit.readiness, registry),
    bridges: { stdio },
    nowMs: kit.nowMs,
    limits: {
      heartbeatMs: config.MCPF_ROUTER_HEARTBEAT_MS,
      agentSessionsMax: config.MCPF_ROUTER_AGENT_SESSIONS_MAX,
      sessionIdleMs: config.MCPF_ROUTER_SESSION_IDLE_MS,
    },
  });
  listening = plane;
  const claims = serveStreamClaims(kit, sealer, plane.sessionByKey);
  const cancellations = hearCancellations(kit, sealer, plane.sessionByKey);
  const changes = hearChanges(kit, sealer, plane.sessionChanged);
  log.info({ url: plane.url }, "listening");
  return {
    async stop() {
      claims.stop();
      cancellations.stop();
      changes.stop();
      tls?.stop();
      await plane.close(config.MCPF_ROUTER_GRACE_MS);
      await control.stop();
      await observing.stop();
    },
  };
}
