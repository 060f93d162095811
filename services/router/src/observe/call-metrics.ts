import { Counter, Histogram, type Registry } from "prom-client";
import type { CallRecord } from "./observed-control.ts";

/**
 * Calls by upstream, tool, endpoint and outcome. A tool gets a name of its own only once a call of it has gone well: what agents make up is
 * counted as `other`, and so is what comes beyond `toolsMax` of an upstream or `seriesMax` in all.
 */
const toolsMax = 200;
const seriesMax = 5000;
const buckets = [0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];

type Series = ReturnType<Histogram<"upstream" | "tool" | "endpoint" | "outcome">["labels"]>;

export function callMetrics(registry: Registry): (record: CallRecord) => void {
  const calls = new Histogram({
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
  const series = new Map<string, Series>();

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

  return (record) => {
    const tool = toolOf(record);
    const endpoint = record.endpoint ?? "none";
    const key = `${record.upstream}\n${tool}\n${endpoint}\n${record.outcome}`;
    let one = series.get(key);
    if (one === undefined) {
      const label = series.size < seriesMax ? tool : "other";
      one = calls.labels({ upstream: record.upstream, tool: label, endpoint, outcome: record.outcome });
      if (series.size < seriesMax) series.set(key, one);
    }
    one.observe(record.tookMs / 1000);
    if (record.attempts > 1) again.inc({ upstream: record.upstream }, record.attempts - 1);
  };
}
