import { setTimeout as sleep } from "node:timers/promises";
import { classifyTransportError, type ProberPolicy } from "@mcp-failover/domain";
import { exhaustedBy, MissingSecretError, type Secrets } from "@mcp-failover/service-kit";
import type { Target } from "../targets.ts";
import { probeBolt } from "./bolt.ts";
import { openCertificates } from "./certificates.ts";
import { type CheckContext, type CheckFound, MalformedError, NotMadeError } from "./check.ts";
import { Deadline, type Ending } from "./deadline.ts";
import { probeDns } from "./dns.ts";
import { type ExecAllow, probeExec } from "./exec.ts";
import { openReports, probeHeartbeat, type Reports } from "./heartbeat.ts";
import { probeHttp } from "./http.ts";
import { withExpectations, worstOf } from "./judge.ts";
import { type McpProber, openMcpProber } from "./mcp.ts";
import { probeRedis } from "./redis.ts";
import { probeResource } from "./resource.ts";
import { hardResult, type ProbeResult } from "./result.ts";
import { probeTcp, probeTls } from "./tcp.ts";
import { probeWebSocket } from "./websocket.ts";
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
  readonly reason: "secret" | "late" | "stopped" | "internal" | "waiting" | "not_allowed" | "too_large" | "exhausted";
  readonly detail: string;
}

export interface ProbeRunner {
  probe(target: Target, options: { fresh: boolean; timeoutMs: number }): Promise<ProbeMade | ProbeNotMade>;
  retain(targets: ReadonlyMap<string, Target>): void;
  readonly openSessions: number;
  close(): Promise<void>;
}

export interface ProbeRunnerOptions {
  readonly policy: ProberPolicy;
  readonly secrets: Secrets;
  readonly nowMs: () => number;
  /** What endpoints said of themselves, for `heartbeat`. */
  readonly reports?: Reports;
  /** The commands of `exec`. */
  readonly execAllow?: ExecAllow;
  /** By what routers know this prober; null, and without it: they take what comes from their own machine. */
  readonly routerToken?: () => string | null;
}

/** A time-out that fires later than this was not the endpoint's: this process, or its machine, stood still. */
const lateMs = 250;
/** A check that does real work gets this many times what it lately took at most, also in a quick probe; never more than the whole time-out. */
const slowFactor = 2;
const slowDecay = 0.95;

/** Of one endpoint: the main one and eight further (`checks` of the configuration). */
const checksMax = 9;

const stoppedProbe: ProbeNotMade = { kind: "not_made", reason: "stopped", detail: "the prober stops" };

const worksHard: ReadonlySet<string> = new Set(["mcp_tools", "mcp_canary", "exec", "resource"]);
/** What nearly all probes of a fleet are: the wire itself sees to it that they end in time. */
const isPlain = ({ type, expect }: Target["checks"][number]): boolean =>
  type === "http" && !expect.some(({ of }) => of === "certificate_days");
const isTimed = (result: ProbeResult): result is Made => result.responseTimeMs !== null;
/** The main check has the target's own key. */
const keyOf = (target: Pick<Target, "key">, index: number): string => (index === 0 ? target.key : `${target.key}#${index}`);

type Made = ProbeResult & { readonly responseTimeMs: number };

/** Makes probes of all types: credentials, time-out, assertions, and what a failure is called. */
export function openProbeRunner(options: ProbeRunnerOptions): ProbeRunner {
  const { policy, secrets, nowMs, reports = openReports(), execAllow = new Map(), routerToken = () => null } = options;
  // All checks of a probe begin at once: what waited for a connection of ours would be told as the server's own time.
  const wire = openWire(policy.inFlightPerHostMax * checksMax);
  const mcp: McpProber = openMcpProber(wire, policy);
  const certificates = openCertificates();
  const underWay = new Set<Deadline>();
  /** What each check lately took at most, and its last good result where that stands for a while. */
  const kept = new Map<string, { readonly identity: string; slowMs: number; good: { result: Made; atMs: number } | null }>();
  let stopped = false;

  function keptOf(key: string, identity: string) {
    const known = kept.get(key);
    if (known?.identity === identity) return known;
    const entry = { identity, slowMs: 0, good: null };
    kept.set(key, entry);
    return entry;
  }

  async function find(context: CheckContext): Promise<CheckFound> {
    switch (context.check.type) {
      case "mcp":
      case "mcp_tools":
      case "mcp_canary":
        return withCertificate(context, mcp.probe(context));
      case "http":
        return withCertificate(context, probeHttp(wire, context));
      case "resource":
        return probeResource(wire, context);
      case "websocket":
        return withCertificate(context, probeWebSocket(context));
      case "tcp":
        return probeTcp(context);
      case "tls":
        return probeTls(context);
      case "dns":
        return probeDns(context);
      case "redis":
        return probeRedis(context);
      case "bolt":
        return probeBolt(context);
      case "heartbeat":
        return probeHeartbeat(context, reports);
      case "exec":
        return probeExec(context, execAllow, process.env["PATH"] ?? "");
    }
  }

  /** Whatever a check does, its probe ends at the time-out: an endpoint whose probe never ended would never be probed again. */
  const findInTime = (context: CheckContext): Promise<CheckFound> => Promise.race([find(context), endOf(context.deadline)]);

  async function withCertificate(context: CheckContext, probe: Promise<CheckFound>): Promise<CheckFound> {
    if (!context.check.expect.some(({ of }) => of === "certificate_days")) return probe;
    // A handshake that fails is told by the probe itself, which makes one too.
    const [found, days] = await Promise.all([probe, certificates.daysOf(context).catch(() => null)]);
    return { ...found, seen: { ...found.seen, certificateDays: days } };
  }

  /** One check to its end; throws {@link NotMadeError} and {@link MissingSecretError}. */
  async function runCheck(target: Target, index: number, fresh: boolean, deadline: Deadline): Promise<Made> {
    const check = target.checks[index] as Target["checks"][number];
    const key = keyOf(target, index);
    // The plain main check of most endpoints has nothing to keep.
    const entry = check.everyMs === null && index === 0 && !worksHard.has(check.type) ? null : keptOf(key, target.identity);
    const startedAtMs = nowMs();
    if (check.everyMs !== null && entry?.good) {
      const ageMs = startedAtMs - entry.good.atMs;
      // Below 0 the clock was set back, and nobody knows how old it is.
      if (ageMs >= 0 && ageMs < check.everyMs) return entry.good.result;
    }
    const startedMs = performance.now();
    const credentials = check.asksRouter ? forRouter(routerToken()) : credentialsOf(check, secrets);
    let result: ProbeResult;
    try {
      const found = isPlain(check)
        ? await probeHttp(wire, { check, headers: credentials.headers, fresh, deadline })
        : await findInTime({
            key,
            identity: target.identity,
            upstream: target.upstream,
            endpoint: target.endpoint,
            check,
            ...credentials,
            fresh,
            deadline,
            signal: deadline.signal,
            nowMs: startedAtMs,
          });
      // The router has not looked: nothing is known of the process.
      if (check.asksRouter && found.result.outcome === "auth") throw new NotMadeError("not_allowed", refusedByRouter(check.url));
      result = withExpectations(found.result, found.seen, check.expect, secrets.redact);
    } catch (error) {
      result = resultOfError(error, deadline);
    }
    const tookMs = performance.now() - startedMs;
    // How long a quick probe of the plain types waits is the domain's business; a time-out tells nothing of how long an answer takes.
    if (entry !== null && result.outcome !== "hard" && (index > 0 || worksHard.has(check.type)))
      entry.slowMs = Math.max(tookMs, entry.slowMs * slowDecay);
    const made = isTimed(result) ? result : { ...result, responseTimeMs: tookMs };
    if (entry !== null) entry.good = made.outcome === "ok" && made.degraded === undefined ? { result: made, atMs: startedAtMs } : null;
    return made;
  }

  /** All checks at once; the worst of them counts. */
  async function runAll(target: Target, fresh: boolean, deadline: Deadline): Promise<Made> {
    if (target.checks.length === 1) return runCheck(target, 0, fresh, deadline);
    const [main, ...further] = await Promise.allSettled(target.checks.map((_check, index) => runCheck(target, index, fresh, deadline)));
    if (main === undefined || main.status === "rejected") throw main?.reason;
    const made = further.flatMap((one, index) => {
      const check = target.checks[index + 1];
      // A further check that could not be made here says nothing; the main one has spoken.
      return one.status === "fulfilled" && check !== undefined ? [{ check, result: one.value }] : [];
    });
    return worstOf(main.value, made);
  }

  /** What a check that works hard lately took at most. */
  function slowestMsOf(target: Target): number {
    if (target.checks.length === 1 && !worksHard.has(target.type)) return 0;
    return Math.max(...target.checks.map((_check, index) => kept.get(keyOf(target, index))?.slowMs ?? 0));
  }

  async function probe(target: Target, { fresh, timeoutMs }: { fresh: boolean; timeoutMs: number }): Promise<ProbeMade | ProbeNotMade> {
    const enoughMs = Math.min(target.policy.timeoutMs, Math.ceil(slowestMsOf(target) * slowFactor));
    const deadline = new Deadline(Math.max(timeoutMs, enoughMs));
    underWay.add(deadline);
    const startedAtMs = nowMs();
    const startedMs = performance.now();
    try {
      const result = await runAll(target, fresh, deadline);
      if (stopped) return stoppedProbe;
      const lateMs = lateAfterMs(deadline);
      if (lateMs !== null) {
        const detail = `the time-out of ${deadline.timeoutMs} ms fired after ${lateMs} ms`;
        return { kind: "not_made", reason: "late", detail };
      }
      const tookMs = performance.now() - startedMs;
      return { kind: "made", startedAtMs: Math.max(0, Math.floor(startedAtMs + Math.max(0, tookMs - result.responseTimeMs))), result };
    } catch (error) {
      return stopped ? stoppedProbe : notMade(error);
    } finally {
      deadline.clear();
      underWay.delete(deadline);
    }
  }

  return {
    probe,
    retain(targets) {
      const identities = new Map<string, string>();
      for (const target of targets.values()) {
        for (const index of target.checks.keys()) identities.set(keyOf(target, index), target.identity);
      }
      for (const [key, { identity }] of kept) if (identities.get(key) !== identity) kept.delete(key);
      certificates.retain(new Set(identities.keys()));
      reports.retain(new Map([...targets.values()].map((target) => [target.key, heartbeatOf(target)])));
      mcp.retain(identities, nowMs());
    },
    get openSessions() {
      return mcp.openSessions;
    },
    async close() {
      stopped = true;
      await Promise.race([mcp.finishHandshakes(), sleep(policy.endSessionMs, null, { ref: false })]);
      for (const deadline of underWay) deadline.end();
      await mcp.close();
      await wire.close();
    },
  };
}

/** What reports are expected of a target; null: none. */
function heartbeatOf({ checks }: Target): string | null {
  const check = checks.find(({ type }) => type === "heartbeat");
  return check === undefined ? null : JSON.stringify(check);
}

/** After how long a time-out fired that fired too late to say anything; null: it did not. */
function lateAfterMs({ firedAfterMs, timeoutMs }: Deadline): number | null {
  return firedAfterMs !== null && firedAfterMs > timeoutMs + lateMs ? firedAfterMs : null;
}

/** Fails when the time-out does. */
function endOf(deadline: Ending): Promise<never> {
  const ended = new Promise<never>((_resolve, reject) => {
    const end = (): void => reject(deadline.reason as Error);
    if (deadline.aborted) end();
    else deadline.addEventListener("abort", end);
  });
  // Nobody may be waiting any more when the prober stops.
  ended.catch(() => undefined);
  return ended;
}

/** Our own mistake, or a credential that cannot stand in a header: nothing against the endpoint. */
class OwnFaultError extends Error {
  override readonly name = "OwnFaultError";
}

/** What a thrown error says of the endpoint. Throws what says nothing of it. */
function resultOfError(error: unknown, deadline: Deadline): ProbeResult {
  if (error instanceof NotMadeError || error instanceof MissingSecretError) throw error;
  if (deadline.firedAfterMs !== null) return hardResult("timeout", `no answer within ${deadline.timeoutMs} ms`);
  if (error instanceof MalformedError) return hardResult("malformed", `expected an answer of the protocol; saw ${error.message}`);
  const exhausted = exhaustedBy(error);
  if (exhausted !== null) throw new NotMadeError("exhausted", `this machine has run out of ${exhausted}`);
  const errorCode = errorCodeOf(error);
  if (error instanceof TypeError || error instanceof RangeError || errorCode === "UND_ERR_INVALID_ARG") {
    throw new OwnFaultError(error instanceof Error ? `${error.name}: ${error.message}` : "unknown", { cause: error });
  }
  const name = error instanceof Error ? error.name : "unknown";
  const code = name === "HTTPParserError" ? "malformed" : classifyTransportError(errorCode, "written").code;
  return hardResult(code, `no answer: ${code} (${errorCode ?? name})`);
}

function notMade(error: unknown): ProbeNotMade {
  const detail = error instanceof Error ? error.message : "unknown";
  if (error instanceof MissingSecretError) return { kind: "not_made", reason: "secret", detail };
  if (error instanceof NotMadeError) return { kind: "not_made", reason: error.reason, detail };
  return { kind: "not_made", reason: "internal", detail };
}

const noCredentials = { headers: {}, auth: null, ca: null };
const isEmpty = (record: object): boolean => {
  for (const _name in record) return false;
  return true;
};

function forRouter(token: string | null): Pick<CheckContext, "headers" | "auth" | "ca"> {
  return token === null ? noCredentials : { ...noCredentials, headers: { authorization: `Bearer ${token}` } };
}

function refusedByRouter(url: string): string {
  return `the router at ${new URL(url).origin} does not know us for a prober: give routers and probers the same secret MCPF_PROBE_TOKEN`;
}

/** The check's own headers and credentials with their secrets. Throws {@link MissingSecretError}. */
function credentialsOf(check: Target["checks"][number], secrets: Secrets): Pick<CheckContext, "headers" | "auth" | "ca"> {
  if (check.auth === null && check.ca === null && isEmpty(check.headers)) return noCredentials;
  const headers: Record<string, string> = {};
  for (const [name, value] of Object.entries(check.headers)) headers[name] = secrets.resolve(value);
  const auth =
    check.auth === null
      ? null
      : {
          username: check.auth.username === undefined ? null : secrets.resolve(check.auth.username),
          password: secrets.resolve(check.auth.password),
        };
  if (auth !== null && /^(https?|wss?):/.test(check.url)) {
    headers["authorization"] = `Basic ${Buffer.from(`${auth.username ?? ""}:${auth.password}`, "utf8").toString("base64")}`;
  }
  return { headers, auth, ca: check.ca === null ? null : secrets.resolve(check.ca) };
}
