import { Counter, Gauge, type Registry } from "prom-client";

export interface ControlMetrics {
  refusedRetry(upstream: string, rule: string): void;
  panicked(upstream: string): void;
  exhausted(upstream: string): void;
  hedged(upstream: string): void;
  hedgeWon(upstream: string): void;
  shed(upstream: string, why: string): void;
  waitsForLegacy(upstream: string): void;
  routeHeld(upstream: string, epoch: number): void;
  windowsDropped(count: number): void;
}

/** What the control counts of itself. Labels come from the configuration and from fixed lists, so there are never many. */
export function controlMetrics(registry: Registry): ControlMetrics {
  const registers = [registry];
  const refused = new Counter({
    name: "mcpf_router_retries_refused_total",
    help: "Failed calls that were not sent again, by the rule that said no.",
    labelNames: ["upstream", "rule"],
    registers,
  });
  const panics = new Counter({
    name: "mcpf_router_panic_attempts_total",
    help: "Attempts at an endpoint that was believed to be down, because no other was left.",
    labelNames: ["upstream"],
    registers,
  });
  const exhausted = new Counter({
    name: "mcpf_router_exhausted_total",
    help: "Attempts that sent nothing, because this router's machine had no file, memory or port left for a connection. They count against no endpoint.",
    labelNames: ["upstream"],
    registers,
  });
  const hedged = new Counter({
    name: "mcpf_router_hedged_total",
    help: "Reads that took longer than usual and were made at a second endpoint too.",
    labelNames: ["upstream"],
    registers,
  });
  const hedgeWon = new Counter({
    name: "mcpf_router_hedge_won_total",
    help: "Of these, those that the second endpoint answered.",
    labelNames: ["upstream"],
    registers,
  });
  const shed = new Counter({
    name: "mcpf_router_calls_shed_total",
    help: "Calls that were refused because there are too many: of the agent, in a queue, or they waited for too long.",
    labelNames: ["upstream", "why"],
    registers,
  });
  const legacyWaits = new Counter({
    name: "mcpf_router_legacy_waits_total",
    help: "Calls that had to wait for a connection to their legacy API.",
    labelNames: ["upstream"],
    registers,
  });
  const epoch = new Gauge({
    name: "mcpf_router_route_epoch",
    help: "Epoch of the route that is applied.",
    labelNames: ["upstream"],
    registers,
  });
  const dropped = new Counter({
    name: "mcpf_router_traffic_windows_dropped_total",
    help: "Windows of traffic that were given up because the log was away for too long.",
    registers,
  });
  return {
    refusedRetry: (upstream, rule) => refused.inc({ upstream, rule }),
    panicked: (upstream) => panics.inc({ upstream }),
    exhausted: (upstream) => exhausted.inc({ upstream }),
    hedged: (upstream) => hedged.inc({ upstream }),
    hedgeWon: (upstream) => hedgeWon.inc({ upstream }),
    shed: (upstream, why) => shed.inc({ upstream, why }),
    waitsForLegacy: (upstream) => legacyWaits.inc({ upstream }),
    routeHeld: (upstream, value) => epoch.set({ upstream }, value),
    windowsDropped: (count) => dropped.inc(count),
  };
}
