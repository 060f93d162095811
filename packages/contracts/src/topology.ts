import { z } from "zod";
import { agentConfig, routerAuth } from "./agent-config.ts";
import { admissionConfig, agentRates, retryConfig } from "./call-limits.ts";
import { endpointTls } from "./endpoint-tls.ts";
import { checkReached, endpointTransport, isStdioUrl, stdioConfig, withAddress } from "./endpoint-transport.ts";
import { endpointVariables, upstreamVariables } from "./environment.ts";
import { maintenanceWindow } from "./maintenance.ts";
import { name } from "./primitives.ts";
import { endpointProbe, probeConfig } from "./probe-config.ts";
import { safetyRule } from "./safety-rule.ts";
import { headers, milliseconds, secretRef } from "./secret-ref.ts";

/**
 * `failover.yaml`. Keys are snake_case, as in the reference documents, and a duration or size has its unit in its name. The blocks
 * `rollback:`, `fallback:`, `development:` and `production:` load as those documents have them (seconds, ratios).
 * Everything has a default but the upstreams. Secrets are only named: `{ secret: PINECONE_API_KEY }`.
 */

const httpUrl = z.url({ protocol: /^https?$/, error: "give a URL that begins with http:// or https://" });

const breakerConfig = z
  .strictObject({
    /** Consecutive hard failures of one observer that open the breaker. */
    failure_threshold: z.number().int().min(1).max(10_000).optional(),
    /** Open time; fixed when given (no doubling). */
    reset_timeout_ms: milliseconds(100, 3_600_000).optional(),
    /** Time-out of one call. */
    timeout_ms: milliseconds(50, 600_000).optional(),
    failure_ratio: z.number().min(0.01).max(1).optional(),
    slow_ratio: z.number().min(0.01).max(1).optional(),
    minimum_calls: z.number().int().min(1).max(100_000).optional(),
    /** How far back the ratios look, in time (default 30 s)... */
    window_ms: milliseconds(1000, 60_000).optional(),
    /** ...or in calls of one observer, as far as they are known: at most 10 minutes. */
    window: z.strictObject({ type: z.literal("count"), calls: z.number().int().min(5).max(100_000) }).optional(),
  })
  .refine(({ window, window_ms: windowMs }) => window === undefined || windowMs === undefined, {
    path: ["window"],
    error: "give window (in calls) or window_ms (in time), not both",
  });

const failoverConfig = z.strictObject({
  automatic: z.boolean().optional(),
  cooldown_ms: milliseconds(0, 86_400_000).optional(),
  moves_per_hour: z.number().int().min(0).max(100_000).optional(),
  failback: z.enum(["manual", "automatic"]).optional(),
  failback_after_ms: milliseconds(1000, 86_400_000).optional(),
  /** After an automatic move or a failback, the endpoint is judged by real traffic for so long; 0: not at all. */
  verify_ms: milliseconds(0, 3_600_000).optional(),
  /** So many times a move that made things no better is followed by the next candidate; then the upstream is held. */
  verify_moves: z.number().int().min(0).max(10).optional(),
  /** Says what would be done by itself (`failover.rejected`, rule `dry_run`) and does nothing. */
  dry_run: z.boolean().optional(),
});

const legacyTool = z.strictObject({
  url: httpUrl,
  method: z.enum(["GET", "POST"]).default("GET"),
  /** GET sends the arguments as the query, POST as a JSON body. */
  timeout_ms: milliseconds(50, 600_000).optional(),
  headers: headers.default({}),
});

const toolConfig = z.strictObject({
  /** The operator's word, stronger than annotations: a read-only tool may be sent again and hedged. */
  read_only: z.boolean().optional(),
  /** An idempotent tool may be sent again, one attempt after another. */
  idempotent: z.boolean().optional(),
  legacy: legacyTool.optional(),
});

const endpointAddress = z.string().refine((url) => isStdioUrl(url) || httpUrl.safeParse(url).success, {
  error: "give a URL that begins with http:// or https://",
});

const endpointShape = z.strictObject({
  name,
  url: endpointAddress.optional(),
  /** Instead of `url`: a server that the router starts. `url` becomes a name for it, `stdio://...`. */
  stdio: stdioConfig.optional(),
  /** How MCP is spoken at `url`; without it, Streamable HTTP. */
  transport: endpointTransport.optional(),
  /** 0 is preferred. */
  tier: z.number().int().min(0).max(100),
  role: z.enum(["write", "read"]).default("write"),
  weight: z.number().positive().max(1000).default(1),
  zone: z.string().optional(),
  headers: headers.default({}),
  /** Authorities and the router's own certificate, where the URL is https. */
  tls: endpointTls.optional(),
  /** HTTP basic credentials. */
  auth: z.strictObject({ username: z.union([z.string(), secretRef]), password: secretRef }).optional(),
  /** Variables that `mcpf env` and `mcpf exec` give while it is active, values or secrets. */
  env: endpointVariables.optional(),
  /** What of the upstream's `probe:` is otherwise here. */
  probe: endpointProbe.optional(),
});
const endpointConfig = endpointShape.superRefine(checkReached).transform(withAddress);
export type EndpointConfig = z.infer<typeof endpointConfig>;

const upstreamConfig = z.strictObject({
  kind: z.enum(["mcp", "http"]),
  mode: z.enum(["active_standby", "pool"]).default("active_standby"),
  critical: z.boolean().default(true),
  /** What a session is worth on another endpoint (requirement R3). */
  sessions: z.enum(["stateless", "replayable", "sticky"]).default("replayable"),
  /** Tool annotations of this upstream's servers may be believed. */
  trusted: z.boolean().default(false),
  balancing: z.enum(["health_weighted", "round_robin", "least_connections", "peak_ewma"]).default("health_weighted"),
  endpoints: z.array(endpointConfig).min(1, "give at least one endpoint").max(1000),
  probe: probeConfig.prefault({}),
  breaker: breakerConfig.prefault({}),
  failover: failoverConfig.prefault({}),
  tools: z.record(z.string().min(1).max(128), toolConfig).default({}),
  contacts: z.array(z.string()).default([]),
  /** Variables that `mcpf env` and `mcpf exec` give for whatever endpoint is active: `PINECONE_HOST: url`. */
  env: upstreamVariables.optional(),
  /** Deadline of one call and all its attempts. */
  call_timeout_ms: milliseconds(100, 600_000).optional(),
  retry: retryConfig.optional(),
  admission: admissionConfig.optional(),
});
export type UpstreamConfig = z.infer<typeof upstreamConfig>;

const webhookProblem = "give a URL that begins with http:// or https://, or { secret: NAME }";
const channelConfig = z.discriminatedUnion("type", [
  z.strictObject({
    name,
    type: z.literal("webhook"),
    /** Of many receivers it is all that they ask for, and so a secret. */
    url: z.union([z.url({ protocol: /^https?$/, error: webhookProblem }), secretRef], { error: webhookProblem }),
    headers: headers.default({}),
    severities: z.array(z.enum(["page", "notify"])).default(["page", "notify"]),
  }),
  z.strictObject({ name, type: z.literal("log"), severities: z.array(z.enum(["page", "notify"])).default(["page", "notify"]) }),
]);
export type ChannelConfig = z.infer<typeof channelConfig>;

/** The reference's `rollback:` block: seconds and ratios. */
const rollbackConfig = z.strictObject({
  enabled: z.boolean().default(true),
  automatic_rollback: z.boolean().default(true),
  rollback_thresholds: z
    .strictObject({
      error_rate: z.number().gt(0).max(1).default(0.1),
      /** A bound of the routers' histogram; checked where a file is read. */
      response_time: z.number().positive().default(5.0),
      memory_usage: z.number().gt(0).max(1).default(0.8),
    })
    .prefault({}),
  fallback_timeout: z.number().positive().max(3600).default(30),
  /** Overrides the probes' interval where given, in seconds. */
  health_check_interval: z.number().positive().max(3600).optional(),
  minimum_calls: z.number().int().min(1).max(100_000).default(20),
});

/** The reference's `fallback:` block. */
const fallbackConfig = z.strictObject({
  enabled: z.boolean().default(true),
  tool_fallback: z.boolean().default(true),
  agent_fallback: z.boolean().default(true),
  system_fallback: z.boolean().default(true),
  legacy_mode: z.boolean().default(false),
  fallback_timeout: z.number().positive().max(3600).default(60),
});

/** The reference's `development:` and `production:` blocks; `--env` or `MCPF_ENV` picks one. */
const environmentConfig = z.strictObject({
  mcp_enabled: z.boolean().default(true),
  fallback_enabled: z.boolean().default(true),
  rollback_enabled: z.boolean().default(true),
  legacy_mode: z.boolean().default(false),
  monitoring_enabled: z.boolean().default(true),
});

/** A process that `npm start` runs beside the stack: the upstreams of a local trial. Ignored in production. */
const localProcess = z.strictObject({
  name,
  command: z.array(z.string().min(1)).min(1),
  env: z.record(z.string(), z.string()).default({}),
  /** Added to the port base; the process finds its port in `PORT`, others as `MCPF_PORT_<NAME>` (capitals, '-' as '_'). */
  port_offset: z.number().int().min(2).max(999),
  /** `upstream/endpoint` that it serves, for `mcpf chaos`. */
  serves: z.string().optional(),
  /** Puts a fault proxy on the port, and the process behind it. */
  fault_proxy: z.boolean().default(false),
  /** How long it stays down after it ended by itself, so that a failover can be watched. */
  restart_after_ms: milliseconds(0, 3_600_000).default(1000),
  /** A path that answers once it is ready; without it, an open port is enough. */
  ready_path: z.string().optional(),
});
export type LocalProcess = z.infer<typeof localProcess>;

const aggregateConfig = z.strictObject({
  enabled: z.boolean().optional(),
  /** Default: every upstream of kind mcp. */
  upstreams: z.array(name).max(1000).optional(),
  /** Between the name of the upstream and that of the tool or prompt; default `__`. */
  separator: z
    .string()
    .regex(/^[_.:/-]{1,4}$/, "use 1 to 4 of the characters _ . : / -")
    .optional(),
  /** How long the tools of an upstream that cannot be asked stay listed; default 10 minutes. */
  grace_ms: milliseconds(0, 86_400_000).optional(),
});

export const topology = z.strictObject({
  version: z.literal(1).default(1),
  upstreams: z.record(name, upstreamConfig).refine((all) => Object.keys(all).length > 0, "give at least one upstream"),
  /** Agents by name, with the upstream tools that they use; an agent can be rolled back as a whole. */
  agents: z.record(name, agentConfig).default({}),
  probes: z
    .strictObject({
      interval_ms: milliseconds(100, 3_600_000).optional(),
      timeout_ms: milliseconds(50, 60_000).optional(),
      /** Addresses that a prober should always reach: one that reaches none of them tells no failures, because they may be its own. */
      reference_urls: z
        .array(z.url({ protocol: /^(https?|tcp)$/, error: "give a URL that begins with http://, https:// or tcp://" }))
        .max(10)
        .optional(),
    })
    .prefault({}),
  failover: failoverConfig
    .extend({
      /** Automatic moves of the whole fleet in {@link fleet_window_ms}. */
      fleet_moves: z.number().int().min(1).max(100_000).optional(),
      fleet_window_ms: milliseconds(1000, 86_400_000).optional(),
    })
    .prefault({}),
  rollback: rollbackConfig.prefault({}),
  fallback: fallbackConfig.prefault({}),
  development: environmentConfig.optional(),
  production: environmentConfig.optional(),
  notifications: z
    .strictObject({ channels: z.array(channelConfig).default([{ name: "log", type: "log", severities: ["page", "notify"] }]) })
    .prefault({}),
  router: z
    .strictObject({
      /** Where agents reach the router; used to refuse a legacy URL that points back at it. */
      public_urls: z.array(httpUrl).default([]),
      body_bytes_max: z
        .number()
        .int()
        .min(1024)
        .max(1_073_741_824)
        .default(4 * 1024 * 1024),
      allowed_hosts: z.array(z.string()).default([]),
      allowed_origins: z.array(z.string()).default([]),
      /** `/mcp`: several upstreams as one MCP server. */
      aggregate: aggregateConfig.optional(),
      agent_rates: agentRates.optional(),
      /** Agents may show tokens of these issuers. With it, or with tokens in `agents:`, nobody is let in without one. */
      auth: routerAuth.optional(),
    })
    .prefault({}),
  contacts: z.record(z.string(), z.string()).default({}),
  maintenance: z.array(maintenanceWindow).max(100).optional(),
  safety_rules: z.array(safetyRule).max(50).optional(),
  local: z.strictObject({ processes: z.array(localProcess).default([]) }).prefault({}),
});
export type Topology = z.infer<typeof topology>;
