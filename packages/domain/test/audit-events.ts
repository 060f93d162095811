import { type Certificate, type EventType, type HealthStatus, makeEvent, type NewEvent, subjectFor } from "@mcp-failover/contracts";
import type { Placed } from "@mcp-failover/domain";

/** Events of AUDIT with their places, as short as a test wants them. */
export const startMs = Date.parse("2026-06-01T12:00:00Z");
const certificate: Certificate = {
  decider: "test",
  rule: "test",
  policyHash: "p",
  nowMs: 0,
  folded: { AUDIT: null, SIGNALS: null },
  input: {},
  rejected: [],
};
export const service = { kind: "service", id: "failover-controller" } as const;
export const operator = { kind: "operator", id: "ann" } as const;

function placed<T extends EventType>(
  seq: number,
  type: T,
  keys: readonly string[],
  data: NewEvent<T>["data"],
  atMs = startMs + seq * 1000,
): Placed {
  const event = makeEvent({ type, keys, data, id: `id-${seq}`, service: "cli", instance: "test", timeMs: atMs } as NewEvent<T>);
  return { seq, subject: subjectFor(type, ...keys), timeMs: atMs, event: event as Placed["event"] };
}

const iso = (seq: number): string => new Date(startMs + seq * 1000).toISOString();

export const logStarted = (seq: number, generation = 1): Placed =>
  placed(seq, "log.started", [], { generation, timestamp: iso(seq), by: service, reason: "test" });

export const configApplied = (seq: number, version: number, topology: unknown): Placed =>
  placed(seq, "config.applied", [], {
    version,
    hash: `hash-${version}`,
    fileHash: null,
    timestamp: iso(seq),
    by: operator,
    reason: "test",
    environment: "development",
    topology,
  });

export const healthChanged = (
  seq: number,
  upstream: string,
  endpoint: string,
  status: HealthStatus,
  atMs?: number,
  previousStatus: HealthStatus | null = null,
): Placed =>
  placed(
    seq,
    "health.changed",
    [upstream, endpoint],
    {
      service: upstream,
      endpoint,
      status,
      responseTime: status === "healthy" ? 3.5 : null,
      error: status === "healthy" ? null : "refused",
      timestamp: iso(seq),
      critical: true,
      previousStatus,
      reason: `it is ${status}`,
      prober: "prober-1",
      votes: [],
      state: {
        status,
        score: status === "healthy" ? 1 : 0,
        sinceMs: startMs + seq,
        okRun: 0,
        failRun: 0,
        changesAtMs: [],
        heldDownUntilMs: null,
        lastObservedAtMs: null,
      },
      certificate,
    },
    atMs,
  );

export const breakerChanged = (
  seq: number,
  upstream: string,
  endpoint: string,
  status: "closed" | "open" | "half_open" | "forced_open",
  atMs?: number,
): Placed =>
  placed(
    seq,
    "breaker.changed",
    [upstream, endpoint],
    {
      service: upstream,
      endpoint,
      status,
      previousStatus: "closed",
      timestamp: iso(seq),
      reason: `it is ${status}`,
      by: service,
      state: { status, generation: seq, sinceMs: startMs + seq, openUntilMs: null, openings: 0, permits: [] },
      certificate,
    },
    atMs,
  );

export const decided = (
  seq: number,
  upstream: string,
  active: string,
  epoch: number,
  more: { sinceMs?: number; heldUntilMs?: number | null } = {},
): Placed =>
  placed(seq, "failover.decided", [upstream], {
    service: upstream,
    action: more.heldUntilMs === undefined ? "moved" : "held",
    previousEndpoint: "primary",
    currentEndpoint: active,
    timestamp: iso(seq),
    automatic: true,
    by: service,
    reason: "test",
    commandId: null,
    overrode: [],
    state: {
      generation: 1,
      epoch,
      active,
      tier: 0,
      sinceMs: more.sinceMs ?? startMs + seq,
      held: more.heldUntilMs === undefined ? null : { by: operator, reason: "a drill", sinceMs: startMs, untilMs: more.heldUntilMs },
      moves: [],
    },
    certificate,
  });

export const executed = (
  seq: number,
  upstream: string,
  to: string,
  epoch: number,
  more: { by?: typeof operator | typeof service; atMs?: number } = {},
): Placed =>
  placed(
    seq,
    "failover.executed",
    [upstream],
    {
      service: upstream,
      epoch,
      decisionId: "d",
      timestamp: iso(seq),
      reason: "the other one is dead",
      by: more.by ?? service,
      previousEndpoint: to === "primary" ? "secondary" : "primary",
      currentEndpoint: to,
      automatic: more.by !== operator,
      appliedBy: [],
      notAppliedBy: [],
    },
    more.atMs,
  );

export const failing = (seq: number, upstream: string, isFailing: boolean, atMs?: number): Placed =>
  placed(
    seq,
    "failover.failed",
    [upstream],
    { service: upstream, timestamp: iso(seq), rule: "no_candidate", reason: "no candidate is proven", failing: isFailing, certificate },
    atMs,
  );

export const rejected = (seq: number, upstream: string, rule: string, atMs?: number): Placed =>
  placed(
    seq,
    "failover.rejected",
    [upstream],
    { service: upstream, timestamp: iso(seq), rule, reason: "a rule says no", automatic: true, by: service, commandId: null, certificate },
    atMs,
  );

export const rollbackDecided = (seq: number, name: string, implementation: "mcp" | "legacy"): Placed =>
  placed(seq, "rollback.decided", ["tool", name], {
    scope: "tool",
    name,
    action: implementation === "legacy" ? "rolled_back" : "recovered",
    implementation,
    previousImplementation: "mcp",
    timestamp: iso(seq),
    automatic: false,
    by: operator,
    reason: "test",
    commandId: null,
    state: { epoch: seq, implementation, mcpPercent: implementation === "mcp" ? 100 : 0, sinceMs: startMs, lastGoodEpoch: 0 },
    certificate,
  });

export const rollbackNotice = (
  seq: number,
  type: "rollback.executed" | "rollback.advanced" | "rollback.paused" | "rollback.recovered",
  name: string,
  by: typeof operator | typeof service = service,
  rule = "error_rate",
): Placed =>
  placed(seq, type, ["tool", name], {
    scope: "tool",
    name,
    epoch: seq,
    decisionId: "d",
    implementation: type === "rollback.recovered" ? "mcp" : "legacy",
    timestamp: iso(seq),
    reason: "too many errors",
    rule,
    by,
    appliedBy: [],
    notAppliedBy: [],
  });

export const rollbackRejected = (seq: number, name: string, more: { by?: typeof operator; epoch?: number } = {}): Placed =>
  placed(seq, "rollback.rejected", ["tool", name], {
    scope: "tool",
    name,
    timestamp: iso(seq),
    epoch: more.epoch ?? 0,
    rule: "legacy_no_better",
    reason: "80 of 80 MCP calls failed; but legacy is no better",
    automatic: more.by === undefined,
    by: more.by ?? service,
    commandId: null,
    certificate,
  });

/** A topology of upstreams with endpoints by name; the first has tier 0, the second tier 1. */
export function topologyOf(upstreams: Record<string, readonly string[]>, more: { tools?: object; critical?: boolean } = {}): unknown {
  return {
    upstreams: Object.fromEntries(
      Object.entries(upstreams).map(([name, endpoints]) => [
        name,
        {
          kind: "http",
          critical: more.critical ?? true,
          tools: more.tools ?? {},
          endpoints: endpoints.map((endpoint, tier) => ({ name: endpoint, tier, url: `http://127.0.0.1:${1000 + tier}/` })),
        },
      ]),
    ),
  };
}
