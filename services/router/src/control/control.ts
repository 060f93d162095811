import { join } from "node:path";
import { type Bus, StoreClock } from "@mcp-failover/bus";
import type { Event, Topology, TrafficObserved } from "@mcp-failover/contracts";
import { chooseImplementation, defaultPolicy, initialFailoverState, policyFor } from "@mcp-failover/domain";
import type { Kit } from "@mcp-failover/service-kit";
import { type Access, accessOf } from "./access-of.ts";
import { AgentAccounts, rateOf } from "./admission.ts";
import { Call } from "./call.ts";
import type { CallWorld } from "./call-world.ts";
import { candidateLooks } from "./candidate-looks.ts";
import { controlMetrics } from "./control-metrics.ts";
import { HangWatch } from "./hang-watch.ts";
import { HedgeWatch } from "./hedge-watch.ts";
import { learnElsewhere } from "./learn-elsewhere.ts";
import { callLegacy, legacyAgent } from "./legacy.ts";
import { LegacyPlaces } from "./legacy-places.ts";
import type { CallControl, CallDescription, RouterControl } from "./port.ts";
import { answers, reaches } from "./reach.ts";
import { type CachedRoutes, RouteCache, type RouteStore } from "./route-cache.ts";
import { RouteTable, type TableChange } from "./route-table.ts";
import { TrafficReport } from "./traffic-report.ts";
import { unknownCall } from "./unknown-call.ts";
import { UpstreamState } from "./upstream-state.ts";

/** What of the kit the control uses. */
export type ControlKit = Pick<Kit, "instance" | "log" | "registry" | "secrets" | "dataDir" | "nowMs" | "ready"> & {
  readonly bus: Pick<Bus, "status" | "onStatus" | "append" | "follow" | "subscribe">;
  event(type: "traffic.observed", keys: readonly string[], data: TrafficObserved): Event<"traffic.observed">;
};

export interface ControlOptions {
  /** In [0, 1); default `Math.random`. */
  readonly random?: () => number;
  /** For durations; default `performance.now`. */
  readonly monotonicMs?: () => number;
  /** How long the start waits for the log before it serves on what is kept on disk. Default 3 s, 1 s where something is kept. */
  readonly startWaitMs?: number;
  /** Looks whether anybody listens at a URL; default a TCP connect. */
  readonly reaches?: typeof reaches;
  /** Looks whether a server answers at all; default an `OPTIONS`. */
  readonly answers?: typeof answers;
  /** Where the last known routes are kept; default a file in the data directory. */
  readonly cache?: RouteStore;
  readonly callLegacy?: typeof callLegacy;
  /** Where this process stands: endpoints of its zone are preferred. */
  readonly zone?: string | null;
}

export type RunningControl = RouterControl & {
  stop(): Promise<void>;
  /** Traffic windows that wait for the log, and how many were given up. */
  backlog(): { readonly windows: number; readonly messages: number; readonly dropped: number };
};

/** The file is written this often even without a change, so that it says until when nothing was missed. */
const confirmMs = 30_000;

/**
 * Follows the fleet's decisions, and decides by them where each call goes.
 *
 * Guarantees, cited by the tests:
 * C1  A call never waits for NATS, Redis or the disk. (A write that its endpoint refused may wait for the fleet's next epoch, at most 1.5 s.)
 * C2  Without NATS it goes on with the last known routes; started without NATS, with those on disk; with neither it says that it has none.
 * C3  What it holds back for the log is bounded.
 * C4  Secrets are resolved in here alone: no event, file, log line or error has one.
 */
export async function createRouterControl(kit: ControlKit, options: ControlOptions = {}): Promise<RunningControl> {
  const control = new Control(kit, options);
  await control.start();
  return control;
}

class Control implements RunningControl {
  readonly #kit: ControlKit;
  readonly #options: ControlOptions;
  readonly #table: RouteTable;
  readonly #cache: RouteStore;
  readonly #report: TrafficReport;
  readonly #metrics: ReturnType<typeof controlMetrics>;
  readonly #world: CallWorld;
  readonly #watch: HangWatch;
  readonly #hedges: HedgeWatch;
  readonly #agent = legacyAgent(defaultPolicy.router.connectMs);
  readonly #upstreams = new Map<string, UpstreamState>();
  readonly #listeners = new Set<(upstream: string) => void>();
  readonly #cleanups: (() => void | Promise<void>)[] = [];
  #access: Access = { hosts: [], origins: [] };
  #caughtUp = false;
  /** What the fleet says of a time is said by it. */
  readonly #storeClock = new StoreClock(() => this.#world.monotonicMs());
  /** Until when the log is known to have been heard. */
  #confirmedAtMs = 0;
  #fromDisk = false;
  #callNumber = 0;
  #droppedSaid = 0;
  readonly configuration = (): Topology | null => this.#table.config?.topology ?? null;

  constructor(kit: ControlKit, options: ControlOptions) {
    this.#kit = kit;
    this.#options = options;
    this.#table = new RouteTable(kit.log);
    this.#cache = options.cache ?? new RouteCache(join(kit.dataDir, "router", `${kit.instance}.json`), kit.log);
    this.#metrics = controlMetrics(kit.registry);
    this.#report = new TrafficReport({
      bus: kit.bus,
      router: kit.instance,
      nowMs: kit.nowMs,
      makeEvent: (data) => kit.event("traffic.observed", [kit.instance], data),
      held: () => this.#table.held,
      remarksOn: (upstream, endpoint) => this.#remarksOn(upstream, endpoint),
      windowMs: defaultPolicy.router.windowMs,
      onProblem: (error) => kit.log.debug({ err: error }, "a window of traffic waits for the log"),
    });
    this.#watch = new HangWatch({
      monotonicMs: options.monotonicMs ?? (() => performance.now()),
      moment: () => this.#world.moment(),
      look: options.answers ?? answers,
      onHung: (upstream, endpoint) => {
        kit.log.warn({ upstream, endpoint }, "an endpoint hangs: calls are out and not even a look is answered; reads go elsewhere");
        this.#report.hurry();
      },
    });
    this.#hedges = new HedgeWatch(options.monotonicMs ?? (() => performance.now()));
    this.#world = this.#makeWorld();
  }

  async start(): Promise<void> {
    const { bus } = this.#kit;
    const kept = await this.#cache.load();
    if (kept !== null) {
      this.#table.restore(kept.table);
      this.#confirmedAtMs = kept.confirmedAtMs;
      this.#fromDisk = kept.table.config !== null;
      this.#configure();
    }
    const caughtUp = Promise.withResolvers<void>();
    const following = bus.follow(
      "AUDIT",
      {
        from: "last_per_subject",
        onCaughtUp: () => {
          this.#caughtUp = true;
          this.#fromDisk = false;
          this.#sayReady();
          caughtUp.resolve();
        },
        onError: (error, stored) => this.#kit.log.error({ err: error, seq: stored.seq }, "an event of the log could not be applied"),
      },
      (stored) => {
        if (this.#caughtUp) this.#storeClock.hear(stored.timeMs);
        this.#apply(this.#table.fold(stored));
      },
    );
    this.#cleanups.push(() => following.stop());
    const { monotonicMs } = this.#world;
    const endpoint = (upstream: string, name: string) => this.#endpoint(upstream, name);
    const learning = learnElsewhere({ bus, router: this.#kit.instance, endpoint, monotonicMs });
    this.#cleanups.push(() => learning.stop());
    this.#cleanups.push(bus.onStatus((status) => this.#onStatus(status.kind === "disconnected" ? status.sinceMs : this.#kit.nowMs())));
    const confirm = setInterval(() => this.#keep(), confirmMs);
    confirm.unref();
    this.#cleanups.push(() => clearInterval(confirm));
    this.#sayReady();
    const timer = setTimeout(caughtUp.resolve, this.#options.startWaitMs ?? (this.#fromDisk ? 1000 : 3000));
    await caughtUp.promise;
    clearTimeout(timer);
    this.#sayReady();
  }

  async stop(): Promise<void> {
    for (const cleanup of this.#cleanups.splice(0)) await cleanup();
    for (const upstream of this.#upstreams.values()) upstream.waiters.wakeAll();
    this.#watch.stop();
    this.#hedges.stop();
    await this.#report.stop();
    this.#keep();
    await this.#cache.flush();
    await this.#agent.close();
  }

  upstream(name: string) {
    return this.#upstreams.get(name)?.view ?? null;
  }

  upstreams(): readonly string[] {
    return [...this.#upstreams.keys()];
  }

  begin(call: CallDescription): CallControl {
    const upstream = this.#upstreams.get(call.upstream);
    if (upstream === undefined) return unknownCall(call, this.upstreams());
    const begunMs = this.#world.monotonicMs();
    upstream.credit(begunMs);
    return new Call(this.#world, upstream, call, begunMs);
  }

  ready(): { ok: boolean; reason: string } {
    if (this.#table.config === null) return { ok: false, reason: "no configuration is known yet: neither from the log nor from disk" };
    const { status } = this.#kit.bus;
    if (status.kind !== "connected") {
      const reason = status.kind === "disconnected" ? status.reason : "closed";
      return {
        ok: true,
        reason: `the log is out of reach (${reason}): serving on the ${this.#fromDisk ? "routes kept on disk" : "last known routes"}`,
      };
    }
    return {
      ok: true,
      reason: this.#caughtUp ? "routes are those of the log" : "catching up with the log: serving on the routes kept on disk",
    };
  }

  access(): Access {
    return this.#access;
  }

  learnTools(upstream: string, tools: Parameters<RouterControl["learnTools"]>[1]): void {
    this.#upstreams.get(upstream)?.learn(tools);
  }

  onRouteChange(listener: (upstream: string) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  backlog() {
    return { ...this.#report.backlog, dropped: this.#report.dropped };
  }

  #apply(change: TableChange): void {
    switch (change?.kind) {
      case undefined:
        return;
      case "config":
        this.#configure();
        break;
      case "route":
        this.#applyRoute(change.upstream);
        this.#report.hurry();
        break;
      case "rollback":
        this.#report.hurry();
        break;
      case "endpoint":
        this.#applyEndpoint(change.upstream, change.endpoint);
        break;
      case "failing":
        this.#applyFailing(change.upstream);
        break;
    }
    this.#keep();
  }

  #configure(): void {
    const config = this.#table.config;
    if (config === null) return;
    const before = new Set(this.#upstreams.keys());
    this.#access = accessOf(config.topology.router);
    for (const [name, upstreamConfig] of Object.entries(config.topology.upstreams)) {
      const parts = {
        name,
        config: upstreamConfig,
        policy: policyFor(config.topology, name, config.environment),
        bodyBytesMax: config.topology.router.body_bytes_max,
        secrets: this.#kit.secrets,
        monotonicMs: this.#world.monotonicMs(),
      };
      const known = this.#upstreams.get(name);
      if (known === undefined) this.#upstreams.set(name, new UpstreamState(parts));
      else known.reconfigure(parts);
      before.delete(name);
      this.#sayProblems(name);
      for (const endpoint of upstreamConfig.endpoints) this.#applyEndpoint(name, endpoint.name);
      this.#applyFailing(name);
      this.#applyRoute(name, true);
    }
    for (const name of before) {
      this.#upstreams.get(name)?.waiters.wakeAll();
      this.#upstreams.delete(name);
      this.#tellListeners(name);
    }
    this.#report.hurry();
    this.#sayReady();
  }

  #sayProblems(name: string): void {
    for (const endpoint of this.#upstreams.get(name)?.endpoints ?? []) {
      if (endpoint.problem === null) continue;
      this.#kit.log.error(
        { upstream: name, endpoint: endpoint.name, problem: endpoint.problem },
        "an endpoint cannot be used and gets no calls",
      );
    }
  }

  #applyRoute(name: string, always = false): void {
    const [upstream, route, config] = [this.#upstreams.get(name), this.#table.route(name), this.#table.config];
    if (upstream === undefined || route === null || config === null) return;
    const changed = upstream.applyRoute(route.state, initialFailoverState(config.topology, name, this.#table.generation));
    upstream.failing = this.#table.failing(name);
    this.#metrics.routeHeld(name, route.state.epoch);
    upstream.waiters.wakeAll();
    if (changed || always) this.#tellListeners(name);
  }

  #remarksOn(upstream: string, name: string) {
    const endpoint = this.#endpoint(upstream, name);
    return { hung: endpoint?.hung ?? false, restMs: endpoint?.restMs(this.#world.monotonicMs()) ?? null };
  }

  #endpoint(upstream: string, name: string) {
    return this.#upstreams.get(upstream)?.endpoints.find((one) => one.name === name);
  }

  #applyEndpoint(name: string, endpointName: string): void {
    const endpoint = this.#endpoint(name, endpointName);
    endpoint?.applyHealth(this.#table.health(name, endpointName));
    endpoint?.applyBreaker(this.#table.breaker(name, endpointName));
    this.#upstreams.get(name)?.waiters.wakeAll();
  }

  #applyFailing(name: string): void {
    const upstream = this.#upstreams.get(name);
    if (upstream === undefined) return;
    upstream.failing = this.#table.failing(name);
    upstream.waiters.wakeAll();
  }

  #tellListeners(upstream: string): void {
    for (const listener of [...this.#listeners]) {
      try {
        listener(upstream);
      } catch (error) {
        this.#kit.log.error({ err: error, upstream }, "a listener to route changes failed");
      }
    }
  }

  #onStatus(sinceMs: number): void {
    const { kind } = this.#kit.bus.status;
    if (kind === "connected") this.#storeClock.reconnected();
    else if (this.#caughtUp) this.#confirmedAtMs = Math.max(this.#confirmedAtMs, sinceMs);
    for (const upstream of this.#upstreams.values()) upstream.waiters.wakeAll();
    this.#sayReady();
  }

  #sayReady(): void {
    const { ok, reason } = this.ready();
    this.#kit.ready("routes", ok, reason);
  }

  #keep(): void {
    this.#cache.saveSoon((): CachedRoutes => ({ confirmedAtMs: this.#confirmedMs(), table: this.#table.snapshot() }));
    const dropped = this.#report.dropped - this.#droppedSaid;
    this.#droppedSaid += dropped;
    if (dropped > 0) this.#metrics.windowsDropped(dropped);
  }

  #confirmedMs(): number {
    return this.#hears() ? this.#kit.nowMs() : this.#confirmedAtMs;
  }

  #hears(): boolean {
    return this.#caughtUp && this.#kit.bus.status.kind === "connected";
  }

  #mcpPercents(tool: string | null, agent: string | null): readonly number[] {
    const states = [
      tool === null ? null : this.#table.rollback("tool", tool),
      agent === null ? null : this.#table.rollback("agent", agent),
      this.#table.rollback("system", "system"),
    ];
    return states.flatMap((state) => (state === null ? [] : [state.mcpPercent]));
  }

  #makeWorld(): CallWorld {
    const kit = this.#kit;
    const monotonicMs = this.#options.monotonicMs ?? (() => performance.now());
    return {
      report: this.#report,
      watch: this.#watch,
      hedges: this.#hedges,
      accounts: new AgentAccounts(),
      zone: this.#options.zone ?? null,
      legacyAgent: this.#agent,
      callLegacy: this.#options.callLegacy ?? callLegacy,
      legacyPlaces: new LegacyPlaces(),
      nowMs: kit.nowMs,
      monotonicMs,
      random: this.#options.random ?? Math.random,
      redact: (text) => kit.secrets.redact(text),
      logReachable: () => this.#hears(),
      isStale: (staleMsMax) => !this.#hears() && kit.nowMs() - this.#confirmedAtMs > staleMsMax,
      moment: () => {
        const nowMs = this.#storeClock.nowMs() ?? kit.nowMs();
        return { router: kit.instance, logReachable: this.#hears(), nowMs, monotonicMs: monotonicMs() };
      },
      implementationOf: (upstream, call, hasLegacy) => {
        if (!hasLegacy) return "mcp";
        this.#callNumber += 1;
        return chooseImplementation({
          hasLegacy,
          legacyMode: upstream.policy.router.legacyMode,
          mcpPercents: this.#mcpPercents(call.tool, call.agent),
          callKey: `${kit.instance}/${this.#callNumber}`,
        });
      },
      mcpPercents: (tool, agent) => this.#mcpPercents(tool, agent),
      lookAtCandidates: candidateLooks({
        look: this.#options.reaches ?? reaches,
        monotonicMs,
        onTrouble: (err, upstream) => kit.log.warn({ err, upstream }, "a candidate could not be looked at"),
      }),
      refusedRetry: (upstream, rule) => this.#metrics.refusedRetry(upstream, rule),
      panicked: (upstream) => this.#metrics.panicked(upstream),
      exhausted: (upstream) => this.#metrics.exhausted(upstream),
      hedged: (upstream) => this.#metrics.hedged(upstream),
      hedgeWon: (upstream) => this.#metrics.hedgeWon(upstream),
      rateOf: (agent) => rateOf(this.#table.config?.topology.router.agent_rates, agent),
      shed: (upstream, why) => this.#metrics.shed(upstream, why),
      waitsForLegacy: (upstream) => this.#metrics.waitsForLegacy(upstream),
    };
  }
}
