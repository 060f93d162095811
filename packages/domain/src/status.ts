import {
  type BreakerStatus,
  type Event,
  endpointKey,
  type FailoverState,
  type HealthStatus,
  type Implementation,
  type RollbackState,
  type StatusView,
  type Topology,
  topology as topologySchema,
} from "@mcp-failover/contracts";

/**
 * The read model of the fleet: AUDIT folded into what `mcpf status`, the console and Redis show.
 *
 * Invariants:
 * S1  Folding is idempotent and ignores what is older than what it has: an event at or below `seq` of its subject changes nothing.
 * S2  The view shows exactly the configured upstreams and endpoints, whatever else the log holds.
 * S3  An upstream without a decision shows the first write endpoint of its lowest tier at epoch 0.
 * S4  Memory is bounded by the configuration and `historyMax`, not by the length of the log.
 */

/** An event with its place in AUDIT. */
export interface Placed {
  readonly seq: number;
  readonly subject: string;
  readonly timeMs: number;
  readonly event: Event;
}

export interface FailoverRecord {
  readonly service: string;
  readonly previousEndpoint: string;
  readonly currentEndpoint: string;
  readonly timestamp: string;
  readonly epoch: number;
  readonly automatic: boolean;
  readonly reason: string;
  readonly by: string;
  readonly seq: number;
}

export interface ReadModel {
  readonly seq: number;
  readonly generation: number;
  readonly configVersion: number;
  readonly configHash: string | null;
  /** When the configuration in force was applied. */
  readonly configAtMs: number;
  readonly topology: Topology | null;
  readonly health: Readonly<
    Record<
      string,
      {
        status: HealthStatus;
        score: number;
        responseTime: number | null;
        error: string | null;
        reason: string;
        sinceMs: number;
        timestamp: string;
        seq: number;
      }
    >
  >;
  readonly breakers: Readonly<Record<string, { status: BreakerStatus; reason: string; sinceMs: number; seq: number }>>;
  readonly routes: Readonly<Record<string, { state: FailoverState; reason: string; seq: number }>>;
  readonly rollbacks: Readonly<Record<string, { state: RollbackState; seq: number }>>;
  /** Newest first, at most {@link historyMax} an upstream. */
  readonly history: Readonly<Record<string, readonly FailoverRecord[]>>;
}

export const historyMax = 1000;

export const emptyReadModel: ReadModel = {
  seq: 0,
  generation: 0,
  configVersion: 0,
  configHash: null,
  configAtMs: 0,
  topology: null,
  health: {},
  breakers: {},
  routes: {},
  rollbacks: {},
  history: {},
};

/** The model after one more event of AUDIT (S1). */
export function foldReadModel(model: ReadModel, { seq, timeMs, event }: Placed): ReadModel {
  const next = { ...model, seq: Math.max(model.seq, seq) };
  switch (event.type) {
    case "log.started":
      return { ...next, generation: Math.max(model.generation, event.data.generation) };
    case "config.applied": {
      if (event.data.version <= model.configVersion) return next;
      const parsed = topologySchema.safeParse(event.data.topology);
      if (!parsed.success) return next;
      return forgetUnconfigured({
        ...next,
        configVersion: event.data.version,
        configHash: event.data.hash,
        configAtMs: timeMs,
        topology: parsed.data,
      });
    }
    case "health.changed": {
      const { service, endpoint, status, responseTime, error, reason, timestamp, state } = event.data;
      const key = endpointKey(service, endpoint);
      if ((model.health[key]?.seq ?? 0) >= seq) return next;
      return {
        ...next,
        health: {
          ...model.health,
          [key]: { status, score: state.score, responseTime, error, reason, sinceMs: state.sinceMs, timestamp, seq },
        },
      };
    }
    case "breaker.changed": {
      const key = endpointKey(event.data.service, event.data.endpoint);
      if ((model.breakers[key]?.seq ?? 0) >= seq) return next;
      const { status, reason, state } = event.data;
      return { ...next, breakers: { ...model.breakers, [key]: { status, reason, sinceMs: state.sinceMs, seq } } };
    }
    case "failover.decided": {
      const { service, state, reason } = event.data;
      if ((model.routes[service]?.seq ?? 0) >= seq) return next;
      return { ...next, routes: { ...model.routes, [service]: { state, reason, seq } } };
    }
    case "failover.executed": {
      const { service, previousEndpoint, currentEndpoint, timestamp, epoch, automatic, reason, by } = event.data;
      const before = model.history[service] ?? [];
      if ((before[0]?.seq ?? 0) >= seq) return next;
      const record: FailoverRecord = { service, previousEndpoint, currentEndpoint, timestamp, epoch, automatic, reason, by: by.id, seq };
      return { ...next, history: { ...model.history, [service]: [record, ...before].slice(0, historyMax) } };
    }
    case "rollback.decided": {
      const key = `${event.data.scope}/${event.data.name}`;
      if ((model.rollbacks[key]?.seq ?? 0) >= seq) return next;
      return { ...next, rollbacks: { ...model.rollbacks, [key]: { state: event.data.state, seq } } };
    }
    default:
      return next;
  }
}

/** The endpoint that is active before the first decision (S3): the first write endpoint of the lowest tier. */
export function initialActive(upstream: Topology["upstreams"][string]): string {
  const writers = upstream.endpoints.filter((endpoint) => endpoint.role === "write");
  const first = writers.reduce((best, endpoint) => (endpoint.tier < best.tier ? endpoint : best), writers[0] ?? { name: "", tier: 0 });
  return first.name;
}

/** What `mcpf status -o json` shows (S2). An upstream without a decision is active since the configuration was applied. */
export function viewStatus(
  model: ReadModel,
  services: readonly { readonly name: string; readonly instances: number }[],
  nowMs: number,
): StatusView {
  const upstreams = Object.entries(model.topology?.upstreams ?? {}).map(([name, upstream]) => {
    const route = model.routes[name]?.state;
    const held = route?.held ?? null;
    const holds = held !== null && (held.untilMs === null || held.untilMs > nowMs);
    return {
      name,
      critical: upstream.critical,
      active: route?.active ?? initialActive(upstream),
      epoch: route?.epoch ?? 0,
      since: new Date(route?.sinceMs ?? model.configAtMs).toISOString(),
      mode: upstream.mode,
      held: holds
        ? { by: held.by.id, reason: held.reason, until: held.untilMs === null ? null : new Date(held.untilMs).toISOString() }
        : null,
      endpoints: upstream.endpoints.map((endpoint) => {
        const key = endpointKey(name, endpoint.name);
        const health = model.health[key];
        return {
          name: endpoint.name,
          tier: endpoint.tier,
          health: health?.status ?? ("unknown" as const),
          score: health?.score ?? 0,
          breaker: model.breakers[key]?.status ?? ("closed" as const),
          responseTime: health?.responseTime ?? null,
          reason: health?.reason ?? null,
        };
      }),
    };
  });
  return { upstreams, rollback: viewRollback(model), services: services.map(({ name, instances }) => ({ name, instances })) };
}

function viewRollback(model: ReadModel): StatusView["rollback"] {
  const implementationOf = (key: string): Implementation => model.rollbacks[key]?.state.implementation ?? "mcp";
  const tools = Object.values(model.topology?.upstreams ?? {}).flatMap((upstream) =>
    Object.entries(upstream.tools)
      .filter(([, tool]) => tool.legacy !== undefined)
      .map(([tool]) => [tool, implementationOf(`tool/${tool}`)] as const),
  );
  const agents = Object.keys(model.topology?.agents ?? {}).map((agent) => [agent, implementationOf(`agent/${agent}`)] as const);
  return { system: implementationOf("system/system"), agents: Object.fromEntries(agents), tools: Object.fromEntries(tools) };
}

/** Drops what the configuration does not name any more (S4). Routes and rollbacks stay: they are few, and their epochs must go on. */
function forgetUnconfigured(model: ReadModel): ReadModel {
  const upstreams = model.topology?.upstreams ?? {};
  const keys = new Set(
    Object.entries(upstreams).flatMap(([name, upstream]) => upstream.endpoints.map((endpoint) => endpointKey(name, endpoint.name))),
  );
  const kept = <T>(record: Readonly<Record<string, T>>): Record<string, T> =>
    Object.fromEntries(Object.entries(record).filter(([key]) => keys.has(key)));
  return { ...model, health: kept(model.health), breakers: kept(model.breakers) };
}
