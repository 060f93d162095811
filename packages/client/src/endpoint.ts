import type { BreakerState, BreakerStatus, EndpointConfig, HealthChanged, HealthStatus } from "@mcp-failover/contracts";
import {
  breakerGate,
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
} from "@mcp-failover/domain";
import type { Failure } from "./failure.ts";

/** What a client believes of an endpoint that nobody has judged yet. */
const unknownScore = 0.5;

export interface FleetWord {
  readonly health: HealthChanged | null;
  readonly breaker: BreakerState | null;
  readonly logReachable: boolean;
  readonly client: string;
  /** The time by the clock that the fleet's times are of, as far as this machine has it right. */
  readonly wallMs: number;
}

/** What a call was let through with; it comes back with the call's result. */
export interface ClientPermit {
  readonly local: LocalPermit;
  /** Of the fleet's breaker when the call began. */
  readonly fleetGeneration: number;
}

/**
 * One endpoint as this client knows it: what the fleet says, read at each call, and what its own calls have met.
 *
 * The permits of the fleet's half-open go to routers alone, so a client takes none from them: through a half-open breaker it sends one trial at a time, and
 * all its other calls go elsewhere or are told at once; nothing queues. A trial that hangs makes way for the next after `trialMs`. Results of a call that
 * began under an older generation of the fleet's breaker change nothing here.
 */
export class ClientEndpoint implements RouteEndpoint {
  readonly name: string;
  readonly url: string;
  tier: number;
  role: "write" | "read";
  weight: number;
  /** Credentials are the function's own business. */
  readonly usable = true;
  health: HealthStatus = "unknown";
  score = unknownScore;
  readonly recoveredAtMs = null;
  breaker: BreakerStatus = "closed";
  breakerAllows = true;
  localAllows = true;
  inFlight = 0;
  lastFailedAtMs: number | null = null;
  /** From here on the wait for a panic trial counts. */
  #outSinceMs = Number.NEGATIVE_INFINITY;
  #local: LocalBreaker = initialLocalBreaker;
  #fleetGeneration = 0;
  /** Answers in a row to calls that began under the present generation of the fleet's breaker. */
  #answeredRun = 0;
  /** The call that tries a half-open breaker of the fleet for this client. */
  #trial: { readonly permit: ClientPermit; readonly untilMs: number } | null = null;
  /** Until when the last call that began counts as a trial. */
  #trialUntilMs = Number.NEGATIVE_INFINITY;
  #ewma: PeakEwma | null = null;

  constructor(config: EndpointConfig) {
    this.name = config.name;
    this.url = config.url;
    this.tier = config.tier;
    this.role = config.role;
    this.weight = config.weight;
  }

  /** Takes over a new configuration of the same address. */
  reconfigure({ tier, role, weight }: EndpointConfig): this {
    this.tier = tier;
    this.role = role;
    this.weight = weight;
    return this;
  }

  get ewmaMs(): number | null {
    return this.#ewma?.valueMs ?? null;
  }

  /** Why it lets nothing through now, for error messages; null when it does. */
  get closedBy(): string | null {
    if (this.breaker === "forced_open") return `${this.name}: forced open by an operator`;
    if (!this.breakerAllows) return `${this.name}: the fleet's breaker is ${this.breaker === "half_open" ? "half-open" : "open"}`;
    return this.localAllows ? null : `${this.name}: it failed calls of this client just now`;
  }

  /** `nowMs` by the clock that cannot be set. */
  refresh(word: FleetWord, nowMs: number): void {
    const saidMs = word.breaker === null ? Number.NEGATIVE_INFINITY : nowMs - Math.max(0, word.wallMs - word.breaker.sinceMs);
    const changed = (word.breaker?.generation ?? 0) !== this.#fleetGeneration;
    this.#outSinceMs = Math.max(this.#outSinceMs, changed ? saidMs : this.#outSinceMs, this.lastFailedAtMs ?? this.#outSinceMs);
    this.health = word.health?.status ?? "unknown";
    this.score = word.health?.state.score ?? unknownScore;
    this.breaker = word.breaker?.status ?? "closed";
    this.localAllows = localAllows(this.#local, nowMs);
    const fleetGeneration = word.breaker?.generation ?? 0;
    if (fleetGeneration !== this.#fleetGeneration) this.#answeredRun = 0;
    this.#fleetGeneration = fleetGeneration;
    const gate = breakerGate({
      state: word.breaker,
      router: word.client,
      permitsUsed: 0,
      answeredRun: this.#answeredRun,
      logReachable: word.logReachable,
      nowMs: word.wallMs,
    });
    this.breakerAllows =
      gate === "allow" || (this.breaker === "half_open" ? this.#mayTry(nowMs) : gate === "trial" && !this.#isTried(nowMs));
  }

  /** A call is out that began lately: while the endpoint is out it is the one that tries it. One that hangs holds up nobody for longer. */
  #isTried(nowMs: number): boolean {
    return this.inFlight > 0 && nowMs < this.#trialUntilMs;
  }

  #mayTry(nowMs: number): boolean {
    const trial = this.#trial;
    return trial === null || trial.permit.fleetGeneration !== this.#fleetGeneration || nowMs >= trial.untilMs;
  }

  /**
   * Takes the place of one call. Null: the endpoint is out (this was panic), and is being tried already or was tried just now, so that
   * callers do not pay for it one after the other.
   */
  acquire(nowMs: number, policy: LocalBreakerPolicy): ClientPermit | null {
    const free = this.breaker === "disabled" || this.breaker === "metrics_only" || (this.breakerAllows && this.localAllows);
    if (!free) {
      if (this.#isTried(nowMs) || nowMs - this.#outSinceMs < policy.panicTrialMs) return null;
      this.#outSinceMs = nowMs;
    }
    const { state, permit: local } = localAcquire(this.#local, nowMs, { force: true, policy });
    this.#local = state;
    if (local === null) return null;
    this.inFlight += 1;
    const permit = { local, fleetGeneration: this.#fleetGeneration };
    this.#trialUntilMs = nowMs + policy.trialMs;
    if (this.breaker === "half_open") this.#trial = { permit, untilMs: nowMs + policy.trialMs };
    return permit;
  }

  record(
    permit: ClientPermit,
    end: Pick<Failure, "class" | "code"> & { latencyMs: number },
    nowMs: number,
    policy: LocalBreakerPolicy,
  ): void {
    this.#endTrial(permit);
    // The fleet has judged since: what began before that says nothing about what it judged.
    this.#local =
      permit.fleetGeneration === this.#fleetGeneration
        ? localRecord(this.#local, permit.local, end, nowMs, policy)
        : localRelease(this.#local, permit.local);
    if (permit.fleetGeneration === this.#fleetGeneration) this.#answeredRun = end.class === "hard" ? 0 : this.#answeredRun + 1;
    if (end.class === "hard") this.lastFailedAtMs = nowMs;
    this.#ewma = observeLatency(this.#ewma, end.latencyMs, nowMs);
  }

  /** The call ended without a word on the endpoint. */
  release(permit: ClientPermit): void {
    this.#endTrial(permit);
    this.#local = localRelease(this.#local, permit.local);
  }

  #endTrial(permit: ClientPermit): void {
    if (this.#trial?.permit === permit) this.#trial = null;
  }

  /** The function of a call has settled, or is given up. */
  leave(): void {
    this.inFlight -= 1;
  }
}
