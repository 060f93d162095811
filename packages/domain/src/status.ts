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

/** The model after one more event of AUDIT (S1). It copies what the event changes: a whole log is folded by {@link ownReadModel}. */
export function foldReadModel(model: ReadModel, placed: Placed): ReadModel {
  const draft = { ...model };
  fold(draft, placed, copyOnWrite(draft));
  return draft;
}

/** A read model that its owner alone changes. */
export interface OwnReadModel {
  /** As it is now: it changes with every event. Who wants to keep what it was has to copy it. */
  readonly model: ReadModel;
  /** As {@link foldReadModel}, in place: an event costs the same in a fleet of any size. */
  fold(placed: Placed): void;
}

/** A read model to fold a log into; `from` stays as it is. */
export function ownReadModel(from: ReadModel = emptyReadModel): OwnReadModel {
  const model: Draft = { ...from };
  kinds.forEach(copyOnWrite(model));
  return { model, fold: (placed) => fold(model, placed, (kind) => model[kind]) };
}

type Draft = { -readonly [K in keyof ReadModel]: ReadModel[K] };
type Kind = "health" | "breakers" | "routes" | "rollbacks" | "failing" | "history";
/** The entries of a kind in the draft, to be written. */
type ToWrite = <K extends Kind>(kind: K) => ReadModel[K];

function copyOnWrite(draft: Draft): ToWrite {
  return (kind) => {
    draft[kind] = { ...draft[kind] };
    return draft[kind];
  };
}

function fold(draft: Draft, { seq, timeMs, event }: Placed, toWrite: ToWrite): void {
  if (seq > draft.seq) {
    draft.seq = seq;
    draft.last = { id: event.id, atMs: timeMs };
  }
  switch (event.type) {
    case "log.started":
      if (draft.log !== null && draft.log.seq >= seq) return;
      draft.log = { id: event.id, atMs: timeMs, seq };
      draft.generation = event.data.generation;
      return;
    case "config.applied": {
      if (event.data.version <= draft.configVersion) return;
      const parsed = topologySchema.safeParse(event.data.topology);
      if (!parsed.success) return;
      draft.configVersion = event.data.version;
      draft.configHash = event.data.hash;
      draft.configAtMs = timeMs;
      draft.topology = parsed.data;
      for (const kind of kinds) forgetStrays(draft, kind, toWrite);
      return;
    }
    case "health.changed": {
      const { service, endpoint, status, responseTime, error, reason, timestamp, state } = event.data;
      const entry = { status, score: state.score, responseTime, error, reason, sinceMs: state.sinceMs, timestamp, seq };
      put(draft, "health", endpointKey(service, endpoint), entry, toWrite);
      return;
    }
    case "breaker.changed": {
      const { service, endpoint, status, reason, state } = event.data;
      put(draft, "breakers", endpointKey(service, endpoint), { status, reason, sinceMs: state.sinceMs, seq }, toWrite);
      return;
    }
    case "failover.decided": {
      const { service, state, reason } = event.data;
      put(draft, "routes", service, { state, reason, seq }, toWrite);
      return;
    }
    case "failover.failed":
      put(draft, "failing", event.data.service, { failing: event.data.failing, seq }, toWrite);
      return;
    case "failover.executed": {
      const { service, previousEndpoint, currentEndpoint, timestamp, epoch, automatic, reason, by } = event.data;
      const record: FailoverRecord = { service, previousEndpoint, currentEndpoint, timestamp, epoch, automatic, reason, by: by.id, seq };
      put(draft, "history", service, [record, ...(own(draft.history, service) ?? [])].slice(0, historyMax), toWrite);
      return;
    }
    case "rollback.decided":
      put(draft, "rollbacks", `${event.data.scope}/${event.data.name}`, { state: event.data.state, seq }, toWrite);
      return;
    default:
  }
}

/** One entry more or anew, unless what there is is as new (S1). */
function put<K extends Kind>(draft: Draft, kind: K, key: string, entry: ReadModel[K][string], toWrite: ToWrite): void {
  const before = own<ReadModel[Kind][string]>(draft[kind], key);
  if (before !== undefined && seqOf(before) >= seqOf(entry)) return;
  // Defined, not assigned: "__proto__" is a name too.
  Object.defineProperty(toWrite(kind), key, { value: entry, writable: true, enumerable: true, configurable: true });
  if (before === undefined && draft.topology !== null && !configuredIn(draft.topology)[kind].has(key)) forgetStrays(draft, kind, toWrite);
}

/** When an entry was said; of a history, its newest record. */
function seqOf(entry: ReadModel[Kind][string]): number {
  return "seq" in entry ? entry.seq : (entry[0]?.seq ?? 0);
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
function forgetStrays(draft: Draft, kind: Kind, toWrite: ToWrite): void {
  if (draft.topology === null) return;
  const configured = configuredIn(draft.topology)[kind];
  const stray = Object.entries<ReadModel[Kind][string]>(draft[kind]).filter(([key]) => !configured.has(key));
  const tooMany = stray.length - (kind === "history" ? strays.historiesMax : strays.entriesMax);
  if (tooMany <= 0) return;
  const entries = toWrite(kind);
  for (const [key] of stray.sort(([, a], [, b]) => seqOf(a) - seqOf(b)).slice(0, tooMany)) Reflect.deleteProperty(entries, key);
}

const kinds = ["health", "breakers", "routes", "rollbacks", "failing", "history"] as const satisfies readonly Kind[];
/** Made once a configuration, because every new entry is looked up in it. */
const configuredKeys = new WeakMap<Topology, Readonly<Record<Kind, ReadonlySet<string>>>>();

/** The keys that entries of what is configured have. */
function configuredIn(topology: Topology): Readonly<Record<Kind, ReadonlySet<string>>> {
  const made = configuredKeys.get(topology);
  if (made !== undefined) return made;
  const upstreams = Object.entries(topology.upstreams);
  const names = new Set(upstreams.map(([name]) => name));
  const endpoints = new Set(
    upstreams.flatMap(([name, upstream]) => upstream.endpoints.map((endpoint) => endpointKey(name, endpoint.name))),
  );
  const scopes = new Set([
    "system/system",
    ...Object.keys(topology.agents).map((agent) => `agent/${agent}`),
    ...upstreams.flatMap(([, upstream]) => Object.keys(upstream.tools).map((tool) => `tool/${tool}`)),
  ]);
  const keys = { health: endpoints, breakers: endpoints, routes: names, failing: names, rollbacks: scopes, history: names };
  configuredKeys.set(topology, keys);
  return keys;
}
