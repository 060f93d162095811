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
 * S1  Folding is idempotent and ignores what is older than what it has: an event at or below `seq` of its subject changes nothing, so
 *     that events of different subjects may come in any order.
 * S2  The view shows exactly the configured upstreams and endpoints, whatever else the log holds.
 * S3  An upstream without a decision shows the first write endpoint of its lowest tier at epoch 0.
 * S4  Memory is bounded by the configuration, `historyMax` and `strays`, not by the length of the log. What is not configured any more is
 *     kept up to those, because it may be configured again before anything new is said of it.
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
  /** Which event `seq` is, by its id and the store's time: a log that was restored to an earlier place has another one there. */
  readonly last: { readonly id: string; readonly atMs: number } | null;
  /** Which log this was folded from: its last `log.started`. Null before the first. */
  readonly log: { readonly id: string; readonly atMs: number; readonly seq: number } | null;
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
  /** Whether an upstream has nowhere to go. */
  readonly failing: Readonly<Record<string, { failing: boolean; seq: number }>>;
  /** Newest first, at most {@link historyMax} an upstream. */
  readonly history: Readonly<Record<string, readonly FailoverRecord[]>>;
}

export const historyMax = 1000;
/** How much is kept of what no configuration names: entries of each kind, and histories. The newest stay. */
export const strays = { entriesMax: 1000, historiesMax: 50 } as const;

export const emptyReadModel: ReadModel = {
  seq: 0,
  last: null,
  log: null,
  generation: 0,
  configVersion: 0,
  configHash: null,
  configAtMs: 0,
  topology: null,
  health: {},
  breakers: {},
  routes: {},
  rollbacks: {},
  failing: {},
  history: {},
};

/** The model after one more event of AUDIT (S1). */
export function foldReadModel(model: ReadModel, { seq, timeMs, event }: Placed): ReadModel {
  const next = seq > model.seq ? { ...model, seq, last: { id: event.id, atMs: timeMs } } : model;
  switch (event.type) {
    case "log.started":
      if (model.log !== null && model.log.seq >= seq) return next;
      return { ...next, log: { id: event.id, atMs: timeMs, seq }, generation: event.data.generation };
    case "config.applied": {
      if (event.data.version <= model.configVersion) return next;
      const parsed = topologySchema.safeParse(event.data.topology);
      if (!parsed.success) return next;
      const { version, hash } = event.data;
      return forgetStrays({ ...next, configVersion: version, configHash: hash, configAtMs: timeMs, topology: parsed.data });
    }
    case "health.changed": {
      const { service, endpoint, status, responseTime, error, reason, timestamp, state } = event.data;
      const entry = { status, score: state.score, responseTime, error, reason, sinceMs: state.sinceMs, timestamp, seq };
      return put(next, "health", endpointKey(service, endpoint), entry);
    }
    case "breaker.changed": {
      const { service, endpoint, status, reason, state } = event.data;
      return put(next, "breakers", endpointKey(service, endpoint), { status, reason, sinceMs: state.sinceMs, seq });
    }
    case "failover.decided": {
      const { service, state, reason } = event.data;
      return put(next, "routes", service, { state, reason, seq });
    }
    case "failover.failed":
      return put(next, "failing", event.data.service, { failing: event.data.failing, seq });
    case "failover.executed": {
      const { service, previousEndpoint, currentEndpoint, timestamp, epoch, automatic, reason, by } = event.data;
      const before = own(model.history, service);
      if ((before?.[0]?.seq ?? 0) >= seq) return next;
      const record: FailoverRecord = { service, previousEndpoint, currentEndpoint, timestamp, epoch, automatic, reason, by: by.id, seq };
      const after = { ...next, history: { ...model.history, [service]: [record, ...(before ?? [])].slice(0, historyMax) } };
      return before === undefined && !isConfigured(model.topology, service) ? forgetStrays(after) : after;
    }
    case "rollback.decided":
      return put(next, "rollbacks", `${event.data.scope}/${event.data.name}`, { state: event.data.state, seq });
    default:
      return next;
  }
}

type Entries = "health" | "breakers" | "routes" | "rollbacks" | "failing";

/** The model with one entry more or anew, unless what it has is as new (S1). */
function put<K extends Entries>(model: ReadModel, kind: K, key: string, entry: ReadModel[K][string]): ReadModel {
  const before = own<{ readonly seq: number }>(model[kind], key);
  if (before !== undefined && before.seq >= (entry as { seq: number }).seq) return model;
  const after = { ...model, [kind]: { ...model[kind], [key]: entry } };
  return before === undefined && !isConfigured(model.topology, key) ? forgetStrays(after) : after;
}

/** Whether an upstream or endpoint is configured; of scopes of a rollback it says no, and they are counted then. */
function isConfigured(topology: Topology | null, key: string): boolean {
  const [name = "", endpoint] = key.split("/");
  const upstream = own(topology?.upstreams ?? {}, name);
  return upstream !== undefined && (endpoint === undefined || upstream.endpoints.some((one) => one.name === endpoint));
}

/** An entry by a name that came from outside: "constructor" is a name too. */
export function own<T>(record: Readonly<Record<string, T>>, key: string): T | undefined {
  return Object.hasOwn(record, key) ? record[key] : undefined;
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
  const { upstreams = {}, agents = {} } = model.topology ?? {};
  return {
    upstreams: Object.entries(upstreams).map(([name, upstream]) => viewUpstream(model, name, upstream, nowMs)),
    rollback: {
      system: implementationOf(model, "system/system"),
      agents: Object.fromEntries(Object.keys(agents).map((agent) => [agent, implementationOf(model, `agent/${agent}`)])),
      tools: Object.fromEntries(Object.values(upstreams).flatMap((upstream) => viewTools(model, upstream))),
    },
    services: services.map(({ name, instances }) => ({ name, instances })),
  };
}

type Upstream = Topology["upstreams"][string];

/** One upstream of {@link viewStatus}. */
export function viewUpstream(model: ReadModel, name: string, upstream: Upstream, nowMs: number): StatusView["upstreams"][number] {
  const route = own(model.routes, name)?.state;
  const held = route?.held ?? null;
  const holds = held !== null && (held.untilMs === null || held.untilMs > nowMs);
  return {
    name,
    critical: upstream.critical,
    active: route?.active ?? initialActive(upstream),
    epoch: route?.epoch ?? 0,
    // A hold before the first move leaves the beginning open (0).
    since: new Date(route?.sinceMs || model.configAtMs).toISOString(),
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
}

/** The tools of an upstream that have a legacy implementation, and which one serves each. */
export function viewTools(model: ReadModel, upstream: Upstream): [tool: string, Implementation][] {
  return Object.entries(upstream.tools)
    .filter(([, tool]) => tool.legacy !== undefined)
    .map(([tool]) => [tool, implementationOf(model, `tool/${tool}`)]);
}

/** What serves a scope of a rollback, by its key: `system/system`, `agent/<name>`, `tool/<name>`. */
export function implementationOf(model: ReadModel, key: string): Implementation {
  return own(model.rollbacks, key)?.state.implementation ?? "mcp";
}

/** Drops the oldest of what the configuration does not name, beyond {@link strays} (S4). Without a configuration nothing is known to be one. */
function forgetStrays(model: ReadModel): ReadModel {
  if (model.topology === null) return model;
  const { entriesMax, historiesMax } = strays;
  const upstreams = Object.entries(model.topology.upstreams);
  const names = new Set(upstreams.map(([name]) => name));
  const endpoints = new Set(
    upstreams.flatMap(([name, upstream]) => upstream.endpoints.map((endpoint) => endpointKey(name, endpoint.name))),
  );
  const scopes = new Set([
    "system/system",
    ...Object.keys(model.topology.agents).map((agent) => `agent/${agent}`),
    ...upstreams.flatMap(([, upstream]) => Object.keys(upstream.tools).map((tool) => `tool/${tool}`)),
  ]);
  return {
    ...model,
    health: newest(model.health, endpoints, entriesMax, ({ seq }) => seq),
    breakers: newest(model.breakers, endpoints, entriesMax, ({ seq }) => seq),
    routes: newest(model.routes, names, entriesMax, ({ seq }) => seq),
    failing: newest(model.failing, names, entriesMax, ({ seq }) => seq),
    rollbacks: newest(model.rollbacks, scopes, entriesMax, ({ seq }) => seq),
    history: newest(model.history, names, historiesMax, (records) => records[0]?.seq ?? 0),
  };
}

function newest<T>(
  record: Readonly<Record<string, T>>,
  configured: ReadonlySet<string>,
  max: number,
  seqOf: (entry: T) => number,
): Readonly<Record<string, T>> {
  const stray = Object.entries(record).filter(([key]) => !configured.has(key));
  if (stray.length <= max) return record;
  const dropped = new Set(
    stray
      .sort(([, a], [, b]) => seqOf(a) - seqOf(b))
      .slice(0, stray.length - max)
      .map(([key]) => key),
  );
  return Object.fromEntries(Object.entries(record).filter(([key]) => !dropped.has(key)));
}
