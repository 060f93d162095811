import { Counter, type Registry } from "prom-client";
import { CallHistogram, type CallSeries } from "./call-histogram.ts";
import type { CallRecord } from "./observed-control.ts";

/**
 * Calls by upstream, tool, endpoint and outcome. A tool gets a name of its own only once a call of it has gone well: what agents make up is
 * counted as `other`, and so is what comes beyond `toolsMax` of an upstream or `seriesMax` in all.
 */
const toolsMax = 200;
const seriesMax = 5000;
const buckets = [0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];

export function callMetrics(registry: Registry): (record: CallRecord) => void {
  const calls = new CallHistogram({
    name: "mcpf_router_call_seconds",
    help: "Time of one call with all its attempts",
    labelNames: ["upstream", "tool", "endpoint", "outcome"],
    buckets,
    registers: [registry],
  });
  const again = new Counter({
    name: "mcpf_router_attempts_again_total",
    help: "Attempts beyond the first of a call",
    labelNames: ["upstream"],
    registers: [registry],
  });
  const tools = new Map<string, Set<string>>();
  const series = new Map<string, CallSeries>();
  /** Of each tool the last: mostly it is the same again, and a key of four names costs more than the counting. */
  const recent = new Map<string, { readonly record: CallRecord; readonly one: CallSeries }>();

  const toolOf = ({ upstream, tool, method, outcome }: CallRecord): string => {
    const name = tool ?? method;
    let known = tools.get(upstream);
    if (known?.has(name)) return name;
    if (outcome !== "ok" || name.length > 128) return "other";
    if (known === undefined) {
      known = new Set();
      tools.set(upstream, known);
    }
    if (known.size >= toolsMax) return "other";
    known.add(name);
    return name;
  };

  const newSeries = ({ upstream, outcome }: CallRecord, name: string, endpoint: string): CallSeries => {
    const tool = series.size < seriesMax ? name : "other";
    const key = `${upstream}\n${tool}\n${endpoint}\n${outcome}`;
    const one = series.get(key) ?? calls.series({ upstream, tool, endpoint, outcome });
    series.set(key, one);
    return one;
  };

  const seriesOf = (record: CallRecord): CallSeries => {
    const name = record.tool ?? record.method;
    const last = recent.get(name);
    const { upstream, outcome } = record;
    if (last?.record.upstream === upstream && last.record.endpoint === record.endpoint && last.record.outcome === outcome) return last.one;
    const tool = toolOf(record);
    const endpoint = record.endpoint ?? "none";
    const one = series.get(`${upstream}\n${tool}\n${endpoint}\n${outcome}`) ?? newSeries(record, tool, endpoint);
    // What has a name of its own is few.
    if (tool === name) recent.set(name, { record, one });
    return one;
  };

  return (record) => {
    seriesOf(record).observe(record.tookMs / 1000);
    if (record.attempts > 1) again.inc({ upstream: record.upstream }, record.attempts - 1);
  };
}
