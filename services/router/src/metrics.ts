import { Counter, Gauge, type Registry } from "prom-client";
import type { DataPlaneMetrics } from "./mcp/inbound.ts";
import { CallHistogram, type CallSeries } from "./observe/call-histogram.ts";

interface DataPlaneGauges {
  sessions(): number;
  connections(): { readonly front: number; readonly node: number };
}

/** Prometheus metrics of the data plane. Names are pinned: dashboards depend on them. */
export function dataPlaneMetrics(registry: Registry, gauges: DataPlaneGauges): DataPlaneMetrics {
  const attempts = new CallHistogram({
    name: "mcpf_router_attempt_seconds",
    help: "Time of one attempt at an endpoint, until its answer was complete",
    labelNames: ["upstream", "endpoint", "outcome"],
    buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60],
    registers: [registry],
  });
  const replays = new Counter({
    name: "mcpf_router_session_replays_total",
    help: "Sessions that were given a place on another endpoint, or again on their own",
    labelNames: ["upstream", "outcome"],
    registers: [registry],
  });
  const toolsDiffer = new Counter({
    name: "mcpf_router_tools_differ_total",
    help: "Tool lists of an endpoint that were found to differ from another endpoint's of the same upstream",
    labelNames: ["upstream", "endpoint"],
    registers: [registry],
  });
  const offersDiffer = new Counter({
    name: "mcpf_router_offers_differ_total",
    help: "Endpoints that were found to lack capabilities, or the protocol version, of another endpoint of the same upstream",
    labelNames: ["upstream", "endpoint"],
    registers: [registry],
  });
  new Gauge({
    name: "mcpf_router_sessions",
    help: "Sessions in the memory of this process",
    registers: [registry],
    collect() {
      this.set(gauges.sessions());
    },
  });
  new Gauge({
    name: "mcpf_router_connections",
    help: "Connections of clients, by who reads their requests: the strict front, or node:http",
    labelNames: ["reader"],
    registers: [registry],
    collect() {
      const { front, node } = gauges.connections();
      this.set({ reader: "front" }, front);
      this.set({ reader: "node" }, node);
    },
  });
  // Names of the configuration, and a fixed list of outcomes.
  const series = new Map<string, CallSeries>();
  let last: { readonly labels: AttemptLabels; readonly one: CallSeries } | null = null;
  return {
    call(labels, tookMs) {
      if (last !== null && isSame(last.labels, labels)) {
        last.one.observe(tookMs / 1000);
        return;
      }
      const key = `${labels.upstream}\n${labels.endpoint}\n${labels.outcome}`;
      let one = series.get(key);
      if (one === undefined) {
        one = attempts.series(labels);
        series.set(key, one);
      }
      last = { labels, one };
      one.observe(tookMs / 1000);
    },
    replay: (upstream, outcome) => replays.inc({ upstream, outcome }),
    toolsDiffer: (upstream, endpoint) => toolsDiffer.inc({ upstream, endpoint }),
    offersDiffer: (upstream, endpoint) => offersDiffer.inc({ upstream, endpoint }),
  };
}

type AttemptLabels = Parameters<DataPlaneMetrics["call"]>[0];

function isSame(one: AttemptLabels, other: AttemptLabels): boolean {
  return one.endpoint === other.endpoint && one.outcome === other.outcome && one.upstream === other.upstream;
}
