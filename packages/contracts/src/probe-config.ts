import { z } from "zod";
import { jsonPathProblem } from "./json-path.ts";
import { patternProblem } from "./pattern.ts";
import { probePresetNames } from "./probe-presets.ts";
import { headers, milliseconds, secretRef } from "./secret-ref.ts";

/**
 * `probe:` of `failover.yaml`: how an endpoint is judged. What is set at an endpoint's own `probe:` stands over what is set at its upstream's,
 * and that over the preset's; lists are replaced whole, headers are joined by name.
 */
export const probeType = z.enum([
  "mcp",
  "mcp_tools",
  "mcp_canary",
  "http",
  "tcp",
  "tls",
  "dns",
  "websocket",
  "redis",
  "bolt",
  "heartbeat",
  "resource",
  "exec",
]);
export type ProbeType = z.infer<typeof probeType>;

/** What a failed assertion makes of the endpoint: `hard` counts towards down, `degraded` leaves it in service. */
export const probeSeverity = z.enum(["hard", "degraded"]);
export type ProbeSeverity = z.infer<typeof probeSeverity>;

const expectationBase = z.strictObject({
  /** What is looked at. `json` is the body; for MCP the result, for `dns` `{ answers }`, for `redis` the fields of INFO, for `bolt` `{ server, version }`. */
  of: z.enum(["status", "header", "json", "body", "latency_ms", "certificate_days", "protocol_version"]),
  /** `header`: its name. */
  name: z.string().min(1).max(100).optional(),
  /** `json`: a JSONPath (RFC 9535). One of the values that it finds has to fulfil all that is asked. */
  path: z.string().min(1).max(500).optional(),
  exists: z.boolean().optional(),
  equals: z.union([z.string(), z.number(), z.boolean(), z.null()]).optional(),
  in: z
    .array(z.union([z.string(), z.number()]))
    .min(1)
    .max(100)
    .optional(),
  contains: z.string().min(1).max(1000).optional(),
  not_contains: z.string().min(1).max(1000).optional(),
  /** A regular expression of RE2 with few repetitions that are counted, found anywhere in the first 64 Ki characters. */
  matches: z.string().min(1).max(500).optional(),
  min: z.number().optional(),
  max: z.number().optional(),
  severity: probeSeverity.default("hard"),
});

/** What of an answer is a number; the rest is text, or JSON. */
export const numeric: ReadonlySet<string> = new Set(["status", "latency_ms", "certificate_days"]);
const textOperators = ["contains", "not_contains", "matches"] as const;
const operators = ["exists", "equals", "in", ...textOperators, "min", "max"] as const;

/** One assertion: `{ of: json, path: $.status, equals: ok, severity: degraded }`. */
export const expectation = expectationBase.superRefine((given, context) => {
  const wrong = (path: string, message: string): void => {
    context.addIssue({ code: "custom", path: [path], message });
  };
  const used = operators.filter((operator) => given[operator] !== undefined);
  if (used.length === 0) wrong("of", `say what is expected of it: one of ${operators.join(", ")}`);
  if ((given.of === "header") !== (given.name !== undefined)) {
    wrong("name", given.of === "header" ? "name the header" : "only of: header has a name; remove it");
  }
  if ((given.of === "json") !== (given.path !== undefined)) {
    wrong("path", given.of === "json" ? "give a JSONPath, for example $.status" : "only of: json has a path; remove it");
  }
  if (given.path !== undefined) {
    const problem = jsonPathProblem(given.path);
    if (problem !== null) wrong("path", `no JSONPath (RFC 9535): ${problem}`);
  }
  for (const operator of textOperators) {
    if (numeric.has(given.of) && given[operator] !== undefined) wrong(operator, `${given.of} is a number: use equals, in, min or max`);
  }
  const problem = given.matches === undefined ? null : patternProblem(given.matches);
  if (problem !== null) {
    wrong(
      "matches",
      `no regular expression that takes a bounded time (RE2: no look-around, no back-references): ${problem}; correct it, or use contains`,
    );
  }
  if (given.min !== undefined && given.max !== undefined && given.min > given.max)
    wrong("min", "over max, so that nothing could fulfil both");
});
export type Expectation = z.infer<typeof expectation>;

const loopbackOrHost = z
  .string()
  .regex(/^[A-Za-z0-9.:[\]-]{1,255}$/, "give an address, or address:port, without a scheme, for example 10.0.0.2:53");

/** One check of an endpoint: what is the same at an upstream's `probe:`, at an endpoint's, and in `checks`. */
const checkShape = {
  /** Values of a known service; what is set beside it stands over them. */
  preset: z.enum(probePresetNames).optional(),
  type: probeType.optional(),
  /** Another address than the endpoint's own: `redis://cache:6379`. The endpoint's credentials do not go there; give `headers` or `auth` here. */
  url: z.string().min(1).max(2000).optional(),
  /** Another port of the endpoint's own host. */
  port: z.number().int().min(1).max(65_535).optional(),
  /** `http`, `websocket`: put after the URL's path. */
  path: z.string().max(2000).optional(),
  method: z.enum(["GET", "HEAD", "POST"]).optional(),
  /** Sent with the endpoint's own, and instead of those of the same name. */
  headers: headers.optional(),
  auth: z.strictObject({ username: z.union([z.string(), secretRef]).optional(), password: secretRef }).optional(),
  /** `http`: sent with POST; a mapping is sent as JSON. `websocket`: the first message sent. */
  body: z.union([z.string().max(65_536), z.record(z.string(), z.unknown())]).optional(),
  /** TLS: what the certificate has to be for, where not the host's name; and who may have signed it (PEM). */
  server_name: z.string().min(1).max(255).optional(),
  ca: z.union([z.string(), secretRef]).optional(),
  expect: z.array(expectation).max(32).optional(),
  mcp_tools: z
    .strictObject({
      /** Pins the list; without it, the list that the prober saw first. `mcpf probe run` prints it. */
      hash: z
        .string()
        .regex(/^sha256:[0-9a-f]{64}$/, "give sha256: and 64 hexadecimal digits, as `mcpf probe run` prints it")
        .optional(),
      /** Names that must be in the list. */
      include: z.array(z.string().min(1).max(128)).max(1000).optional(),
      /** Whether titles and descriptions count too. */
      descriptions: z.boolean().optional(),
      every_ms: milliseconds(100, 86_400_000).optional(),
    })
    .optional(),
  mcp_canary: z
    .strictObject({
      /** Must be marked `read_only: true` under `tools`. */
      tool: z.string().min(1).max(128),
      arguments: z.record(z.string(), z.unknown()).optional(),
      every_ms: milliseconds(100, 86_400_000).optional(),
    })
    .optional(),
  dns: z
    .strictObject({
      /** What is asked for; without it, the endpoint's own host. */
      name: z.string().min(1).max(253).optional(),
      record: z.enum(["A", "AAAA", "CNAME", "MX", "NS", "SRV", "TXT"]).optional(),
      /** Who is asked; without it, the machine's resolvers. */
      server: loopbackOrHost.optional(),
    })
    .optional(),
  heartbeat: z.strictObject({ token: secretRef, max_age_ms: milliseconds(100, 86_400_000) }).optional(),
  resource: z
    .strictObject({
      /** A sample of a Prometheus text at the URL, its labels in `labels`; where several fit, their sum. */
      metric: z
        .string()
        .regex(/^[a-zA-Z_:][a-zA-Z0-9_:]*$/, "not a metric name")
        .optional(),
      labels: z.record(z.string(), z.string()).optional(),
      /** A value of a JSON document at the URL. */
      json: z.string().min(1).max(500).optional(),
      /** The resident memory of a process on the prober's machine, in bytes. */
      pid_file: z.string().min(1).max(1000).optional(),
      /**
       * The resident memory of the processes of a `stdio:` endpoint, each with what it started, in bytes: of the largest one (each session of the legacy era has
       * one), or of all together. The router is asked for it.
       */
      stdio: z.enum(["largest", "all"]).optional(),
      /** What the value may come to in all, or the metric that says so. */
      limit: z.number().positive().optional(),
      limit_metric: z
        .string()
        .regex(/^[a-zA-Z_:][a-zA-Z0-9_:]*$/, "not a metric name")
        .optional(),
      /** The share of the limit above which it counts; 0.8, as the reference's `memory_usage`, where it is not given. */
      ratio_max: z.number().gt(0).max(1).optional(),
      severity: probeSeverity.optional(),
      /** What a value, or a limit, makes of the endpoint that is not there, or no number: it answers, and nobody knows how much it uses. `degraded` where it is not given. */
      missing: z.enum(["ok", ...probeSeverity.options]).optional(),
    })
    .optional(),
  exec: z
    .strictObject({
      /** A name of the prober's own list MCPF_EXEC_ALLOW. The command line is there, never in this file. */
      command: z.string().regex(/^[A-Za-z0-9_-]{1,64}$/, "name a command of MCPF_EXEC_ALLOW: letters, digits, '-' and '_'"),
      /** Exit codes that mean degraded; 0 is well, every other one is a failure. */
      degraded_exit_codes: z.array(z.number().int().min(1).max(255)).max(50).optional(),
    })
    .optional(),
} as const;

/** One more thing to check beside the main one; the worst of all counts. */
const extraCheck = z.strictObject({
  ...checkShape,
  /** What its failure makes of the endpoint. */
  severity: probeSeverity.default("hard"),
  /** A good result stands this long, for what costs money or much work. */
  every_ms: milliseconds(100, 86_400_000).optional(),
});
export type ExtraCheck = z.infer<typeof extraCheck>;

/** An endpoint's own `probe:`. */
export const endpointProbe = z.strictObject({ ...checkShape, checks: z.array(extraCheck).max(8).optional() });
export type EndpointProbe = z.infer<typeof endpointProbe>;

/** An upstream's `probe:`. */
export const probeConfig = endpointProbe.extend({
  interval_ms: milliseconds(100, 3_600_000).optional(),
  timeout_ms: milliseconds(50, 60_000).optional(),
  failures_down: z.number().int().min(1).max(100).optional(),
  successes_up: z.number().int().min(1).max(100).optional(),
  /** How long an endpoint that flaps is held down; 0: never. */
  hold_down_ms: milliseconds(0, 86_400_000).optional(),
});
export type ProbeConfig = z.infer<typeof probeConfig>;
