import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { findJson } from "@mcp-failover/contracts";
import { probeCheckPolicy } from "@mcp-failover/domain";
import { type CheckContext, type CheckFound, MalformedError, NotMadeError } from "./check.ts";
import { probeHttp } from "./http.ts";
import { isMetrics, metricSum } from "./metrics-text.ts";
import { hardResult } from "./result.ts";
import type { Wire } from "./wire.ts";

type Resource = NonNullable<CheckContext["check"]["resource"]>;

/**
 * Probes how much of its limit an endpoint uses: a metric or a JSON value at a URL, or the resident memory of a process on this machine or, by its word, of
 * those of a router.
 * A share above the permitted one is `degraded`, or `hard` where the configuration says so. What is not there to be read is that by a word of its own
 * (`missing`): an exporter that calls a metric something else now, or has counted nothing yet, shows that the endpoint answers, and not that it is down.
 */
export async function probeResource(wire: Wire, context: CheckContext): Promise<CheckFound> {
  const resource = context.check.resource as Resource;
  if (resource.pid_file !== undefined) {
    const bytes = await residentBytes(resource.pid_file);
    if (bytes === null) return { result: hardResult("other", `no process is running by ${resource.pid_file}`), seen: {} };
    return judge(resource, bytes, resource.limit ?? 0, { result: { ...okOf(), responseTimeMs: 0 }, seen: {} });
  }
  const wanted = { of: "body", exists: true, severity: "hard" } as const;
  const found = await probeHttp(wire, { ...context, check: { ...context.check, expect: [...context.check.expect, wanted] } });
  if (found.result.outcome !== "ok") return found;
  // A sum, or a value, of the first part of it would be another one.
  if (found.isCut === true) {
    const more = `the page is over ${probeCheckPolicy.documentBytesMax} bytes and was not read to its end: name one with less`;
    throw new NotMadeError("too_large", more);
  }
  const text = found.seen.body ?? "";
  const { json, metric = "", labels, limit_metric = "" } = resource;
  const value = json === undefined ? metricSum(text, metric, labels ?? {}) : numberAt(json, found.seen.json);
  if (value === null && (json === undefined ? !isMetrics(text) : found.seen.json === undefined))
    throw new MalformedError(`no ${json === undefined ? "metrics" : "JSON"} at the metrics URL`);
  if (value === null) return missing(resource, json === undefined ? `no sample of ${metric}` : `no number at ${json}`, found);
  // A limit for each, by the same labels, is not the sum of all of them; one for all has none.
  const limit = resource.limit ?? metricSum(text, limit_metric, labels ?? {}) ?? metricSum(text, limit_metric, {});
  return limit === null ? missing(resource, `no sample of ${limit_metric}`, found) : judge(resource, value, limit, found);
}

function missing(resource: Resource, what: string, found: CheckFound): CheckFound {
  const seen = { ...found.seen, json: { value: null, limit: null, ratio: null }, jsonProblem: null };
  if (resource.missing === "ok") return { ...found, seen };
  return failing(`expected a number to compare; saw ${what} at the metrics URL`, resource.missing, found, seen);
}

function judge(resource: Resource, value: number, limit: number, found: CheckFound): CheckFound {
  // A limit that is told as 0 is none, and there is nothing to exceed.
  const ratio = limit > 0 && limit < Number.POSITIVE_INFINITY ? value / limit : 0;
  const ratioMax = resource.ratio_max ?? probeCheckPolicy.resourceRatioMax;
  const seen = { ...found.seen, json: { value, limit, ratio }, jsonProblem: null };
  if (ratio <= ratioMax) return { result: found.result, seen };
  const what = resource.metric ?? (resource.stdio === undefined ? resource.json : undefined) ?? "resident memory";
  const detail = `${what}: expected at most ${percent(ratioMax)} of ${limit}; saw ${value} (${percent(ratio)})`;
  return failing(detail, resource.severity, found, seen);
}

function failing(detail: string, severity: "hard" | "degraded" = "degraded", { result }: CheckFound, seen: CheckFound["seen"]): CheckFound {
  if (severity === "hard") return { result: { ...hardResult("other", detail), responseTimeMs: result.responseTimeMs }, seen };
  return { result: { ...result, degraded: { code: "resource", detail } }, seen };
}

const percent = (ratio: number): string => `${Math.round(ratio * 1000) / 10} %`;
const okOf = () => ({ outcome: "ok", code: null, error: null, httpStatus: null, era: null, retryAfterMs: null }) as const;

function numberAt(path: string, document: unknown): number | null {
  const [value] = document === undefined ? [] : findJson(path, document);
  return typeof value === "number" ? value : null;
}

/** What Linux says of a process; null: there is none. Throws {@link NotMadeError} where this machine cannot say. */
async function residentBytes(pidFile: string): Promise<number | null> {
  const pid = await readText(pidFile);
  if (pid === null) return null;
  if (!/^\d{1,10}\s*$/.test(pid)) throw new NotMadeError("not_allowed", `${pidFile} holds no process id`);
  const status = await readText(`/proc/${pid.trim()}/status`);
  if (status === null) {
    if ((await readText("/proc/self/status")) === null)
      throw new NotMadeError("not_allowed", "this machine has no /proc to read a process's memory from");
    return null;
  }
  const found = /^VmRSS:\s+(\d+) kB$/m.exec(status);
  // A zombie has no memory any more, and runs nothing.
  return found === null ? null : Number(found[1]) * 1024;
}

const readBytesMax = 64 * 1024;

/** The beginning of a file; a device or a pipe, which a configuration may name too, neither fills the memory nor keeps a thread. */
async function readText(path: string): Promise<string | null> {
  let file: FileHandle | null = null;
  try {
    file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const { buffer, bytesRead } = await file.read(Buffer.alloc(readBytesMax), 0, readBytesMax);
    return buffer.toString("utf8", 0, bytesRead);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "ENOENT" || code === "ESRCH") return null;
    if (code === "EACCES" || code === "EPERM") throw new NotMadeError("not_allowed", `${path} cannot be read by this prober`);
    throw error;
  } finally {
    await file?.close();
  }
}
