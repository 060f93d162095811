import { randomUUID } from "node:crypto";
import { type Bus, type BusCredentials, connectBus, readCredentials, StoreClock, type Stored } from "@mcp-failover/bus";
import type { HealthChanged, StatusView, UpstreamConfig } from "@mcp-failover/contracts";
import { defaultPolicy, type Policy, policyFor, UnknownUpstreamError, viewStatus } from "@mcp-failover/domain";
import { attempt } from "./attempt.ts";
import { checkNumber, checkSignal } from "./checks.ts";
import { BreakerOpenError, BulkheadFullError, CallTimeoutError, ClientClosedError, NoEndpointError, NotReadyError } from "./errors.ts";
import { failureOf } from "./failure.ts";
import { FleetView, type PlacedEvent, type ViewChange } from "./fleet-view.ts";
import { KeptRoutes } from "./kept-routes.ts";
import { tellListener } from "./listener.ts";
import { type CallContext, type CallNote, type CallOptions, UpstreamCalls } from "./upstream-calls.ts";

export interface ConnectOptions {
  /** `nats://host:port`, several with commas. Or give a `bus` that is connected already; it is then yours to close. */
  readonly servers?: string;
  readonly bus?: Bus;
  /** Who you are on a bus with permissions: the folder that its operator gave you, as `.mcpf/credentials/client` of a local stack, or what it holds. */
  readonly credentials?: string | BusCredentials;
  /** Of your service; shown by the NATS server. */
  readonly name: string;
  /** Calls of this client to one upstream at once. Default 100. */
  readonly concurrencyMax?: number;
  /** Calls to one upstream that wait for a place, in turn and within their time; one more is told at once. Default 0. */
  readonly queueMax?: number;
  /** Where the last known routes are kept, so that your service can start without NATS. Default: nowhere. */
  readonly cacheFile?: string;
  /** Told of what has no caller to throw to: errors of your handlers, a disk that cannot be written. Default: a process warning. */
  readonly onError?: (error: unknown) => void;
  readonly nowMs?: () => number;
  readonly random?: () => number;
}

/** Where calls to an upstream go now. Ordered by (generation, epoch). */
export interface Route {
  readonly upstream: string;
  readonly endpoint: { readonly name: string; readonly url: string };
  readonly epoch: number;
  readonly generation: number;
  readonly sinceMs: number;
}
export interface RouteChange extends Route {
  /** Null: this is how it stood when you began to watch. */
  readonly previous: string | null;
  readonly reason: string | null;
}
export interface ExecuteOptions<T> extends CallOptions {
  /**
   * Serves the call when the upstream cannot: called with what went wrong, and with time of its own. Not called when the outcome is unknown (the call may
   * have run, and the fallback would be the second time), when you cancel, or when your function fails by itself.
   */
  readonly fallback?: ((error: unknown, context: { readonly signal: AbortSignal }) => T | PromiseLike<T>) | undefined;
}

export interface ClientStatus extends Pick<StatusView, "upstreams" | "rollback"> {
  /** False: everything here is how it stood when the log could last be read. */
  readonly connected: boolean;
}

export interface Client {
  /** Resolves once the routes are known, from the log or from the kept file. Throws {@link NotReadyError}. */
  ready(timeoutMs?: number): Promise<void>;
  /** Every change of health: of all upstreams, or of one (as `health.changed.>` and `health.changed.<upstream>.*`). Begins with how it stands. */
  watchHealth(handler: (health: HealthChanged) => void, options?: { readonly upstream?: string }): { stop(): void };
  /** Every change of a route. Begins with how they stand. */
  watchRoutes(handler: (route: RouteChange) => void): { stop(): void };
  /** Every new configuration. Begins with the one in force, if one is known. */
  watchConfiguration(handler: () => void): { stop(): void };
  /** Throws `UnknownUpstreamError`, and {@link NoEndpointError} while nothing is known. */
  route(upstream: string): Route;
  /** What is configured for an upstream. Secrets are named in it, not held. Throws as {@link route}. */
  configuration(upstream: string): UpstreamConfig;
  /** What this client knows of the fleet, in the shape of `mcpf status -o json` without the services. */
  status(): ClientStatus;
  /**
   * Runs your function with the endpoint that is active now. Throws what your function throws when that is not the endpoint's fault, else
   * {@link BreakerOpenError}, {@link NoEndpointError}, {@link BulkheadFullError}, {@link CallTimeoutError} or {@link OutcomeUnknownError}. A `RangeError` or
   * `TypeError` names an option that makes no sense; nothing was called then.
   */
  execute<T>(upstream: string, call: (context: CallContext) => T | PromiseLike<T>, options?: ExecuteOptions<T>): Promise<T>;
  close(): Promise<void>;
}

const concurrencyMaxDefault = 100;
const readyMsDefault = 10_000;

/** Connects to the fleet and returns at once: your service starts with or without NATS. Throws the bus's `CredentialsError`, and `RangeError` on a limit that makes no sense. */
export function connect(options: ConnectOptions): Client {
  const { name, nowMs: wallMs = Date.now, random = Math.random } = options;
  // Whole milliseconds, as timers have them: a fraction left of a call's time would be one more attempt.
  const nowMs = options.nowMs ?? (() => Math.floor(performance.now()));
  if ((options.bus === undefined) === (options.servers === undefined)) throw new RangeError("give either `servers` or a `bus`");
  checkNumber("concurrencyMax", options.concurrencyMax, 1, 1_000_000, true);
  checkNumber("queueMax", options.queueMax, 0, 1_000_000, true);
  const bus =
    options.bus ??
    connectBus({
      servers: options.servers ?? "",
      name,
      instance: `${name}-${randomUUID().slice(0, 8)}`,
      ...proofOf(options.credentials),
    });
  const onError = options.onError ?? ((error) => process.emitWarning(error instanceof Error ? error : String(error)));
  const kept = options.cacheFile === undefined ? null : new KeptRoutes(options.cacheFile, onError);

  /** What the fleet says of a time is said by the store's clock; this machine's stands in for it until the log was heard. */
  const storeClock = new StoreClock(nowMs);
  const storeMs = (): number => storeClock.nowMs() ?? wallMs();

  let view = new FleetView();
  /** Reads a log from its beginning beside what is known, and takes its place by {@link settle}. */
  let reading: FleetView | null = new FleetView();
  /** The end of the log that is read, as it was when reading began; null: not known yet. */
  let readingTo: number | null = null;
  let lastSeq = 0;
  let closed = false;
  const calls = new Map<string, UpstreamCalls>();
  const healthWatchers = new Set<(health: HealthChanged) => void>();
  const routeWatchers = new Set<(route: RouteChange) => void>();
  const configWatchers = new Set<(none: undefined) => void>();
  const known = Promise.withResolvers<void>();

  const guarded =
    <A>(handler: (value: A) => unknown) =>
    (value: A): void =>
      tellListener(handler, value, onError);
  const routeOf = (upstream: string): Route | null => {
    const state = view.route(upstream);
    const endpoint = view.topology?.upstreams[upstream]?.endpoints.find((one) => one.name === state?.active);
    if (state === null || endpoint === undefined) return null;
    const { epoch, generation, sinceMs } = state;
    return { upstream, endpoint: { name: endpoint.name, url: endpoint.url }, epoch, generation, sinceMs };
  };
  const standing = (): RouteChange[] =>
    Object.keys(view.topology?.upstreams ?? {}).flatMap((upstream) => {
      const route = routeOf(upstream);
      return route === null ? [] : [{ ...route, previous: null, reason: null }];
    });
  const tell = (change: ViewChange): void => {
    if (change.kind === "health") for (const watcher of healthWatchers) watcher(change.data);
    if (change.kind === "route") {
      const route = routeOf(change.upstream);
      if (route !== null) for (const watcher of routeWatchers) watcher({ ...route, previous: change.previous, reason: change.reason });
    }
    if (change.kind === "config") {
      for (const one of calls.values()) one.wake();
      for (const watcher of configWatchers) watcher(undefined);
    } else calls.get(change.kind === "health" ? change.data.service : change.upstream)?.wake();
    kept?.saveSoon(() => view.kept);
  };
  /** Says the routes that differ from what was said before. */
  const tellRoutes = (before: readonly RouteChange[]): void => {
    const was = new Map(before.map((route) => [route.upstream, route]));
    for (const route of standing()) {
      const previous = was.get(route.upstream)?.endpoint ?? null;
      if (previous?.name === route.endpoint.name && previous.url === route.endpoint.url) continue;
      for (const watcher of routeWatchers) watcher({ ...route, previous: previous?.name ?? null });
    }
  };
  const adopt = (next: FleetView): void => {
    const routes = standing();
    const healths = new Set(view.healths.map(said));
    view = next;
    for (const health of view.healths) if (!healths.has(said(health))) tell({ kind: "health", data: health });
    tellRoutes(routes);
    tell({ kind: "config" });
    if (view.topology !== null) known.resolve();
  };

  /** What was read takes the place of what was known once all of it was read. */
  const settle = (): void => {
    // A log without a configuration is a new one that bootstrap has not filled yet: until then what was known is better.
    if (closed || readingTo === null || lastSeq < readingTo || reading === null || reading.topology === null) return;
    const next = reading;
    reading = null;
    adopt(next);
  };
  /** The log was lost or restored: its versions and sequences say nothing about those of the one before. */
  const beginAnew = (): void => {
    const anew = (reading ?? view).forAnotherLog();
    reading = anew;
    readingTo = null;
    const readTo = (seq: number): void => {
      if (reading !== anew) return;
      readingTo = seq;
      settle();
    };
    // Where its end cannot be asked for, its first configuration has to do.
    bus
      .info("AUDIT")
      .then(
        (info) => readTo(info.lastSeq),
        () => readTo(0),
      )
      .catch(onError);
  };
  const take = (stored: Stored): void => {
    // A log goes forward.
    if (stored.seq <= lastSeq) beginAnew();
    lastSeq = stored.seq;
    if (stored.content.kind === "event") {
      hear({ seq: stored.seq, subject: stored.subject, timeMs: stored.timeMs, event: stored.content.event });
    }
    settle();
  };
  const hear = (placed: PlacedEvent): void => {
    if (reading !== null) {
      reading.fold(placed);
      return;
    }
    storeClock.hear(placed.timeMs);
    const before = placed.event.type === "config.applied" ? standing() : null;
    const change = view.fold(placed);
    if (change === null) return;
    tell(change);
    if (before !== null) tellRoutes(before);
    if (change.kind === "config") known.resolve();
  };
  const following = bus.follow(
    "AUDIT",
    {
      from: "last_per_subject",
      onCaughtUp: () => {
        readingTo = 0;
        settle();
      },
      onError,
    },
    take,
  );
  const unlisten = bus.onStatus(() => {
    if (logReachable()) storeClock.reconnected();
    for (const one of calls.values()) one.wake();
  });
  const restored = restore();

  async function restore(): Promise<void> {
    if (kept === null) return;
    const events = await kept.load();
    if (reading === null || events.length === 0) return;
    const restoredView = new FleetView();
    for (const event of [...events].sort((a, b) => a.seq - b.seq)) restoredView.fold(event);
    if (restoredView.topology === null) return;
    adopt(restoredView);
  }
  restored.catch(onError);

  const policies = new WeakMap<object, Map<string, Policy>>();
  const policyOf = (upstream: string): Policy => {
    const { topology } = view;
    if (topology?.upstreams[upstream] === undefined) return defaultPolicy;
    const cached = policies.get(topology) ?? new Map<string, Policy>();
    policies.set(topology, cached);
    const policy = cached.get(upstream) ?? policyFor(topology, upstream, view.environment);
    cached.set(upstream, policy);
    return policy;
  };
  const logReachable = (): boolean => bus.status.kind === "connected";
  const callsOf = (upstream: string): UpstreamCalls => {
    const existing = calls.get(upstream);
    if (existing !== undefined) return existing;
    const made = new UpstreamCalls({
      upstream,
      config: () => view.topology?.upstreams[upstream] ?? null,
      policy: () => policyOf(upstream),
      route: () => view.route(upstream),
      word: (endpoint) => ({
        health: view.health(upstream, endpoint),
        breaker: view.breaker(upstream, endpoint),
        logReachable: logReachable(),
        client: name,
        wallMs: storeMs(),
      }),
      logReachable,
      failing: () => view.failing(upstream),
      concurrencyMax: options.concurrencyMax ?? concurrencyMaxDefault,
      queueMax: options.queueMax ?? 0,
      nowMs,
      wallMs: storeMs,
      random,
    });
    calls.set(upstream, made);
    return made;
  };
  const mustKnow = (upstream: string): void => {
    if (closed) throw new ClientClosedError();
    const { topology } = view;
    if (topology === null) throw new NoEndpointError(upstream, "no configuration has been read from the log yet");
    if (topology.upstreams[upstream] === undefined) throw new UnknownUpstreamError(upstream, Object.keys(topology.upstreams));
  };
  const watch = <A>(watchers: Set<(value: A) => void>, handler: (value: A) => void, first: readonly A[]): { stop(): void } => {
    const watcher = guarded(handler);
    watchers.add(watcher);
    for (const value of first) watcher(value);
    return { stop: () => watchers.delete(watcher) };
  };

  return {
    async ready(timeoutMs = readyMsDefault) {
      const { promise: late, reject } = Promise.withResolvers<never>();
      const timer = setTimeout(() => {
        const why = bus.status.kind === "connected" ? "the log holds no configuration" : `NATS is ${bus.status.kind}`;
        reject(new NotReadyError(timeoutMs, why));
      }, timeoutMs);
      try {
        await Promise.race([known.promise, late]);
      } finally {
        clearTimeout(timer);
      }
    },
    watchHealth(handler, { upstream } = {}) {
      const mine = (health: HealthChanged): boolean => upstream === undefined || health.service === upstream;
      return watch(healthWatchers, (health) => (mine(health) ? handler(health) : undefined), view.healths.filter(mine));
    },
    watchRoutes: (handler) => watch(routeWatchers, handler, standing()),
    watchConfiguration: (handler) => watch(configWatchers, handler, view.topology === null ? [] : [undefined]),
    configuration(upstream) {
      mustKnow(upstream);
      return view.topology?.upstreams[upstream] as UpstreamConfig;
    },
    route(upstream) {
      mustKnow(upstream);
      const route = routeOf(upstream);
      if (route === null) throw new NoEndpointError(upstream, "its active endpoint is not configured any more, and no new one is decided");
      return route;
    },
    status() {
      const { services: _, ...status } = viewStatus(view.model, [], wallMs());
      return { ...status, connected: logReachable() };
    },
    async execute(upstream, call, { fallback, ...callOptions } = {}) {
      checkCall(callOptions);
      const note: CallNote = { thrown: undefined };
      try {
        mustKnow(upstream);
        return await callsOf(upstream).run(call, callOptions, note);
      } catch (error) {
        if (fallback === undefined || !mayFallBack(error, note, callOptions)) throw error;
        const timeoutMs = callOptions.timeoutMs ?? policyOf(upstream).router.fallbackMs;
        // The fallback may have written in the call's place.
        const late = (): Error => new CallTimeoutError(upstream, timeoutMs, !maySendTwice(callOptions), error);
        const end = await attempt((signal) => fallback(error, { signal }), {
          timeoutMs,
          timeoutReason: late,
          signal: callOptions.signal,
          onSettled: nothing,
        });
        if (end.kind === "value") return end.value;
        throw end.kind === "timeout" ? late() : end.kind === "cancelled" ? end.reason : end.error;
      }
    },
    async close() {
      if (closed) return;
      closed = true;
      for (const one of calls.values()) one.close();
      unlisten();
      await following.stop();
      await restored.catch(onError);
      await kept?.flush();
      if (options.bus === undefined) await bus.close();
    },
  };
}

function proofOf(credentials: string | BusCredentials | undefined): { readonly credentials?: BusCredentials } {
  if (credentials === undefined) return {};
  return { credentials: typeof credentials === "string" ? readCredentials(credentials) : credentials };
}

/** A NaN would be a timer that ends at once, and each such call a failure of its endpoint. A time that is over already is the call's own time-out. */
function checkCall({ timeoutMs, attemptTimeoutMs, signal }: CallOptions): void {
  checkNumber("timeoutMs", timeoutMs, Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY, false);
  checkNumber("attemptTimeoutMs", attemptTimeoutMs, 1, Number.POSITIVE_INFINITY, false);
  checkSignal(signal);
}

const nothing = (): void => undefined;

const said = (health: HealthChanged): string => `${health.service}/${health.endpoint}/${health.status}/${health.timestamp}`;

const refusals = [BreakerOpenError, NoEndpointError, BulkheadFullError, CallTimeoutError];

const maySendTwice = ({ readOnly, idempotent }: CallOptions): boolean => readOnly === true || idempotent === true;

/** A fallback after a call that may have run would be the second time (design, principle 6). */
function mayFallBack(error: unknown, { thrown }: CallNote, options: CallOptions): boolean {
  const { signal, classify } = options;
  if (signal?.aborted || (error instanceof CallTimeoutError && error.outcomeUnknown)) return false;
  const safe = maySendTwice(options);
  // What comes out of the function proves nothing of what it did before.
  if (refusals.some((refusal) => error instanceof refusal) && (safe || error !== thrown)) return true;
  const failure = classify?.(error) ?? failureOf(error);
  // A 429 is no proof: something behind the endpoint may have said it.
  return failure.class === "soft" && (safe || failure.executed === "no");
}
