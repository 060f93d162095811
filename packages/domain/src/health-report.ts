import { endpointKey, type HealthReport, type HealthStatus } from "@mcp-failover/contracts";
import { maintenanceAt } from "./maintenance.ts";
import { initialActive, own, type ReadModel } from "./status.ts";

/**
 * The reference's health report, out of the read model.
 *
 * HR1 Every configured upstream is in it, once, and nothing else.
 * HR2 A service is as well as the endpoint that serves it; a `pool` as the best endpoint of its active tier.
 * HR3 All together are unhealthy only when a critical service is; they are healthy only when every service is.
 */
export function healthReport(model: ReadModel, nowMs: number): HealthReport {
  const services = Object.entries(model.topology?.upstreams ?? {}).map(([service, upstream]) => {
    const active = own(model.routes, service)?.state.active ?? initialActive(upstream);
    const healthOf = (endpoint: string) => own(model.health, endpointKey(service, endpoint));
    const tier = upstream.endpoints.find(({ name }) => name === active)?.tier;
    const serving =
      upstream.mode === "pool" ? upstream.endpoints.filter((endpoint) => endpoint.tier === tier).map(({ name }) => name) : [active];
    const endpoint = serving.toSorted((a, b) => rankOf(healthOf(a)?.status) - rankOf(healthOf(b)?.status))[0] ?? active;
    const health = healthOf(endpoint);
    const maintenance = maintenanceAt(model.topology ?? {}, service, endpoint, nowMs);
    return {
      service,
      status: health?.status ?? ("unknown" as const),
      responseTime: health?.responseTime ?? null,
      error: health?.error ?? null,
      timestamp: health?.timestamp ?? null,
      critical: upstream.critical,
      endpoint,
      unhealthy: upstream.endpoints.map(({ name }) => name).filter((name) => healthOf(name)?.status === "unhealthy"),
      maintenance:
        maintenance === null
          ? null
          : { name: maintenance.name, reason: maintenance.reason, until: new Date(maintenance.untilMs).toISOString() },
    };
  });
  return { overall: overallOf(services), timestamp: new Date(nowMs).toISOString(), services };
}

const ranks: readonly HealthStatus[] = ["healthy", "degraded", "unknown", "unhealthy"];
const rankOf = (status: HealthStatus = "unknown"): number => ranks.indexOf(status);

/** HR3. */
function overallOf(services: readonly { readonly status: HealthStatus; readonly critical: boolean }[]): HealthStatus {
  if (services.some(({ status, critical }) => critical && status === "unhealthy")) return "unhealthy";
  if (services.some(({ status }) => status === "unhealthy" || status === "degraded")) return "degraded";
  return services.length === 0 || services.some(({ status }) => status === "unknown") ? "unknown" : "healthy";
}
