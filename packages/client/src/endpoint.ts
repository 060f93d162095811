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
}

/** One endpoint as this client knows it: what the fleet says, read at each call, and what its own calls have met. */
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
  #outSinceMs = 0;
  #local: LocalBreaker = initialLocalBreaker;
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

  refresh(word: FleetWord, nowMs: number): void {
    this.#outSinceMs = Math.max(this.#outSinceMs, word.breaker?.sinceMs ?? 0, this.lastFailedAtMs ?? 0);
    this.health = word.health?.status ?? "unknown";
    this.score = word.health?.state.score ?? unknownScore;
    this.breaker = word.breaker?.status ?? "closed";
    this.localAllows = localAllows(this.#local, nowMs);
    // Clients have no permits of their own: through a half-open breaker go the routers' calls and the probes.
    const gate = breakerGate({ state: word.breaker, router: word.client, permitsUsed: 0, logReachable: word.logReachable, nowMs });
    this.breakerAllows = gate === "allow" || (gate === "trial" && this.inFlight === 0);
  }

  /**
   * Takes the place of one call. Null: the endpoint is out (this was panic), and is being tried already or was tried just now, so that
   * callers do not pay for it one after the other.
   */
  acquire(nowMs: number, policy: LocalBreakerPolicy): LocalPermit | null {
    const free = this.breaker === "disabled" || this.breaker === "metrics_only" || (this.breakerAllows && this.localAllows);
    if (!free) {
      if (this.inFlight > 0 || nowMs - this.#outSinceMs < policy.panicTrialMs) return null;
      this.#outSinceMs = nowMs;
    }
    const { state, permit } = localAcquire(this.#local, nowMs, { force: true, policy });
    this.#local = state;
    if (permit !== null) this.inFlight += 1;
    return permit;
  }

  record(
    permit: LocalPermit,
    end: Pick<Failure, "class" | "code"> & { latencyMs: number },
    nowMs: number,
    policy: LocalBreakerPolicy,
  ): void {
    this.#local = localRecord(this.#local, permit, end, nowMs, policy);
    if (end.class === "hard") this.lastFailedAtMs = nowMs;
    this.#ewma = observeLatency(this.#ewma, end.latencyMs, nowMs);
  }

  /** The call ended without a word on the endpoint. */
  release(permit: LocalPermit): void {
    this.#local = localRelease(this.#local, permit);
  }

  /** The function of a call has settled, or is given up. */
  leave(): void {
    this.inFlight -= 1;
  }
}
