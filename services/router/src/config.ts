import { z } from "zod";
import type { StdioAllow } from "./stdio/server.ts";

const list = z
  .string()
  .default("")
  .transform((text) =>
    text
      .split(",")
      .map((item) => item.trim())
      .filter((item) => item !== ""),
  );

const commandLines = z.record(z.string().regex(/^[A-Za-z0-9_-]{1,64}$/), z.tuple([z.string().min(1)], z.string()));

function parseStdioAllow(text: string, context: z.RefinementCtx): StdioAllow {
  const message = 'give JSON: a name for each command line, for example {"files": ["/usr/bin/node", "/opt/files-server/main.js"]}';
  try {
    const parsed = commandLines.safeParse(JSON.parse(text));
    if (parsed.success) return new Map(Object.entries(parsed.data));
  } catch {
    // Said below, like every other mistake in it.
  }
  context.addIssue({ code: "custom", message });
  return z.NEVER;
}

/** What the router reads from its environment besides what every service does. */
export const routerConfig = z.object({
  /** Loopback by default: who can reach the port can call every tool behind it. */
  MCPF_ROUTER_HOST: z.string().min(1).default("127.0.0.1"),
  /** 0: any free port. */
  MCPF_ROUTER_PORT: z.coerce.number().int().min(0).max(65_535).default(7300),
  /** Processes behind the port; more than one are started and kept by a parent (`workers.ts`). */
  MCPF_ROUTER_WORKERS: z.coerce.number().int().min(1).max(64).default(1),
  /** Seals session ids; the same for every router process. Without it, a file in the data directory, made at the first start. */
  MCPF_SESSION_KEY: z.string().min(16, "give at least 16 characters, the same to every router process").optional(),
  /** TLS of the port: PEM files, read again when they change. With an authority, clients have to show a certificate of it. */
  MCPF_ROUTER_TLS_CERT_FILE: z.string().min(1).optional(),
  MCPF_ROUTER_TLS_KEY_FILE: z.string().min(1).optional(),
  MCPF_ROUTER_TLS_CLIENT_CA_FILE: z.string().min(1).optional(),
  /** `on`: small plain calls are read by the router's own strict reader (docs/adr/0006), all else by node:http. `off`: node:http reads all. */
  MCPF_ROUTER_FRONT: z.enum(["on", "off"]).default("on"),
  /** Where this router stands: endpoints with the same `zone` are preferred. */
  MCPF_ZONE: z.string().min(1).max(64).optional(),
  /** Host names and origins besides loopback and `router.allowed_hosts`, `router.allowed_origins`; `*` allows all. Separated by commas. */
  MCPF_ROUTER_ALLOWED_HOSTS: list,
  MCPF_ROUTER_ALLOWED_ORIGINS: list,
  /** One line a call: `off`, `failures`, `all`, or the share of the calls that went well (0.01), failures besides. */
  MCPF_ROUTER_ACCESS_LOG: z.union([z.enum(["off", "failures", "all"]), z.coerce.number().gt(0).max(1)]).default("off"),
  /** A collector of traces (OTLP over HTTP, JSON); without it none are made, and `traceparent` is passed on. */
  OTEL_EXPORTER_OTLP_ENDPOINT: z.url({ protocol: /^https?$/ }).optional(),
  OTEL_EXPORTER_OTLP_HEADERS: z.string().default(""),
  OTEL_SERVICE_NAME: z.string().min(1).default("mcp-failover-router"),
  /** The share of traces that begin here; others are sampled as the caller says. */
  OTEL_TRACES_SAMPLER_ARG: z.coerce.number().min(0).max(1).default(1),
  /** Comments on quiet streams keep them open through what lies between. */
  MCPF_ROUTER_HEARTBEAT_MS: z.coerce.number().int().min(100).max(300_000).default(15_000),
  /** The commands of `stdio:` endpoints, by name: program and first arguments; the configuration adds its own after them. */
  MCPF_STDIO_ALLOW: z.string().transform(parseStdioAllow).optional(),
  /** This router's own credentials; the token of probers may lie there too. */
  MCPF_CREDENTIALS_DIR: z.string().min(1).optional(),
  /** What those processes get of this router's own environment. */
  PATH: z.string().default("/usr/local/bin:/usr/bin:/bin"),
  /** Sessions of one agent (of one address, where nobody has to say who he is) in this process's memory, which holds 50,000. */
  MCPF_ROUTER_AGENT_SESSIONS_MAX: z.coerce.number().int().min(1).max(50_000).default(10_000),
  /** A session that nobody used for so long leaves this process's memory; it is made anew from its id when its client is back. */
  MCPF_ROUTER_SESSION_IDLE_MS: z.coerce.number().int().min(10_000).max(86_400_000).default(1_800_000),
  /** How long a stop lets calls in flight end. */
  MCPF_ROUTER_GRACE_MS: z.coerce.number().int().min(0).max(7000).default(5000),
});
export type RouterConfig = z.infer<typeof routerConfig>;
