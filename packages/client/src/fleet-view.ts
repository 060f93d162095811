import { type BreakerState, type Event, endpointKey, type FailoverState, type HealthChanged, type Topology } from "@mcp-failover/contracts";
import { emptyReadModel, foldReadModel, initialFailoverState, isNewerRoute, type ReadModel } from "@mcp-failover/domain";

/** An event of AUDIT with its place. */
export interface PlacedEvent {
  readonly seq: number;
  readonly subject: string;
  readonly timeMs: number;
  readonly event: Event;
}

export type ViewChange =
  | { readonly kind: "config" }
  | { readonly kind: "health"; readonly data: HealthChanged }
  | { readonly kind: "breaker" | "failing"; readonly upstream: string }
  | { readonly kind: "route"; readonly upstream: string; readonly previous: string; readonly reason: string };

/** What a client knows of the fleet: AUDIT folded. What it holds stays in force when the log cannot be reached. */
export class FleetView {
  #model: ReadModel = emptyReadModel;
  #environment: "development" | "production" = "development";
  readonly #routes = new Map<string, FailoverState>();
  readonly #health = new Map<string, HealthChanged>();
  readonly #breakers = new Map<string, BreakerState>();
  readonly #failing = new Set<string>();
  /** The last event of each subject that this view was made from; what is kept on disk. */
  readonly #kept = new Map<string, PlacedEvent>();

  get model(): ReadModel {
    return this.#model;
  }
  get topology(): Topology | null {
    return this.#model.topology;
  }
  get environment(): "development" | "production" {
    return this.#environment;
  }
  get kept(): readonly PlacedEvent[] {
    return [...this.#kept.values()];
  }
  /** Of what is configured. */
  get healths(): readonly HealthChanged[] {
    const upstreams = this.#model.topology?.upstreams ?? {};
    return Object.entries(upstreams).flatMap(([name, { endpoints }]) =>
      endpoints.flatMap((endpoint) => this.#health.get(endpointKey(name, endpoint.name)) ?? []),
    );
  }
  health(upstream: string, endpoint: string): HealthChanged | null {
    return this.#health.get(endpointKey(upstream, endpoint)) ?? null;
  }
  breaker(upstream: string, endpoint: string): BreakerState | null {
    return this.#breakers.get(endpointKey(upstream, endpoint)) ?? null;
  }

  /** The controller says that this upstream has nowhere to go. */
  failing(upstream: string): boolean {
    return this.#failing.has(upstream);
  }

  /** The decided route, or the one before any decision; null for an upstream that is not configured. */
  route(upstream: string): FailoverState | null {
    const topology = this.#model.topology;
    if (topology?.upstreams[upstream] === undefined) return null;
    return this.#routes.get(upstream) ?? initialFailoverState(topology, upstream, this.#model.generation);
  }

  /**
   * The view to begin another log with: the routes stay, because they are ordered over logs, and routers hold them too until a higher one
   * is decided. They are older than all that the other log says. Nothing else of the old log says anything about the new one.
   */
  forAnotherLog(): FleetView {
    const view = new FleetView();
    for (const placed of this.#kept.values()) if (placed.event.type === "failover.decided") view.fold({ ...placed, seq: 0 });
    return view;
  }

  /** Folds one event; null where a client does not go by it, or goes by a newer one already. */
  fold(placed: PlacedEvent): ViewChange | null {
    const before = this.#model;
    this.#model = foldReadModel(before, placed);
    const change = this.#take(placed, before);
    if (this.#health.size > count(this.#model.health) || this.#breakers.size > count(this.#model.breakers)) this.#forgetStrays();
    return change;
  }

  #take(placed: PlacedEvent, before: ReadModel): ViewChange | null {
    const { event } = placed;
    switch (event.type) {
      case "log.started":
        return this.#keep(placed, null);
      case "config.applied": {
        if (this.#model.configVersion === before.configVersion) return null;
        this.#environment = event.data.environment;
        return this.#keep(placed, { kind: "config" });
      }
      case "health.changed":
        this.#health.set(endpointKey(event.data.service, event.data.endpoint), event.data);
        return this.#keep(placed, { kind: "health", data: event.data });
      case "breaker.changed": {
        const key = endpointKey(event.data.service, event.data.endpoint);
        this.#breakers.set(key, event.data.state);
        return this.#keep(placed, { kind: "breaker", upstream: event.data.service });
      }
      case "failover.decided": {
        const { service, state, previousEndpoint, reason } = event.data;
        if (!isNewerRoute(state, this.#routes.get(service) ?? null)) return null;
        this.#routes.set(service, state);
        this.#failing.delete(service);
        return this.#keep(placed, { kind: "route", upstream: service, previous: previousEndpoint, reason });
      }
      case "failover.failed":
        if (event.data.failing) this.#failing.add(event.data.service);
        else this.#failing.delete(event.data.service);
        return { kind: "failing", upstream: event.data.service };
      default:
        return null;
    }
  }

  #keep(placed: PlacedEvent, change: ViewChange | null): ViewChange | null {
    this.#kept.set(placed.subject, placed);
    return change;
  }

  /**
   * An endpoint that comes back into the configuration keeps what was said of it, because nobody says it again; the read model bounds how
   * many that are not configured are kept. Routes stay: their epochs must go on if the upstream comes back.
   */
  #forgetStrays(): void {
    for (const [map, kept] of [
      [this.#health, this.#model.health],
      [this.#breakers, this.#model.breakers],
    ] as const) {
      for (const key of map.keys()) if (!Object.hasOwn(kept, key)) map.delete(key);
    }
    for (const [subject, { event }] of this.#kept) {
      if (event.type !== "health.changed" && event.type !== "breaker.changed") continue;
      const map = event.type === "health.changed" ? this.#health : this.#breakers;
      if (!map.has(endpointKey(event.data.service, event.data.endpoint))) this.#kept.delete(subject);
    }
  }
}

const count = (record: Readonly<Record<string, unknown>>): number => Object.keys(record).length;
