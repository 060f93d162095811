import { type DataOf, makeEvent, subjectFor } from "@mcp-failover/contracts";
import { until } from "../harness/wait.ts";
import type { RouterWorld } from "../integration/router-world.ts";

/** A move, as the log has it. */
export interface Decision {
  readonly from: string;
  readonly to: string;
  readonly epoch: number;
  readonly automatic: boolean;
  /** Routers that had applied it when it was told. */
  readonly appliedBy: readonly string[];
}

/** The services that decide where calls go, as processes of their own; and what the log says of their decisions. */
export interface Controllers {
  isHealthy(upstream: string, endpoint: string): Promise<unknown>;
  epochOf(upstream: string): Promise<number>;
  /** The next move that a router has applied. */
  decisionAfter(upstream: string, epoch: number): Promise<Decision>;
}

/** A move waits for the dead endpoint's probes, their confirmation, and on a busy machine for all of that. */
const waitMs = 60_000;

export async function startControllers(world: RouterWorld): Promise<Controllers> {
  const { bus } = world;
  const by = { kind: "operator" as const, id: "test" };
  const data = { generation: 1, timestamp: new Date().toISOString(), by, reason: "test" };
  await bus.appendFenced(
    makeEvent({ type: "log.started", keys: [], id: "log-1", service: "bootstrap", instance: "test", timeMs: Date.now(), data }),
    0,
  );
  // Two probers and the router: an automatic move needs a majority of the observers.
  await Promise.all([
    world.startService("failover-controller", "controller-1"),
    world.startService("prober", "prober-1"),
    world.startService("prober", "prober-2"),
  ]);
  const last = async <T extends "health.changed" | "failover.decided" | "failover.executed">(
    type: T,
    ...keys: readonly string[]
  ): Promise<DataOf<T> | null> => {
    const found = await bus.lastOf("AUDIT", subjectFor(type, ...keys));
    return found?.content.kind === "event" ? (found.content.event.data as DataOf<T>) : null;
  };
  const epochOf = async (upstream: string): Promise<number> => (await last("failover.decided", upstream))?.state.epoch ?? 0;
  return {
    epochOf,
    isHealthy: (upstream, endpoint) =>
      until(
        async () => (await last("health.changed", upstream, endpoint))?.status === "healthy",
        waitMs,
        `the probers say that ${upstream}/${endpoint} is healthy`,
      ),
    decisionAfter: (upstream, epoch) =>
      until(
        async () => {
          const told = await last("failover.executed", upstream);
          if (told === null || told.epoch <= epoch || told.appliedBy.length === 0) return null;
          const { previousEndpoint: from, currentEndpoint: to, automatic, appliedBy } = told;
          return { from, to, epoch: told.epoch, automatic, appliedBy };
        },
        waitMs,
        `the failover-controller moves ${upstream} after epoch ${epoch}, and the router applies it`,
      ),
  };
}
