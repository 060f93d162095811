import type {
  BreakerState,
  BreakerStatus,
  EndpointConfig,
  FailureCode,
  HealthState,
  HealthStatus,
  OutcomeClass,
} from "@mcp-failover/contracts";
import {
  breakerGate,
  defaultPolicy,
  initialLocalBreaker,
  type LocalBreaker,
  type LocalBreakerPolicy,
  type LocalPermit,
  localAcquire,
  localAllows,
  localRecord,
  localRelease,
  observeLatency,
  type PeakEwma,
  type RouteEndpoint,
  shedLatencyMs,
} from "@mcp-failover/domain";
import type { EndpointView } from "./port.ts";
import { UsualLatency } from "./usual-latency.ts";

/** What a router believes of an endpoint that nobody has judged yet. */
const unknownScore = 0.5;

/** Tools and methods of one endpoint whose usual time is kept; what comes later is never hedged. */
const usualKeysMax = 200;

export interface EndpointMoment {
  readonly router: string;
  readonly logReachable: boolean;
  readonly nowMs: number;
  readonly monotonicMs: number;
}

export interface AttemptEnd {
  readonly outcome: OutcomeClass;
  readonly code: FailureCode | null;
  readonly latencyMs: number;
  /** How long the endpoint asked to be left alone. */
  readonly retryAfterMs: number | null;
}

/** What one call was let through with. */
export interface EndpointPermit {
  readonly local: LocalPermit;
  /** Of the fleet's breaker: its result counts in this generation alone. */
  readonly generation: number;
}

/**
 * One endpoint as this process knows it: what the fleet says, and what it saw itself. It is the `RouteEndpoint` that plans are made from, brought up
 * to date by {@link refresh} so that a call allocates none. What it saw itself is timed by a clock that does not jump.
 */
export class EndpointState implements RouteEndpoint {
  readonly name: string;
  tier: number;
  role: "write" | "read";
  zone: string | null;
  weight: number;
  usable: boolean;
  /** Why it cannot be used. */
  problem: string | null;
  view: EndpointView;
  health: HealthStatus = "unknown";
  score = unknownScore;
  recoveredAtMs: number | null = null;
  breaker: BreakerStatus = "closed";
  breakerAllows = true;
  verdictDue = false;
  resting = false;
  localAllows = true;
  inFlight = 0;
  lastFailedAtMs: number | null = null;
  /** When a connect to see whether anybody is there got no answer in time. */
  silentAtMs: number | null = null;
  /** The last sign of life: an answer to a call or to a look. */
  heardAtMs: number | null = null;
  /** It was judged to hang, and has not been heard since. */
  hung = false;
  /** What is usual by this process's own calls, and by those of other routers. */
  readonly #usual = new UsualLatency();
  readonly #usualElsewhere = new UsualLatency();
  /** By tool or method, of the reads that may be made at a second endpoint. */
  readonly #usualOf = new Map<string, UsualLatency>();
  #breakerState: BreakerState | null = null;
  /** Of the fleet's present generation: calls let through, those of them that are out, and answers in a row. */
  #permitsUsed = 0;
  #permitsOut = 0;
  #answeredRun = 0;
  #permitAtMs = Number.NEGATIVE_INFINITY;
  #restUntilMs: number | null = null;
  #local: LocalBreaker = initialLocalBreaker;
  #ewma: PeakEwma | null = null;

  constructor(config: EndpointConfig, view: EndpointView, problem: string | null) {
    this.name = config.name;
    this.tier = config.tier;
    this.role = config.role;
    this.zone = config.zone ?? null;
    this.weight = config.weight;
    this.view = view;
    this.problem = problem;
    this.usable = problem === null;
  }

  /** Takes over a new configuration of the endpoint and keeps what was learned, unless its address is another one. */
  reconfigure(config: EndpointConfig, view: EndpointView, problem: string | null): void {
    if (view.url !== this.view.url) {
      // Another generation, so that calls that are still out at the old address say nothing about this one.
      this.#local = { ...initialLocalBreaker, generation: this.#local.generation + 1 };
      this.#ewma = null;
      this.lastFailedAtMs = null;
      this.heardAtMs = null;
      this.hung = false;
      this.#restUntilMs = null;
      this.#usual.clear();
      this.#usualElsewhere.clear();
      this.#usualOf.clear();
    }
    this.tier = config.tier;
    this.role = config.role;
    this.zone = config.zone ?? null;
    this.weight = config.weight;
    this.view = view;
    this.problem = problem;
    this.usable = problem === null;
  }

  /** Own calls tell best how long it takes from here; those of other routers are better than nothing. Null: nobody knows yet. */
  usualP95Ms(monotonicMs: number, callsMin: number): number | null {
    return this.#usual.p95Ms(monotonicMs, callsMin) ?? this.#usualElsewhere.p95Ms(monotonicMs, callsMin);
  }

  learnUsual(key: string, latencyMs: number, monotonicMs: number): void {
    let usual = this.#usualOf.get(key);
    if (usual === undefined) {
      if (this.#usualOf.size >= usualKeysMax) return;
      usual = new UsualLatency();
      this.#usualOf.set(key, usual);
    }
    usual.observe(latencyMs, monotonicMs);
  }

  /** Of this process's own calls of this kind; null: too few. */
  usualP95MsOf(key: string, monotonicMs: number, callsMin: number): number | null {
    return this.#usualOf.get(key)?.p95Ms(monotonicMs, callsMin) ?? null;
  }

  learnElsewhere(latency: readonly number[], monotonicMs: number): void {
    this.#usualElsewhere.add(latency, monotonicMs);
  }

  get ewmaMs(): number | null {
    return this.#ewma?.valueMs ?? null;
  }

  /** This process's own breaker has put it out: a remembered failure, with which nobody pays for the endpoint again. */
  get ejected(): boolean {
    return this.#local.status === "ejected";
  }

  applyHealth(state: HealthState | null): void {
    const wasDown = this.health === "unhealthy";
    this.health = state?.status ?? "unknown";
    this.score = state?.score ?? unknownScore;
    if (wasDown && this.health !== "unhealthy") this.recoveredAtMs = state?.sinceMs ?? null;
  }

  applyBreaker(state: BreakerState | null): void {
    if (state?.generation !== this.#breakerState?.generation) {
      this.#permitsUsed = 0;
      this.#permitsOut = 0;
      this.#answeredRun = 0;
    }
    this.#breakerState = state;
    this.breaker = state?.status ?? "closed";
  }

  /** The fleet's breaker begins with generation 0, of which nothing is said. */
  get breakerGeneration(): number {
    return this.#breakerState?.generation ?? 0;
  }

  /** How much longer it asked to be left alone; null: it did not. */
  restMs(monotonicMs: number): number | null {
    return this.#restUntilMs !== null && monotonicMs < this.#restUntilMs ? this.#restUntilMs - monotonicMs : null;
  }

  /** Brings what depends on the time up to it. */
  refresh(moment: EndpointMoment): void {
    this.localAllows = localAllows(this.#local, moment.monotonicMs);
    this.resting = this.restMs(moment.monotonicMs) !== null;
    const state = this.#breakerState;
    // What was never judged needs no question.
    const gate =
      state === null ? "allow" : breakerGate({ ...moment, state, permitsUsed: this.#permitsUsed, answeredRun: this.#answeredRun });
    // A trial that never reports stops counting, as in the local breaker.
    const trialOut = this.#permitsOut > 0 && moment.monotonicMs - this.#permitAtMs < defaultPolicy.localBreaker.trialMs;
    this.breakerAllows = gate === "allow" || gate === "permit" || ((gate === "trial" || gate === "turn") && !trialOut);
    this.verdictDue = gate === "surplus" || (gate === "turn" && trialOut);
  }

  /** Takes the permits for one call. `force`: panic, or an operator's disabled breaker. */
  acquire(monotonicMs: number): EndpointPermit {
    const { state, permit } = localAcquire(this.#local, monotonicMs, { force: true });
    this.#local = state;
    this.inFlight += 1;
    this.#permitsUsed += 1;
    this.#permitsOut += 1;
    this.#permitAtMs = monotonicMs;
    // With `force` there always is one.
    return { local: permit ?? { generation: state.generation }, generation: this.breakerGeneration };
  }

  /** Folds the end of a call. Returns whether this ejected the endpoint. */
  record(permit: EndpointPermit, end: AttemptEnd, monotonicMs: number, policy: LocalBreakerPolicy): boolean {
    this.inFlight -= 1;
    if (permit.generation === this.breakerGeneration) {
      this.#permitsOut -= 1;
      this.#answeredRun = end.outcome === "hard" ? 0 : this.#answeredRun + 1;
    }
    if (end.retryAfterMs !== null) this.#rest(end.retryAfterMs, monotonicMs);
    const wasEjected = this.ejected;
    this.#local = localRecord(this.#local, permit.local, { class: end.outcome, code: end.code }, monotonicMs, policy);
    if (end.outcome === "hard") this.lastFailedAtMs = monotonicMs;
    else this.#usual.observe(end.latencyMs, monotonicMs);
    if (end.code !== "timeout") this.hear(monotonicMs);
    const latencyMs = end.outcome === "soft" ? shedLatencyMs(end.latencyMs, end.retryAfterMs) : end.latencyMs;
    this.#ewma = observeLatency(this.#ewma, latencyMs, monotonicMs);
    return !wasEjected && this.ejected;
  }

  /** The call ended without a word on the endpoint. */
  release(permit: EndpointPermit): void {
    this.inFlight -= 1;
    if (permit.generation === this.breakerGeneration) {
      this.#permitsOut -= 1;
      // Somebody else may try instead.
      this.#permitsUsed -= 1;
    }
    this.#local = localRelease(this.#local, permit.local);
  }

  #rest(forMs: number, monotonicMs: number): void {
    const untilMs = monotonicMs + Math.min(forMs, defaultPolicy.router.restMsMax);
    this.#restUntilMs = Math.max(this.#restUntilMs ?? untilMs, untilMs);
  }

  /** It gave a sign of life. */
  hear(monotonicMs: number): void {
    this.heardAtMs = monotonicMs;
    this.hung = false;
  }

  /** It hangs: this process sends it nothing for a while. */
  hang(monotonicMs: number, policy: LocalBreakerPolicy): void {
    this.hung = true;
    const { state, permit } = localAcquire(this.#local, monotonicMs);
    if (permit === null) return;
    this.#local = localRecord(state, permit, { class: "hard", code: "timeout", whole: true }, monotonicMs, policy);
    this.lastFailedAtMs = monotonicMs;
  }

  /** A connect that was made only to see whether anybody is there was refused. */
  refuse(monotonicMs: number, policy: LocalBreakerPolicy): void {
    const { state, permit } = localAcquire(this.#local, monotonicMs);
    if (permit === null) return;
    this.#local = localRecord(state, permit, { class: "hard", code: "refused" }, monotonicMs, policy);
    this.lastFailedAtMs = monotonicMs;
  }
}
