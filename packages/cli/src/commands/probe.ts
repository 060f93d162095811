import type { Bus } from "@mcp-failover/bus";
import { makeEvent, type Observation, type ProbeRequested, type Topology } from "@mcp-failover/contracts";
import type { Context } from "../context.ts";
import { CliError, type ExitCode, usageError } from "../errors.ts";
import { table } from "../output.ts";

export interface ProbeOptions {
  readonly timeoutMs?: string;
}

/** What one prober found; `outcome: null` where it did not answer. */
interface Found {
  readonly upstream: string;
  readonly endpoint: string;
  readonly prober: string;
  readonly outcome: Observation["outcome"] | null;
  readonly code: Observation["code"];
  readonly responseTime: number | null;
  readonly httpStatus: number | null;
  readonly era: Observation["era"];
  readonly degraded: { readonly code: string; readonly detail: string } | null;
  readonly error: string | null;
  readonly toolsHash: string | null;
}
interface Verdict {
  readonly upstream: string;
  readonly endpoint: string;
  readonly status: "healthy" | "degraded" | "unhealthy" | "unknown";
  readonly probers: readonly Omit<Found, "upstream" | "endpoint">[];
}

const defaultTimeoutMs = 5000;
/** Added to the probe's time-out when waiting for the probers' answers. */
const answerMarginMs = 1000;
const targetsMax = 100;

/**
 * `mcpf probe run <upstream>[/<endpoint>]`: every prober probes once, now, on a fresh connection. 3 when at least half of the answers are
 * failures. What they find is in the log like any other observation, and counts like one.
 */
export async function run(context: Context, target: string, options: ProbeOptions): Promise<ExitCode> {
  const bus = await context.bus();
  const targets = await targetsOf(bus, target);
  const timeoutMs = timeoutOf(options.timeoutMs);
  const expected = await proberNames(bus);
  if (expected.length === 0)
    throw new CliError(1, "no_prober", "no prober is running: see `mcpf doctor`, or start the stack with `npm start`", true);
  const request: ProbeRequested = { requestId: context.newId(), targets, purpose: "requested", timeoutMs, requestedBy: "mcpf" };
  const event = makeEvent({
    type: "probe.requested",
    keys: [],
    data: request,
    id: request.requestId,
    service: "cli",
    instance: "mcpf",
    timeMs: context.nowMs(),
  });
  const answered: Observation[] = [];
  for await (const reply of bus.requestMany(event, { timeoutMs: timeoutMs + answerMarginMs, max: expected.length })) {
    if (reply.type !== "probe.observed") continue;
    answered.push(...reply.data.observations.filter(({ requestId }) => requestId === request.requestId));
  }
  const verdicts = targets.map((one) => verdictOf(one, answered, expected));
  context.out.print(verdicts.length === 1 ? verdicts[0] : verdicts, () => verdicts.map(show).join("\n\n"), verdicts);
  if (verdicts.some(({ status }) => status === "unhealthy")) return 3;
  return verdicts.some(({ status }) => status === "unknown") ? 1 : 0;
}

/** Configured endpoints that `<upstream>` or `<upstream>/<endpoint>` names; throws a usage error for none. */
export async function targetsOf(bus: Bus, target: string): Promise<{ upstream: string; endpoint: string }[]> {
  const last = await bus.lastOf("AUDIT", "config.applied");
  const applied = last?.content.kind === "event" && last.content.event.type === "config.applied" ? last.content.event.data.topology : {};
  const { upstreams = {} } = applied as Partial<Topology>;
  const all = Object.entries(upstreams).flatMap(([upstream, { endpoints }]) =>
    endpoints.map(({ name: endpoint }) => ({ upstream, endpoint })),
  );
  const [upstream = "", endpoint, ...rest] = target.split("/");
  const found =
    rest.length > 0 ? [] : all.filter((one) => one.upstream === upstream && (endpoint === undefined || one.endpoint === endpoint));
  if (found.length === 0) {
    const known = all.map((one) => `${one.upstream}/${one.endpoint}`);
    throw usageError(
      `no endpoint ${JSON.stringify(target)} is configured; known: ${known.slice(0, 20).join(", ") || "none"}${known.length > 20 ? ", ..." : ""}`,
      "unknown_endpoint",
    );
  }
  if (found.length > targetsMax)
    throw usageError(`${target} has ${found.length} endpoints; name one of them, at most ${targetsMax} are probed at once`);
  return found;
}

function timeoutOf(text: string | undefined): number {
  if (text === undefined) return defaultTimeoutMs;
  const timeoutMs = Number(text);
  if (!/^\d{1,5}$/.test(text) || timeoutMs < 50 || timeoutMs > 60_000)
    throw usageError(`--timeout-ms is a number from 50 to 60000, not ${text}`);
  return timeoutMs;
}

/** Instances of the prober, from the services API. */
export async function proberNames(bus: Bus): Promise<string[]> {
  const services = await bus.services({ timeoutMs: 500 });
  return services.flatMap(({ name, id, metadata }) => (name === "prober" ? [metadata["instance"] ?? id] : [])).sort();
}

function verdictOf(
  { upstream, endpoint }: { upstream: string; endpoint: string },
  answered: readonly Observation[],
  expected: readonly string[],
): Verdict {
  const own = new Map(answered.filter((one) => one.upstream === upstream && one.endpoint === endpoint).map((one) => [one.observer, one]));
  const names = [...new Set([...expected, ...own.keys()])].sort();
  const probers = names.map((prober): Verdict["probers"][number] => {
    const seen = own.get(prober);
    return {
      prober,
      outcome: seen?.outcome ?? null,
      code: seen?.code ?? null,
      responseTime: seen === undefined || seen.outcome === "hard" ? null : seen.responseTimeMs,
      httpStatus: seen?.httpStatus ?? null,
      era: seen?.era ?? null,
      degraded: seen?.degraded ?? null,
      error: seen === undefined ? "no answer: it may lack a secret or a permission for this probe, or be cut off; see its log" : seen.error,
      toolsHash: typeof seen?.toolsHash === "string" ? seen.toolsHash : null,
    };
  });
  return { upstream, endpoint, status: statusOf([...own.values()]), probers };
}

function statusOf(seen: readonly Observation[]): Verdict["status"] {
  if (seen.length === 0) return "unknown";
  const failed = seen.filter(({ outcome }) => outcome === "hard").length;
  if (failed * 2 >= seen.length) return "unhealthy";
  const isImpaired =
    failed > 0 || seen.some(({ outcome, degraded }) => outcome === "auth" || outcome === "soft" || (degraded ?? null) !== null);
  return isImpaired ? "degraded" : "healthy";
}

const outcomeText = { ok: "ok", hard: "FAILED", soft: "rate limited", auth: "credentials refused", caller: "alive" } as const;

function show({ upstream, endpoint, status, probers }: Verdict): string {
  const rows = probers.map(({ prober, outcome, code, responseTime, httpStatus, era, degraded, error, toolsHash }) => [
    prober,
    outcome === null ? "-" : `${outcomeText[outcome]}${code === null ? "" : ` (${code})`}`,
    responseTime === null ? "-" : `${responseTime.toFixed(1)} ms`,
    [httpStatus === null ? "" : `HTTP ${httpStatus}`, era === null ? "" : `${era} MCP`].filter(Boolean).join(", ") || "-",
    [error, degraded === null ? null : `degraded: ${degraded.detail}`, toolsHash === null ? null : `tools ${toolsHash}`]
      .filter((part) => part !== null)
      .join(" | "),
  ]);
  return `${upstream}/${endpoint}: ${status}\n${table(["PROBER", "RESULT", "RESPONSE", "SAW", "WHY"], rows)}`;
}
