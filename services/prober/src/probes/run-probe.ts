import { classifyTransportError, type ProberPolicy } from "@mcp-failover/domain";
import { MissingSecretError, type Secrets } from "@mcp-failover/service-kit";
import type { Target } from "../targets.ts";
import { probeHttp } from "./http.ts";
import { type McpProber, openMcpProber } from "./mcp.ts";
import { hardResult, type ProbeResult } from "./result.ts";
import { errorCodeOf, openWire } from "./wire.ts";

/** A probe that says something about the endpoint; what does not is {@link ProbeNotMade}. */
export interface ProbeMade {
  readonly kind: "made";
  readonly result: ProbeResult & { readonly responseTimeMs: number };
  readonly startedAtMs: number;
}
/** Nothing was learned about the endpoint, and nothing is said about it. */
export interface ProbeNotMade {
  readonly kind: "not_made";
  readonly reason: "secret" | "late" | "stopped" | "internal";
  readonly detail: string;
}

export interface ProbeRunner {
  probe(target: Target, options: { fresh: boolean; timeoutMs: number }): Promise<ProbeMade | ProbeNotMade>;
  retain(targets: ReadonlyMap<string, Target>): void;
  readonly openSessions: number;
  close(): Promise<void>;
}

/** A time-out that fires later than this was not the endpoint's: this process, or its machine, stood still. */
const lateMs = 250;

/** Makes probes of all types: credentials, time-out, and what a failure is called. */
export function openProbeRunner(options: { policy: ProberPolicy; secrets: Secrets; nowMs: () => number }): ProbeRunner {
  const { policy, secrets, nowMs } = options;
  const wire = openWire();
  const mcp: McpProber = openMcpProber(wire, policy);
  const underWay = new Set<AbortController>();
  let stopped = false;

  async function probe(target: Target, { fresh, timeoutMs }: { fresh: boolean; timeoutMs: number }): Promise<ProbeMade | ProbeNotMade> {
    const headers = credentialsOf(target, secrets);
    if ("missing" in headers) return { kind: "not_made", reason: "secret", detail: headers.missing };
    const aborter = new AbortController();
    underWay.add(aborter);
    const startedAtMs = nowMs();
    const startedMs = performance.now();
    let timedOutAfterMs: number | null = null;
    const timer = setTimeout(() => {
      timedOutAfterMs = performance.now() - startedMs;
      aborter.abort();
    }, timeoutMs);
    try {
      const own = { headers: headers.values, fresh, signal: aborter.signal };
      const result = await (target.type === "mcp" ? mcp.probe(target, { ...own, nowMs: startedAtMs }) : probeHttp(wire, target, own));
      const tookMs = performance.now() - startedMs;
      const responseTimeMs = result.responseTimeMs ?? tookMs;
      return {
        kind: "made",
        startedAtMs: Math.max(0, Math.floor(startedAtMs + tookMs - responseTimeMs)),
        result: { ...result, responseTimeMs },
      };
    } catch (error) {
      const tookMs = performance.now() - startedMs;
      if (stopped) return { kind: "not_made", reason: "stopped", detail: "the prober stops" };
      if (timedOutAfterMs !== null) {
        if (timedOutAfterMs > timeoutMs + lateMs) {
          return {
            kind: "not_made",
            reason: "late",
            detail: `the time-out of ${timeoutMs} ms fired after ${Math.round(timedOutAfterMs)} ms`,
          };
        }
        return {
          kind: "made",
          startedAtMs,
          result: { ...hardResult("timeout", `no answer within ${timeoutMs} ms`), responseTimeMs: tookMs },
        };
      }
      const errorCode = errorCodeOf(error);
      // No transport says these: our own mistake, or a credential that cannot stand in a header. Nothing against the endpoint.
      if (error instanceof TypeError || error instanceof RangeError || errorCode === "UND_ERR_INVALID_ARG") {
        return { kind: "not_made", reason: "internal", detail: error instanceof Error ? `${error.name}: ${error.message}` : "unknown" };
      }
      const name = error instanceof Error ? error.name : "unknown";
      const code = name === "HTTPParserError" ? "malformed" : classifyTransportError(errorCode, "written").code;
      const said = errorCode ?? name;
      return { kind: "made", startedAtMs, result: { ...hardResult(code, `no answer: ${code} (${said})`), responseTimeMs: tookMs } };
    } finally {
      clearTimeout(timer);
      underWay.delete(aborter);
    }
  }

  return {
    probe,
    retain: (targets) => mcp.retain(targets, nowMs()),
    get openSessions() {
      return mcp.openSessions;
    },
    async close() {
      stopped = true;
      for (const aborter of underWay) aborter.abort();
      await mcp.close();
      await wire.close();
    },
  };
}

/** The target's own headers with its secrets, lower-case. */
function credentialsOf(target: Target, secrets: Secrets): { readonly values: Record<string, string> } | { readonly missing: string } {
  try {
    const values: Record<string, string> = {};
    for (const [name, value] of Object.entries(target.headers)) values[name.toLowerCase()] = secrets.resolve(value);
    if (target.auth !== undefined) {
      const pair = `${secrets.resolve(target.auth.username)}:${secrets.resolve(target.auth.password)}`;
      values["authorization"] = `Basic ${Buffer.from(pair, "utf8").toString("base64")}`;
    }
    return { values };
  } catch (error) {
    if (error instanceof MissingSecretError) return { missing: error.message };
    throw error;
  }
}
