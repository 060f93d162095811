import type { Stored } from "@mcp-failover/bus";
import {
  type BreakerState,
  endpointKey,
  type FailoverState,
  type HealthState,
  type RollbackDecided,
  type RollbackScope,
  type RollbackState,
  type RouteHeld,
  type Topology,
} from "@mcp-failover/contracts";
import { initialFailoverState, isNewerRoute } from "@mcp-failover/domain";
import { readTopology } from "@mcp-failover/service-kit";

/** The configuration in force, as the router holds it. */
export interface HeldConfig {
  readonly version: number;
  readonly hash: string;
  readonly environment: "development" | "production";
  readonly topology: Topology;
  readonly seq: number;
}
/** A decided route with the event that decided it; `eventId: null` is the route before any decision. */
export interface HeldRoute {
  readonly state: FailoverState;
  readonly eventId: string | null;
}
export interface HeldRollback {
  /** The log's generation at the decision. */
  readonly generation: number;
  readonly scope: RollbackScope;
  readonly name: string;
  readonly state: RollbackState;
  /** Null: not known. */
  readonly eventId: string | null;
}

/** All that the router knows of the fleet's decisions: what is kept on disk too. Names of secrets are in it, never their values. */
export interface TableSnapshot {
  readonly generation: number;
  readonly config: HeldConfig | null;
  readonly routes: Readonly<Record<string, HeldRoute>>;
  readonly health: Readonly<Record<string, HealthState>>;
  readonly breakers: Readonly<Record<string, BreakerState>>;
  readonly rollbacks: Readonly<Record<string, HeldRollback>>;
}

/** What an event changed; null: nothing that the router goes by. */
export type TableChange =
  | { readonly kind: "config" }
  | { readonly kind: "route"; readonly upstream: string }
  | { readonly kind: "endpoint"; readonly upstream: string; readonly endpoint: string }
  | { readonly kind: "rollback"; readonly scope: RollbackScope; readonly name: string }
  | { readonly kind: "failing"; readonly upstream: string }
  | null;

export interface Held {
  readonly routes: Record<string, RouteHeld>;
  readonly rollbacks: Record<string, number>;
  readonly rollbackIds: Record<string, string>;
}

/** Endpoints' states that are kept before those that are not configured any more are let go. */
const keptMax = 20_000;

type ReadLog = Parameters<typeof readTopology>[1];

/** `scope/name`, the key of a rollback scope. */
function scopeKey(scope: RollbackScope, name: string): string {
  return `${scope}/${name}`;
}

/**
 * Folds AUDIT into routes, health, breakers and rollbacks.
 *
 * Invariants, cited by the tests:
 * K1  Of an upstream's routes, and of a scope's rollbacks, the one later by (generation, epoch) is held, in whatever order they are heard.
 * K2  Before any decision the active endpoint is the first write endpoint of the lowest tier, at epoch 0: the same in every process.
 * K3  A configuration that does not parse, or an event of another kind, changes nothing.
 */
export class RouteTable {
  #generation = 0;
  #config: HeldConfig | null = null;
  readonly #routes = new Map<string, HeldRoute>();
  readonly #health = new Map<string, HealthState>();
  readonly #breakers = new Map<string, BreakerState>();
  readonly #rollbacks = new Map<string, HeldRollback>();
  /** Upstreams of which the controller says that there is nowhere to go. */
  readonly #failing = new Set<string>();
  /** Null: to be made anew. */
  #held: Held | null = null;
  readonly #log: ReadLog;

  constructor(log: ReadLog) {
    this.#log = log;
  }

  get generation(): number {
    return this.#generation;
  }
  get config(): HeldConfig | null {
    return this.#config;
  }
  health(upstream: string, endpoint: string): HealthState | null {
    return this.#health.get(endpointKey(upstream, endpoint)) ?? null;
  }
  breaker(upstream: string, endpoint: string): BreakerState | null {
    return this.#breakers.get(endpointKey(upstream, endpoint)) ?? null;
  }
  rollback(scope: RollbackScope, name: string): RollbackState | null {
    return this.#rollbacks.get(scopeKey(scope, name))?.state ?? null;
  }
  failing(upstream: string): boolean {
    return this.#failing.has(upstream);
  }

  /** The route of a configured upstream: the decided one, or the implied one at epoch 0. A decision for an endpoint that is gone is kept. */
  route(upstream: string): HeldRoute | null {
    if (this.#config?.topology.upstreams[upstream] === undefined) return null;
    const held = this.#routes.get(upstream);
    if (held !== undefined) return held;
    return { state: initialFailoverState(this.#config.topology, upstream, this.#generation), eventId: null };
  }

  /** For `traffic.observed`: the route of each configured upstream, and the decision applied of each `scope/name`. Every window carries it. */
  get held(): Held {
    this.#held ??= this.#whatIsHeld();
    return this.#held;
  }

  #whatIsHeld(): Held {
    const routes: Record<string, RouteHeld> = {};
    for (const name of Object.keys(this.#config?.topology.upstreams ?? {})) {
      const route = this.route(name);
      if (route === null) continue;
      const { generation, epoch, active } = route.state;
      routes[name] = { generation, epoch, eventId: route.eventId, active };
    }
    const rollbacks: Record<string, number> = {};
    const rollbackIds: Record<string, string> = {};
    for (const [key, { state, eventId }] of this.#rollbacks) {
      rollbacks[key] = state.epoch;
      if (eventId !== null) rollbackIds[key] = eventId;
    }
    return { routes, rollbacks, rollbackIds };
  }

  fold(stored: Stored): TableChange {
    if (stored.content.kind !== "event") return null;
    const { event } = stored.content;
    switch (event.type) {
      case "log.started":
        this.#held = null;
        this.#generation = Math.max(this.#generation, event.data.generation);
        return null;
      case "config.applied":
        return this.#foldConfig(stored);
      case "failover.decided":
        return this.#foldRoute(event.data.service, event.data.state, event.id);
      case "failover.failed":
        return this.#foldFailing(event.data.service, event.data.failing);
      case "health.changed":
        this.#health.set(endpointKey(event.data.service, event.data.endpoint), event.data.state);
        return { kind: "endpoint", upstream: event.data.service, endpoint: event.data.endpoint };
      case "breaker.changed":
        this.#breakers.set(endpointKey(event.data.service, event.data.endpoint), event.data.state);
        return { kind: "endpoint", upstream: event.data.service, endpoint: event.data.endpoint };
      case "rollback.decided":
        return this.#foldRollback(event.data, event.id);
      default:
        return null;
    }
  }

  #foldConfig(stored: Stored): TableChange {
    const applied = readTopology(stored, this.#log);
    if (applied === null) return null;
    this.#config = applied;
    this.#held = null;
    if (this.#health.size + this.#breakers.size > keptMax) this.#forgetRemoved();
    return { kind: "config" };
  }

  #foldRoute(upstream: string, state: FailoverState, eventId: string): TableChange {
    if (!isNewerRoute(state, this.#routes.get(upstream)?.state ?? null)) return null;
    this.#routes.set(upstream, { state, eventId });
    this.#held = null;
    this.#failing.delete(upstream);
    return { kind: "route", upstream };
  }

  #foldFailing(upstream: string, failing: boolean): TableChange {
    if (failing === this.#failing.has(upstream)) return null;
    if (failing) this.#failing.add(upstream);
    else this.#failing.delete(upstream);
    return { kind: "failing", upstream };
  }

  #foldRollback({ scope, name, state }: RollbackDecided, eventId: string): TableChange {
    const key = scopeKey(scope, name);
    const held = this.#rollbacks.get(key);
    const decided = { generation: this.#generation, epoch: state.epoch };
    if (!isNewerRoute(decided, held === undefined ? null : { generation: held.generation, epoch: held.state.epoch })) return null;
    this.#rollbacks.set(key, { generation: this.#generation, scope, name, state, eventId });
    this.#held = null;
    return { kind: "rollback", scope, name };
  }

  /** An endpoint that comes back into the configuration keeps its health, because nobody says it again; so this is done only for size. */
  #forgetRemoved(): void {
    const upstreams = this.#config?.topology.upstreams ?? {};
    const keys = new Set(Object.entries(upstreams).flatMap(([name, { endpoints }]) => endpoints.map((e) => endpointKey(name, e.name))));
    for (const map of [this.#health, this.#breakers]) for (const key of map.keys()) if (!keys.has(key)) map.delete(key);
  }

  snapshot(): TableSnapshot {
    return {
      generation: this.#generation,
      config: this.#config,
      routes: Object.fromEntries(this.#routes),
      health: Object.fromEntries(this.#health),
      breakers: Object.fromEntries(this.#breakers),
      rollbacks: Object.fromEntries(this.#rollbacks),
    };
  }

  /** Begins from what was kept on disk. Only for a table that has folded nothing yet. */
  restore(snapshot: TableSnapshot): void {
    this.#held = null;
    this.#generation = snapshot.generation;
    this.#config = snapshot.config;
    for (const [key, value] of Object.entries(snapshot.routes)) this.#routes.set(key, value);
    for (const [key, value] of Object.entries(snapshot.health)) this.#health.set(key, value);
    for (const [key, value] of Object.entries(snapshot.breakers)) this.#breakers.set(key, value);
    for (const [key, value] of Object.entries(snapshot.rollbacks)) this.#rollbacks.set(key, value);
  }
}
