import { type Event, latencyBucketsMs, makeEvent, type NewEvent, type Topology, topology } from "@mcp-failover/contracts";
import {
  type CallCounts,
  foldRollbackAudit,
  foldToolTraffic,
  noRollbackAudit,
  noToolTraffic,
  type RollbackAudit,
  type RollbackInput,
  rollbackInput,
  type ToolTraffic,
} from "@mcp-failover/domain";

export const nowMs = 1_000_000_000;
export const none: CallCounts = { calls: 0, errors: 0, slow: 0 };
export const counts = (calls: number, errors = 0, slow = 0): CallCounts => ({ calls, errors, slow });

const legacy = { url: "http://127.0.0.1:1/legacy" };
export const config = topology.parse({
  upstreams: {
    shop: { kind: "mcp", endpoints: [{ name: "a", tier: 0, url: "http://127.0.0.1:1/" }], tools: { buy: { legacy }, look: {} } },
    bank: { kind: "mcp", endpoints: [{ name: "a", tier: 0, url: "http://127.0.0.1:2/" }], tools: { buy: {} } },
  },
  agents: { all: {}, looker: { tools: ["look"] }, buyer: { tools: ["shop/buy"] } },
});
/** AUDIT with a configuration alone. */
export function applied(topology: Topology): RollbackAudit {
  return foldRollbackAudit(noRollbackAudit, { type: "config.applied", data: { environment: "development", topology } } as unknown as Event);
}
export const audit = applied(config);
/** AUDIT in which one upstream was moved. */
export function moved(upstream: string, atMs: number): RollbackAudit {
  const data = { service: upstream, action: "moved", state: { sinceMs: atMs } };
  return foldRollbackAudit(audit, { type: "failover.decided", data } as unknown as Event);
}

/** One window of calls of `buy` as a router tells it. */
export function window(
  timeMs: number,
  rows: { upstream?: string; agent?: string; implementation?: "mcp" | "legacy"; calls: number; errors: number; ms?: number }[],
  router = "r1",
) {
  const tools = rows.map(({ upstream = "shop", agent = null, implementation = "mcp", calls, errors, ms = 1 }) => ({
    upstream,
    tool: "buy",
    agent,
    implementation,
    calls,
    errors,
    latency: [...latencyBucketsMs, Number.POSITIVE_INFINITY].map((bound, index) =>
      ms <= bound && ms > (latencyBucketsMs[index - 1] ?? 0) ? calls : 0,
    ),
  }));
  const data = { router, fromMs: timeMs, toMs: timeMs, endpoints: [], tools, routes: {}, rollbacks: {} };
  const from = { type: "traffic.observed", keys: [router], data, id: "e", service: "router", instance: "t", timeMs };
  return { seq: 1, timeMs, event: makeEvent(from as unknown as NewEvent<"traffic.observed">) as Event<"traffic.observed"> };
}
const moment = { command: null, clock: { tilted: false }, evidenceFromMs: 0, nowMs };
export const join = (
  traffic: ToolTraffic,
  scope: "tool" | "agent" | "system",
  name: string,
  more: object = {},
  of = audit,
): RollbackInput => rollbackInput(of, traffic, { scope, name }, { ...moment, ...more });

/** What was heard of `buy`, a window each second, oldest first; the last one half a second ago. */
export function heard(seconds: readonly Parameters<typeof window>[1][]): ToolTraffic {
  const firstMs = nowMs - 500 - (seconds.length - 1) * 1000;
  return seconds.reduce((traffic, rows, index) => foldToolTraffic(traffic, window(firstMs + index * 1000, rows)), noToolTraffic);
}
