import { type Event, latencyBucketsMs, makeEvent, type NewEvent, type Topology, topology } from "@mcp-failover/contracts";
import {
  type CallCounts,
  foldRollbackAudit,
  noRollbackAudit,
  openToolTraffic,
  type RollbackAudit,
  type RollbackInput,
  rollbackInput,
  type ToolTraffic,
  takeToolTraffic,
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
  const data = { service: upstream, action: "moved", state: { active: "a", sinceMs: atMs } };
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

export type Rows = Parameters<typeof window>[1];
/** A window of one router, or of each of several by name. */
export type Second = Rows | Readonly<Record<string, Rows>>;

export function takeSecond(into: ToolTraffic, atMs: number, second: Second): void {
  for (const [router, rows] of Object.entries(Array.isArray(second) ? { r1: second } : second))
    takeToolTraffic(into, window(atMs, rows, router));
}

/** What was heard of `buy`, a window each second, oldest first; the last one half a second ago. */
export function heard(seconds: readonly Second[]): ToolTraffic {
  const traffic = openToolTraffic();
  const firstMs = nowMs - 500 - (seconds.length - 1) * 1000;
  for (const [index, second] of seconds.entries()) takeSecond(traffic, firstMs + index * 1000, second);
  return traffic;
}
