import { endpointKey } from "@mcp-failover/contracts";
import { type CheckContext, type CheckFound, NotMadeError } from "./check.ts";
import { hardResult, okResult } from "./result.ts";

/** What an endpoint said of itself. */
interface Report {
  readonly status: "ok" | "degraded" | "failing";
  readonly detail: string | null;
}

/** The last report of each endpoint, by its key. Every prober hears of every report, whoever received it. */
export interface Reports {
  take(key: string, report: Report): void;
  last(key: string): (Report & { readonly ageMs: number }) | null;
  /** For how long, until now, a report of an endpoint would have been heard, whoever received it. */
  listenedMs(key: string): number;
  /** What is configured now, and by its key what reports are expected of it; null: none. What was reported before that changed is forgotten. */
  retain(expected: ReadonlyMap<string, string | null>): void;
  /** Whether what other probers receive is heard here. */
  connected(isConnected: boolean): void;
}

/**
 * Reports age by a clock that nobody sets: by one that was set back, what an endpoint said last would be older than what it said before,
 * and that would stay young. It is the receiver's own, because two machines may differ by more than a heartbeat's age.
 */
export function openReports(clockMs: () => number = () => performance.now()): Reports {
  const openedMs = clockMs();
  const reports = new Map<string, Report & { readonly heardMs: number }>();
  /** Before a report was expected it was refused. */
  const awaited = new Map<string, { readonly what: string; readonly sinceMs: number }>();
  let connectedSinceMs: number | null = openedMs;
  return {
    take(key, { status, detail }) {
      reports.set(key, { status, detail, heardMs: clockMs() });
    },
    last(key) {
      const report = reports.get(key);
      return report === undefined ? null : { status: report.status, detail: report.detail, ageMs: Math.round(clockMs() - report.heardMs) };
    },
    listenedMs(key) {
      if (connectedSinceMs === null) return 0;
      return clockMs() - Math.max(awaited.get(key)?.sinceMs ?? openedMs, connectedSinceMs);
    },
    retain(expected) {
      for (const key of reports.keys()) if (!expected.has(key)) reports.delete(key);
      for (const key of awaited.keys()) if ((expected.get(key) ?? null) === null) awaited.delete(key);
      for (const [key, what] of expected) {
        const before = awaited.get(key)?.what;
        if (what === null || what === before) continue;
        awaited.set(key, { what, sinceMs: clockMs() });
        if (before !== undefined) reports.delete(key);
      }
    },
    connected(isConnected) {
      connectedSinceMs = isConnected ? (connectedSinceMs ?? clockMs()) : null;
    },
  };
}

/**
 * Judges an endpoint by its last report. Silence is down only where it could have been broken all that time: a prober that could not have
 * heard a report, because it has just begun, was cut off from the others, or was not told to expect one, says nothing.
 */
export function probeHeartbeat({ check, upstream, endpoint }: CheckContext, reports: Reports): CheckFound {
  const ageMsMax = check.heartbeat?.max_age_ms ?? 0;
  const key = endpointKey(upstream, endpoint);
  const report = reports.last(key);
  const ageMs = report?.ageMs ?? null;
  const listenedMs = reports.listenedMs(key);
  if ((ageMs === null || ageMs > ageMsMax) && listenedMs <= ageMsMax) {
    const listened = `this prober has listened for ${Math.round(listenedMs)} ms of ${ageMsMax}`;
    throw new NotMadeError("waiting", `no heartbeat yet; ${listened}`);
  }
  const seen = { json: { ageMs, status: report?.status ?? null }, jsonProblem: null };
  if (ageMs === null || ageMs > ageMsMax) {
    const last = ageMs === null ? "none was ever heard" : `the last one is ${ageMs} ms old`;
    return { result: hardResult("timeout", `no heartbeat: expected one every ${ageMsMax} ms, ${last}`), seen };
  }
  const detail = report?.detail === null || report?.detail === undefined ? "" : `: ${report.detail}`;
  if (report?.status === "failing") return { result: hardResult("other", `it reports that it fails${detail}`.slice(0, 300)), seen };
  if (report?.status === "degraded") {
    const degraded = { code: "reported", detail: `it reports that it is degraded${detail}`.slice(0, 300) };
    return { result: { ...okResult(0), degraded }, seen };
  }
  return { result: okResult(0), seen };
}
