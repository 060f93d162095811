import type { Bus } from "@mcp-failover/bus";
import type { EndpointState } from "./endpoint-state.ts";

export interface LearnElsewhereOptions {
  readonly bus: Pick<Bus, "subscribe">;
  /** This router, which hears its own windows too. */
  readonly router: string;
  readonly endpoint: (upstream: string, name: string) => EndpointState | undefined;
  readonly monotonicMs: () => number;
}

/**
 * Learns from the windows of other routers how long the endpoints usually take. Of several processes on one port the kernel may give nearly
 * all connections to one, and the other would not know what late is when the endpoint hangs. At most once is good enough: nothing is stored
 * or asked for again. A window with hard failures is left out, because failures say nothing on how long answers take.
 */
export function learnElsewhere({ bus, router, endpoint, monotonicMs }: LearnElsewhereOptions): { stop(): void } {
  return bus.subscribe("traffic.observed", ({ data }) => {
    if (data.router === router) return;
    const nowMs = monotonicMs();
    for (const seen of data.endpoints) if (seen.hard === 0) endpoint(seen.upstream, seen.endpoint)?.learnElsewhere(seen.latency, nowMs);
  });
}
