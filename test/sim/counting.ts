import type { Entry } from "./world-types.ts";

/** Counts what an event of the log says happened, for the table over all runs. */
export function coverageOf({ event }: Entry, count: (name: string) => void): void {
  switch (event.type) {
    case "probe.observed":
    case "traffic.observed":
      return;
    case "health.changed":
      count(`health:${event.data.previousStatus ?? "unknown"}>${event.data.status}`);
      count(`rule:health:${event.data.certificate.rule}`);
      return;
    case "breaker.changed":
      count(`breaker:${event.data.previousStatus ?? "closed"}>${event.data.status}`);
      count(`rule:breaker:${event.data.certificate.rule}`);
      return;
    case "failover.decided":
      count(`failover:${event.data.action}:${event.data.automatic ? "automatic" : "ordered"}`);
      count(`rule:failover:${event.data.certificate.rule}`);
      return;
    case "failover.rejected":
      count(`rejected:failover:${event.data.rule}`);
      return;
    case "failover.failed":
      count(`failing:${event.data.failing ? event.data.rule : "over"}`);
      if (event.data.failing && event.data.reason.includes("(panic)")) count("failing:panic");
      return;
    case "fleet.reserved":
      count(`rule:fleet:${event.data.certificate.rule}`);
      return;
    case "rollback.decided":
      count(`rollback:${event.data.action}:${event.data.scope}:${event.data.automatic ? "automatic" : "ordered"}`);
      count(`rule:rollback:${event.data.certificate.rule}`);
      return;
    case "rollback.rejected":
      count(`rejected:rollback:${event.data.rule}`);
      return;
    default:
      count(`event:${event.type}`);
  }
}
