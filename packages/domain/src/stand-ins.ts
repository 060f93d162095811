import type { StatusView, Topology } from "@mcp-failover/contracts";
import { maintenanceAt } from "./maintenance.ts";
import { policyFor } from "./policy.ts";
import { breachOf, safetyFacts } from "./safety-rules.ts";

/**
 * What, as it is configured, keeps an upstream's other endpoints from serving in place of its active one, however healthy they are. Asked before
 * that is taken away on purpose; the failover-controller decides by its own input, which has more (F5 to F7, F14, F15).
 *
 * SI1  An endpoint is unfit that takes no writes, is in maintenance or behind an open breaker, or that a safety rule lets nobody move to.
 * SI2  Nothing is moved by itself where automatic moves are switched off or only tried dry, nor because of what is in maintenance. A pool
 *      needs no move where another endpoint of the active one's tier is fit.
 */
export interface StandIns {
  /** Why, by endpoint. */
  readonly unfit: Readonly<Record<string, string>>;
  readonly stays: { readonly rule: string; readonly why: string } | null;
}

type UpstreamView = StatusView["upstreams"][number];

/** Pure (SI1, SI2). `upstream` is one of `status`, and configured. */
export function standInsOf(
  { topology, environment }: { readonly topology: Topology; readonly environment: "development" | "production" },
  status: Pick<StatusView, "upstreams">,
  upstream: UpstreamView,
  nowMs: number,
): StandIns {
  const { name, active, mode, endpoints } = upstream;
  const configured = topology.upstreams[name]?.endpoints ?? [];
  const tierOf = (endpoint: string): number => endpoints.find((one) => one.name === endpoint)?.tier ?? 0;
  const needsMove = (endpoint: string): boolean => mode !== "pool" || tierOf(endpoint) !== tierOf(active);
  const others = endpoints.filter((endpoint) => endpoint.name !== active);
  const rules = safetyFacts(topology, new Set([name]), {
    offBecause: (of, endpoint) => offBecause(topology, status, of, endpoint, nowMs),
    onBackup: (of) => isOnBackup(topology, status, of),
  });
  const firstTier = Math.min(...configured.filter(({ role }) => role === "write").map(({ tier }) => tier));
  const unfit: Record<string, string> = {};
  for (const { name: to, tier, breaker } of others) {
    const change = { upstream: name, from: active, to, toBackup: tier > firstTier };
    const breach = needsMove(to) ? breachOf(rules, change, [], nowMs) : null;
    const work = maintenanceAt(topology, name, to, nowMs);
    if (configured.find((endpoint) => endpoint.name === to)?.role === "read") unfit[to] = "takes no writes (role: read)";
    else if (work !== null) unfit[to] = `is in maintenance (${work.name})`;
    else if (breaker === "open" || breaker === "forced_open") unfit[to] = `is behind a breaker that is ${breaker}`;
    else if (breach !== null) unfit[to] = `may not be moved to (${breach.name}: ${breach.why})`;
  }
  const fit = others.filter((endpoint) => endpoint.health === "healthy" && unfit[endpoint.name] === undefined);
  if (fit.some((endpoint) => !needsMove(endpoint.name))) return { unfit, stays: null };
  const { automatic, dryRun, movesPerHour } = policyFor(topology, name, environment).failover;
  const work = maintenanceAt(topology, name, active, nowMs);
  if (work !== null)
    return { unfit, stays: { rule: "maintenance", why: `${active} is in maintenance (${work.name}): nobody moves ${name} because of it` } };
  if (!automatic || movesPerHour === 0)
    return { unfit, stays: { rule: "automatic_off", why: `${name} is not moved by itself: automatic moves are switched off` } };
  return { unfit, stays: dryRun ? { rule: "dry_run", why: `${name} is not moved by itself: its policy is a dry run` } : null };
}

function offBecause(
  topology: Topology,
  status: Pick<StatusView, "upstreams">,
  upstream: string,
  endpoint: string,
  nowMs: number,
): string | null {
  const view = status.upstreams.find(({ name }) => name === upstream)?.endpoints.find(({ name }) => name === endpoint);
  if (view === undefined) return "not configured";
  if (view.health === "unhealthy") return "unhealthy";
  if (view.breaker === "open" || view.breaker === "forced_open") return `breaker ${view.breaker}`;
  return maintenanceAt(topology, upstream, endpoint, nowMs) === null ? null : "in maintenance";
}

function isOnBackup({ upstreams }: Topology, status: Pick<StatusView, "upstreams">, upstream: string): boolean {
  const active = status.upstreams.find(({ name }) => name === upstream)?.active;
  const endpoints = upstreams[upstream]?.endpoints ?? [];
  const tier = endpoints.find(({ name }) => name === active)?.tier ?? Number.POSITIVE_INFINITY;
  return endpoints.some((endpoint) => endpoint.role === "write" && endpoint.tier < tier);
}
