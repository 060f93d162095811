import { Counter, Gauge, Histogram, type Registry } from "prom-client";

interface ProbeLabels {
  readonly purpose: string;
  readonly outcome: string;
  readonly code: string;
}

/** The names are pinned: dashboards and alerts use them. */
export function proberMetrics(registry: Registry) {
  const registers = [registry];
  const counted = new Map<string, { readonly labels: ProbeLabels; count: number }>();
  return {
    /** Counts a probe; the counter itself is brought up to date when it is read, because its labels cost more than the count. */
    countProbe(labels: ProbeLabels): void {
      const key = `${labels.purpose} ${labels.outcome} ${labels.code}`;
      const known = counted.get(key);
      if (known === undefined) counted.set(key, { labels, count: 1 });
      else known.count += 1;
    },
    probes: new Counter({
      name: "mcpf_prober_probes_total",
      help: "Probes made, by purpose, outcome and failure code",
      labelNames: ["purpose", "outcome", "code"] as const,
      registers,
      collect() {
        for (const entry of counted.values()) {
          this.inc({ ...entry.labels }, entry.count);
          entry.count = 0;
        }
      },
    }),
    lag: new Histogram({
      name: "mcpf_prober_schedule_lag_seconds",
      help: "How late probes began",
      buckets: [0.001, 0.005, 0.02, 0.05, 0.1, 0.5, 1, 5],
      registers,
    }),
    skipped: new Counter({
      name: "mcpf_prober_skipped_total",
      help: "Probes that were due and not made: overrun, fleet_limit, host_limit, secret, late, isolated, exhausted, internal",
      labelNames: ["reason"] as const,
      registers,
    }),
    dropped: new Counter({
      name: "mcpf_prober_dropped_observations_total",
      help: "Observations that were made but could not be published",
      registers,
    }),
    owned: new Gauge({ name: "mcpf_prober_owned_endpoints", help: "Endpoints that this prober probes on schedule", registers }),
    live: new Gauge({ name: "mcpf_prober_live_probers", help: "Ready probers, this one included", registers }),
    sessions: new Gauge({ name: "mcpf_prober_open_sessions", help: "MCP sessions that this prober keeps open on servers", registers }),
    decisions: new Counter({
      name: "mcpf_prober_decisions_total",
      help: "Changes of health that were said, and falls that were not, by rule",
      labelNames: ["rule"] as const,
      registers,
    }),
    isolated: new Gauge({ name: "mcpf_prober_isolated", help: "1 while this prober reaches none of its references", registers }),
    overloaded: new Gauge({ name: "mcpf_prober_overloaded", help: "1 while this prober cannot keep to its schedule", registers }),
    loopLag: new Gauge({
      name: "mcpf_prober_event_loop_lag_seconds",
      help: "How late this process's own timers were in the last second, on average",
      registers,
    }),
    lost: new Counter({ name: "mcpf_prober_lost_races_total", help: "Decisions that another prober took first", registers }),
  };
}
export type ProberMetrics = ReturnType<typeof proberMetrics>;
