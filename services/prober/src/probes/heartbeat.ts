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
  /** How long reports have been listened to. */
  readonly listenedMs: number;
  retain(keys: ReadonlySet<string>): void;
}

/**
 * Reports age by a clock that nobody sets: by one that was set back, what an endpoint said last would be older than what it said before,
 * and that would stay young. It is the receiver's own, because two machines may differ by more than a heartbeat's age.
 */
export function openReports(clockMs: () => number = () => performance.now()): Reports {
  const openedMs = clockMs();
  const reports = new Map<string, Report & { readonly heardMs: number }>();
  return {
    take(key, { status, detail }) {
      reports.set(key, { status, detail, heardMs: clockMs() });
    },
    last(key) {
      const report = reports.get(key);
      return report === undefined ? null : { status: report.status, detail: report.detail, ageMs: Math.round(clockMs() - report.heardMs) };
    },
    get listenedMs() {
      return clockMs() - openedMs;
    },
    retain(keys) {
      for (const key of reports.keys()) if (!keys.has(key)) reports.delete(key);
    },
  };
}

/** Judges an endpoint by its last report. A prober that has not listened long enough to have heard one says nothing. */
export function probeHeartbeat({ check, upstream, endpoint }: CheckContext, reports: Reports): CheckFound {
  const ageMsMax = check.heartbeat?.max_age_ms ?? 0;
  const report = reports.last(`${upstream}/${endpoint}`);
  const { listenedMs } = reports;
  if (report === null && listenedMs <= ageMsMax) {
    const listened = `this prober has listened for ${Math.round(listenedMs)} ms of ${ageMsMax}`;
    throw new NotMadeError("waiting", `no heartbeat yet; ${listened}`);
  }
  const ageMs = report?.ageMs ?? null;
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
