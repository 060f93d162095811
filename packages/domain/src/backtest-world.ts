import {
  type BreakerState,
  type Event,
  endpointKey,
  type FailoverState,
  type HealthState,
  type Observation,
  type Topology,
  type TrafficEndpoint,
  type Vote,
} from "@mcp-failover/contracts";
import { DeadEnds } from "./backtest-dead-ends.ts";
import { type ProbeAnswer, ProbeAnswers, type ProbeRecord } from "./backtest-record.ts";
import { type BreakerOrder, decideBreaker, initialBreakerState, isBreakerDue, waitsForItsTime } from "./breaker.ts";
import { evidenceOf } from "./breaker-evidence.ts";
import { expireBreakerSignals, foldBreakerSignal, liveRouters, openBreakerSignals } from "./breaker-signals.ts";
import { type Evidence, openEvidence, takeSignal } from "./evidence.ts";
import { failbackDueMs } from "./failback.ts";
import { decideFailover } from "./failover.ts";
import { type FailoverAudit, failoverInput, failoverStateOf, foldFailoverAudit, noFailoverAudit } from "./failover-input.ts";
import type { FailoverDecision, FailoverInput, FailoverOrder, FleetAnswer } from "./failover-outcome.ts";
import { trialInForce } from "./failover-verify.ts";
import { decideReservation } from "./fleet.ts";
import { reservationInput, wantOf } from "./fleet-input.ts";
import { decideHealth, evidenceMax, type HealthEvidence, isAlive } from "./health.ts";
import { maintenanceAt } from "./maintenance.ts";
import { defaultPolicy, type Policy, policyFor } from "./policy.ts";
import { probeTimeoutMs } from "./probe-schedule.ts";
import { openWindow } from "./window.ts";

/**
 * What the deciders would have decided under one policy, on what the log recorded: the production reducers, in one process, by the store's time.
 *
 * W1  Until `begin` it follows what was decided. From there its own decisions are its state: health, breakers, places in the fleet and routes.
 * W2  What operators did is not decided anew: their orders count as they were given, a move of theirs as a forced one to where it went.
 * W3  A probe that is asked for is answered from the record (R1), after as long as the recorded one took, but no longer than its time-out. Who
 *     answers are the probers that were heard of lately.
 * W4  Calls cannot be made anew. Those that were recorded count for the endpoint that they were made at, whatever route a router held: it is said to
 *     hold the route of this world.
 * W5  It never looks ahead, but to answer a probe.
 */
export interface BacktestMove {
  /** The store's time. */
  readonly atMs: number;
  readonly upstream: string;
  readonly from: string;
  readonly to: string;
  readonly rule: string;
  readonly reason: string;
  readonly automatic: boolean;
}

interface Health {
  state: HealthState | null;
  evidence: HealthEvidence[];
  /** Who probes it on schedule. */
  owner: string | null;
  lastMs: number;
  policy: Policy["health"];
}
/** A round of questions about one upstream. */
interface Round {
  sinceMs: number | null;
  lastMs: number;
}

/** A decision leads to the next one (a place in the fleet to its move) in so many passes at most. */
const passesMax = 5;
/** An upstream that is well is looked at this often. */
const calmMsMax = 10_000;
/** A prober is there while it was heard of within so many of its intervals. */
const intervalsAlive = 3;
/** A suspicion this young is followed up as fast as the policy allows. */
const urgentMs = 3000;
const { slowMsMin } = defaultPolicy.breaker;
const evenClock = { tilted: false, freshAfterSeq: 0 } as const;

export class BacktestWorld {
  readonly moves: BacktestMove[] = [];
  readonly deadEnds = new DeadEnds();
  readonly #answers: ProbeAnswers;
  readonly #evidence: Evidence = openEvidence();
  readonly #signals = openBreakerSignals();
  readonly #health = new Map<string, Health>();
  readonly #breakers = new Map<string, BreakerState>();
  readonly #heard = new Set<string>();
  readonly #troubledUntilMs = new Map<string, number>();
  readonly #rounds = new Map<string, Round>();
  readonly #calmUntilMs = new Map<string, number>();
  #endpoints = new Map<string, { readonly upstream: string; readonly endpoint: string }>();
  #audit: FailoverAudit = noFailoverAudit;
  #intervalMsMax = defaultPolicy.health.intervalMs;
  #begun = false;
  #fixed = false;
  #seq = 0;

  constructor(record: ProbeRecord) {
    this.#answers = new ProbeAnswers(record);
  }

  get upstreams(): readonly string[] {
    return Object.keys(this.#audit.config?.topology.upstreams ?? {});
  }

  /** Decides by itself from here on; with a configuration of its own whatever is applied later, else with those that were applied. */
  begin(own: { readonly topology: Topology; readonly environment: "development" | "production" } | null): void {
    this.#begun = true;
    if (own === null) return;
    this.#fixed = true;
    this.#audit = { ...this.#audit, config: { version: this.#audit.config?.version ?? 0, ...own } };
    this.#configured();
  }

  /** The endpoints that serve an upstream now: the active one, in a pool its tier. None: it is not configured. */
  serving(upstream: string): readonly string[] {
    return servingOf(this.#audit, upstream);
  }

  /** One event of AUDIT (W1, W2). */
  recorded(event: Event, timeMs: number): void {
    if (event.type === "config.applied") {
      if (this.#fixed) return;
      this.#audit = foldFailoverAudit(this.#audit, event, timeMs);
      this.#configured();
      return;
    }
    if (!this.#begun) {
      this.#follow(event, timeMs);
      return;
    }
    switch (event.type) {
      case "log.started":
      case "chaos.started":
      case "chaos.finished":
        this.#audit = foldFailoverAudit(this.#audit, event, timeMs);
        return;
      case "failover.decided": {
        const { command } = event.data.certificate.input as { command?: FailoverOrder | null };
        if (command != null) this.#obey(event.data.service, command, event.data.currentEndpoint, timeMs);
        return;
      }
      case "breaker.changed": {
        const { command } = event.data.certificate.input as { command?: BreakerOrder };
        const key = endpointKey(event.data.service, event.data.endpoint);
        if (command !== undefined && this.#endpoints.has(key)) this.#decideBreaker(key, timeMs, command);
        return;
      }
      default:
        return;
    }
  }

  /** One event of SIGNALS. */
  signal(event: Event<"probe.observed"> | Event<"traffic.observed">, seq: number, timeMs: number): void {
    // Answers of this world are between those of the record, and a sequence never falls.
    this.#seq = Math.max(this.#seq + 1, seq);
    const own = event.type === "traffic.observed" ? this.#ownTraffic(event) : event;
    takeSignal(this.#evidence, { seq: this.#seq, timeMs, event: own });
    foldBreakerSignal(this.#signals, own, timeMs);
    const moved = new Set<string>();
    if (own.type === "probe.observed") {
      for (const one of own.data.observations) {
        const key = endpointKey(one.upstream, one.endpoint);
        if (!this.#endpoints.has(key)) continue;
        const hard = one.outcome === "hard";
        this.#hearBreaker(key, { bad: hard, troubled: hard || one.responseTimeMs >= slowMsMin }, timeMs);
        this.#hearHealth(key, one, timeMs);
        if (hard || !this.#isCalm(one.upstream, timeMs)) moved.add(one.upstream);
      }
    } else {
      for (const one of own.data.endpoints) {
        const key = endpointKey(one.upstream, one.endpoint);
        if (!this.#endpoints.has(key)) continue;
        const against = one.hard > 0 || (one.inFlight > 0 && one.ok === 0);
        const bad = one.hard > 0 || one.hung === true;
        this.#hearBreaker(key, { bad, troubled: bad || Math.max(one.latencyMsMax, one.oldestInFlightMs) >= slowMsMin }, timeMs);
        if (against) moved.add(one.upstream);
      }
    }
    if (this.#begun) for (const upstream of moved) this.#evaluate(upstream, timeMs);
  }

  /** On to a moment: answers that come before it, and where `isSecond` all that is due at this boundary of a second. */
  advance(nowMs: number, isSecond: boolean): void {
    if (!this.#begun) return;
    for (let answer = this.#answers.take(nowMs); answer !== null; answer = this.#answers.take(nowMs)) this.#hearAnswer(answer);
    if (!isSecond) return;
    expireBreakerSignals(this.#signals, nowMs);
    const due = [...this.#heard];
    this.#heard.clear();
    for (const key of due) this.#decideBreaker(key, nowMs);
    for (const [key, state] of this.#breakers)
      if (state.status !== "closed" && isBreakerDue(state, this.#policyOf(key).breaker, nowMs)) this.#decideBreaker(key, nowMs);
    for (const [key, health] of this.#health)
      if (health.lastMs > 0 && nowMs - health.lastMs > health.policy.freshMs) this.#decideHealth(key, health, nowMs);
    for (const upstream of this.upstreams) if (!this.#isCalm(upstream, nowMs)) this.#evaluate(upstream, nowMs);
  }

  /** Nothing was recorded for a while: who had been asked does not answer any more. */
  skip(): void {
    this.#answers.clear();
    for (const round of this.#rounds.values()) round.sinceMs = null;
    this.#calmUntilMs.clear();
  }

  #follow(event: Event, timeMs: number): void {
    this.#audit = foldFailoverAudit(this.#audit, event, timeMs);
    if (event.type === "health.changed") {
      const health = this.#health.get(endpointKey(event.data.service, event.data.endpoint));
      if (health !== undefined) Object.assign(health, { state: onClock(event.data.state, event.data.timestamp, timeMs), evidence: [] });
    }
    if (event.type === "breaker.changed") this.#breakers.set(endpointKey(event.data.service, event.data.endpoint), event.data.state);
  }

  #configured(): void {
    const { config } = this.#audit;
    if (config === null) return;
    this.#endpoints = new Map();
    this.#calmUntilMs.clear();
    this.#intervalMsMax = defaultPolicy.health.intervalMs;
    for (const [upstream, { endpoints }] of Object.entries(config.topology.upstreams)) {
      const { health: policy } = policyFor(config.topology, upstream, config.environment);
      this.#intervalMsMax = Math.max(this.#intervalMsMax, policy.intervalMs);
      for (const { name } of endpoints) {
        const key = endpointKey(upstream, name);
        this.#endpoints.set(key, { upstream, endpoint: name });
        const known = this.#health.get(key);
        this.#health.set(key, known === undefined ? { state: null, evidence: [], owner: null, lastMs: 0, policy } : { ...known, policy });
      }
    }
    for (const known of [this.#health, this.#breakers])
      for (const key of [...known.keys()]) if (!this.#endpoints.has(key)) known.delete(key);
  }

  #policyOf(key: string): Policy {
    const { upstream } = this.#endpoints.get(key) as { upstream: string };
    const { topology, environment } = this.#audit.config as NonNullable<FailoverAudit["config"]>;
    return policyFor(topology, upstream, environment);
  }

  /** W4. What a router says of generations of breakers and of routes is about those that it had. */
  #ownTraffic(event: Event<"traffic.observed">): Event<"traffic.observed"> {
    const { endpoints, routes } = event.data;
    const own: Record<string, (typeof routes)[string]> = {};
    for (const upstream of Object.keys(routes)) {
      if (!this.#isConfigured(upstream)) continue;
      const { generation, epoch, active } = failoverStateOf(this.#audit, upstream);
      own[upstream] = { generation, epoch, active, eventId: null };
    }
    const without = endpoints.map(({ breakerGeneration: _, ...rest }): TrafficEndpoint => rest);
    return { ...event, data: { ...event.data, endpoints: without, routes: own } };
  }

  #isConfigured(upstream: string): boolean {
    return this.#audit.config !== null && Object.hasOwn(this.#audit.config.topology.upstreams, upstream);
  }

  #isCalm(upstream: string, nowMs: number): boolean {
    return nowMs < (this.#calmUntilMs.get(upstream) ?? 0);
  }

  /** `troubled`: a failure, or slow; a closed breaker that heard of neither within its window stays as it is. */
  #hearBreaker(key: string, { bad, troubled }: { readonly bad: boolean; readonly troubled: boolean }, nowMs: number): void {
    const status = this.#breakers.get(key)?.status ?? "closed";
    if (troubled) this.#troubledUntilMs.set(key, nowMs + defaultPolicy.breaker.windowMsMax);
    else if (status === "closed" && nowMs > (this.#troubledUntilMs.get(key) ?? 0)) return;
    this.#heard.add(key);
    if (this.#begun && (bad || status === "half_open")) this.#decideBreaker(key, nowMs);
  }

  #decideBreaker(key: string, nowMs: number, command?: BreakerOrder): void {
    const place = this.#endpoints.get(key);
    if (place === undefined) return;
    const state = this.#breakers.get(key) ?? initialBreakerState;
    if (command === undefined && waitsForItsTime(state, nowMs)) return;
    const { breaker: policy } = this.#policyOf(key);
    const evidence = command === undefined ? evidenceOf(this.#signals.windows.get(key) ?? openWindow(), state, policy, nowMs) : [];
    const onTrial = state.status === "open" || state.status === "half_open";
    const routers = onTrial ? liveRouters(this.#signals, nowMs, policy.routerLiveMs) : [];
    const decision = decideBreaker({ ...place, policy, nowMs, state, evidence, routers, ...(command === undefined ? {} : { command }) });
    if (!decision.changed) return;
    this.#breakers.set(key, decision.state);
    const { status, sinceMs } = decision.state;
    this.#audit = {
      ...this.#audit,
      breakers: this.#audit.breakers.with(key, status),
      breakersSinceMs: this.#audit.breakersSinceMs.with(key, sinceMs),
    };
    this.#evaluate(place.upstream, nowMs);
  }

  #hearHealth(key: string, { observer, purpose, outcome, code, responseTimeMs, degraded }: Observation, timeMs: number): void {
    const health = this.#health.get(key);
    if (health === undefined) return;
    if (purpose === "scheduled") health.owner = observer;
    if (observer !== health.owner) return;
    health.lastMs = timeMs;
    const startedAtMs = Math.round(timeMs - responseTimeMs);
    health.evidence.push({ startedAtMs, responseTimeMs, outcome, code, purpose, ...(degraded == null ? {} : { degraded }) });
    if (health.evidence.length > evidenceMax(health.policy)) health.evidence.shift();
    if (this.#begun) this.#decideHealth(key, health, timeMs);
  }

  #decideHealth(key: string, health: Health, nowMs: number): void {
    const place = this.#endpoints.get(key);
    const { config } = this.#audit;
    if (place === undefined || config === null) return;
    const { upstream, endpoint } = place;
    const { policy, state, evidence } = health;
    const maintenance = maintenanceAt(config.topology, upstream, endpoint, nowMs);
    const input = { policy, state, evidence, asked: 0, votes: [], graceUntilMs: 0, nowMs, maintenance };
    let decision = decideHealth(input);
    if (decision.ask) {
      const answers = this.#ask(upstream, endpoint, {
        nowMs,
        timeoutMs: probeTimeoutMs(policy, "confirm", decision.state.usualMs ?? null),
      });
      decision = decideHealth({ ...input, asked: Math.max(1, this.#alive(nowMs).length), votes: answers.map(voteOf) });
    }
    if (!decision.publish) return;
    health.state = decision.state;
    health.evidence = [];
    const { status, sinceMs, heldDownUntilMs, changesAtMs = [] } = decision.state;
    const known = { status, sinceMs, heldDownUntilMs, changesAtMs, toldAtMs: nowMs };
    this.#audit = { ...this.#audit, health: this.#audit.health.with(key, known) };
    this.#evaluate(upstream, nowMs);
  }

  #alive(nowMs: number): readonly string[] {
    const withinMs = intervalsAlive * this.#intervalMsMax;
    return [...this.#evidence.probers].filter(([, { atMs, left }]) => !left && nowMs - atMs <= withinMs).map(([prober]) => prober);
  }

  #ask(upstream: string, endpoint: string, asked: { readonly nowMs: number; readonly timeoutMs: number }): readonly Observation[] {
    return this.#answers.ask(endpointKey(upstream, endpoint), this.#alive(asked.nowMs), asked);
  }

  #hearAnswer({ atMs, observation }: ProbeAnswer): void {
    this.#seq += 1;
    const startedAtMs = this.#evidence.probers.get(observation.observer)?.startedAtMs ?? undefined;
    const data = { observer: observation.observer, observations: [observation], ...(startedAtMs === undefined ? {} : { startedAtMs }) };
    const event = { type: "probe.observed", data } as Event<"probe.observed">;
    takeSignal(this.#evidence, { seq: this.#seq, timeMs: atMs, event });
    foldBreakerSignal(this.#signals, event, atMs);
    const bad = observation.outcome === "hard";
    this.#hearBreaker(
      endpointKey(observation.upstream, observation.endpoint),
      { bad, troubled: bad || observation.responseTimeMs >= slowMsMin },
      atMs,
    );
    this.#evaluate(observation.upstream, atMs);
  }

  #obey(upstream: string, order: FailoverOrder, movedTo: string, nowMs: number): void {
    if (!this.#isConfigured(upstream)) return;
    const moves = order.kind === "failover" || order.kind === "failback";
    const { commandId, by, reason } = order;
    const command: FailoverOrder = moves
      ? { commandId, by, reason, kind: "failover", to: movedTo, force: true, afterSeq: 0, gatherOver: true }
      : order;
    const input = this.#inputFor(upstream, { command, fleet: allowed(movedTo), nowMs });
    this.#take(input, decideFailover(input));
  }

  #inputFor(
    upstream: string,
    { command, fleet, nowMs }: { readonly command: FailoverOrder | null; readonly fleet: FleetAnswer | null; readonly nowMs: number },
  ): FailoverInput {
    const gatherSinceMs = this.#rounds.get(upstream)?.sinceMs ?? null;
    return failoverInput(this.#audit, this.#evidence, upstream, {
      command,
      fleet,
      clock: evenClock,
      gatherSinceMs,
      graceUntilMs: null,
      nowMs,
    });
  }

  #evaluate(upstream: string, nowMs: number): void {
    if (!this.#begun || !this.#isConfigured(upstream)) return;
    let fleet: FleetAnswer | null = null;
    for (let pass = 0; pass < passesMax; pass += 1) {
      const input = this.#inputFor(upstream, { command: null, fleet, nowMs });
      const decision = decideFailover(input);
      this.#rest(input, decision);
      switch (decision.kind) {
        case "none":
          this.#over(upstream);
          if (decision.rule === "active_healthy") this.deadEnds.over(upstream);
          return;
        case "gather":
          this.#gather(input, decision.targets);
          return;
        case "failing":
        case "rejected":
          if (decision.targets.length === 0 || decision.rule === "fleet_limit") this.#over(upstream);
          else this.#gather(input, decision.targets);
          this.deadEnds.tell({ atMs: nowMs, upstream, rule: decision.rule, reason: decision.reason });
          return;
        case "reserve":
          fleet = this.#reserve(input, decision);
          break;
        case "decided":
          fleet = null;
          this.#over(upstream);
          this.#take(input, decision);
          break;
      }
    }
  }

  #reserve(input: FailoverInput, decision: Extract<FailoverDecision, { kind: "reserve" }>): FleetAnswer {
    const critical = this.#audit.config?.topology.upstreams[input.upstream]?.critical ?? true;
    const want = wantOf(input, decision, critical);
    const reserved = decideReservation(reservationInput(this.#audit, [want], input.nowMs));
    if (reserved.publish) this.#audit = { ...this.#audit, reservations: reserved.state.reservations };
    const [answer] = reserved.answers;
    if (answer === undefined) throw new RangeError("a reservation answers each move that it is asked for");
    const { granted, rule, reason, expiresAtMs, overrode } = answer;
    return { granted, rule, reason, expiresAtMs, overrode, to: want.to };
  }

  #take({ upstream, nowMs }: FailoverInput, decision: FailoverDecision): void {
    if (decision.kind !== "decided") return;
    this.#audit = { ...this.#audit, states: this.#audit.states.with(upstream, decision.state) };
    this.#calmUntilMs.delete(upstream);
    const { action, rule, reason, automatic, previousEndpoint: from, currentEndpoint: to } = decision;
    if (action === "moved") {
      this.deadEnds.over(upstream);
      this.moves.push({ atMs: nowMs, upstream, from, to, rule, reason, automatic });
    } else if (action === "held" && automatic) this.deadEnds.tell({ atMs: nowMs, upstream, rule, reason });
  }

  #gather(input: FailoverInput, targets: readonly string[]): void {
    const { upstream, policy, nowMs } = input;
    const round = this.#rounds.get(upstream) ?? { sinceMs: null, lastMs: Number.NEGATIVE_INFINITY };
    this.#rounds.set(upstream, round);
    round.sinceMs ??= nowMs;
    const everyMs = nowMs - round.sinceMs < urgentMs ? policy.gatherEveryMs : policy.gatherEveryMsMax;
    if (nowMs - round.lastMs < everyMs) return;
    round.lastMs = nowMs;
    for (const endpoint of targets) {
      const health = this.#health.get(endpointKey(upstream, endpoint));
      const timeoutMs =
        health === undefined ? policy.confirmTimeoutMs : probeTimeoutMs(health.policy, "confirm", health.state?.usualMs ?? null);
      this.#ask(upstream, endpoint, { nowMs, timeoutMs });
    }
  }

  #over(upstream: string): void {
    const round = this.#rounds.get(upstream);
    if (round !== undefined) round.sinceMs = null;
  }

  #rest(input: FailoverInput, decision: FailoverDecision): void {
    const { upstream, state, nowMs } = input;
    const calm = decision.kind === "none" && decision.rule === "active_healthy" && trialInForce(input) === null;
    if (!calm) {
      this.#calmUntilMs.delete(upstream);
      return;
    }
    const dueMs = failbackDueMs(input);
    const wakeMs = Math.min(nowMs + calmMsMax, state.held?.untilMs ?? Number.POSITIVE_INFINITY, dueMs <= nowMs ? nowMs + calmMsMax : dueMs);
    this.#calmUntilMs.set(upstream, wakeMs);
  }
}

/** The endpoints that serve an upstream under what this audit says: the active one, in a pool its tier. */
export function servingOf(audit: FailoverAudit, upstream: string): readonly string[] {
  const configured = audit.config?.topology.upstreams[upstream];
  if (configured === undefined) return [];
  const { active } = failoverStateOf(audit, upstream) satisfies FailoverState;
  const tier = configured.endpoints.find(({ name }) => name === active)?.tier;
  if (configured.mode !== "pool" || tier === undefined) return [active];
  return configured.endpoints.filter((endpoint) => endpoint.role === "write" && endpoint.tier === tier).map(({ name }) => name);
}

const allowed = (to: string): FleetAnswer => ({ granted: true, reason: "as it was", expiresAtMs: Number.MAX_SAFE_INTEGER, to });

function voteOf({ observer, outcome, code, startedAtMs, responseTimeMs }: Observation): Vote {
  const verdict = isAlive(outcome) ? "healthy" : "unhealthy";
  return { observer, kind: "prober", verdict, outcome, code, atMs: Math.ceil(startedAtMs + responseTimeMs), responseTimeMs, ref: null };
}

/** A prober stamps with its own clock; all here is by the store's. */
function onClock(state: HealthState, timestamp: string, timeMs: number): HealthState {
  const aheadMs = timeMs - Date.parse(timestamp);
  const { sinceMs, heldDownUntilMs, changesAtMs, lastObservedAtMs } = state;
  return {
    ...state,
    sinceMs: sinceMs + aheadMs,
    heldDownUntilMs: heldDownUntilMs === null ? null : heldDownUntilMs + aheadMs,
    lastObservedAtMs: lastObservedAtMs === null ? null : lastObservedAtMs + aheadMs,
    ...(changesAtMs === undefined ? {} : { changesAtMs: changesAtMs.map((atMs) => atMs + aheadMs) }),
  };
}
