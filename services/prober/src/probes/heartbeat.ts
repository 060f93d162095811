import { type CheckContext, type CheckFound, NotMadeError } from "./check.ts";
import { hardResult, okResult } from "./result.ts";

/** What an endpoint said of itself. */
interface Report {
  readonly status: "ok" | "degraded" | "failing";
  readonly detail: string | null;
  readonly atMs: number;
}

/** The newest report of each endpoint, by its key. Every prober hears of every report, whoever received it. */
export interface Reports {
  take(key: string, report: Report): void;
  last(key: string): Report | null;
  retain(keys: ReadonlySet<string>): void;
}

export function openReports(): Reports {
  const reports = new Map<string, Report>();
  return {
    take(key, report) {
      const known = reports.get(key);
      if (known === undefined || report.atMs >= known.atMs) reports.set(key, report);
    },
    last: (key) => reports.get(key) ?? null,
    retain(keys) {
      for (const key of reports.keys()) if (!keys.has(key)) reports.delete(key);
    },
  };
}

/** Judges an endpoint by its last report. A prober that has not listened long enough to have heard one says nothing. */
export function probeHeartbeat(context: CheckContext, reports: Reports, listeningSinceMs: number): CheckFound {
  const { check, nowMs, upstream, endpoint } = context;
  const ageMsMax = check.heartbeat?.max_age_ms ?? 0;
  const report = reports.last(`${upstream}/${endpoint}`);
  if (report === null && nowMs - listeningSinceMs <= ageMsMax) {
    throw new NotMadeError(
      "waiting",
      `no heartbeat yet; this prober has listened for ${Math.round(nowMs - listeningSinceMs)} ms of ${ageMsMax}`,
    );
  }
  const ageMs = report === null ? null : Math.max(0, Math.round(nowMs - report.atMs));
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
