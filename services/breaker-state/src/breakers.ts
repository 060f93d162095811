import { type BreakerState, type Event, endpointKey } from "@mcp-failover/contracts";
import {
  type BreakerInput,
  type BreakerPolicy,
  EvidenceStart,
  evidenceOf,
  expireBreakerSignals,
  foldBreakerSignal,
  initialBreakerState,
  isBreakerDue,
  liveRouters,
  openBreakerSignals,
  openWindow,
  policyFor,
  timeOfThisClock,
  waitsForItsTime,
} from "@mcp-failover/domain";
import { type AppliedTopology, type Folded, type Kit, readTopology } from "@mcp-failover/service-kit";
import { slowMsMin, Trouble } from "./trouble.ts";

export interface Breaker {
  readonly upstream: string;
  readonly endpoint: string;
  readonly policy: BreakerPolicy;
}
export interface Known {
  readonly state: BreakerState;
  /** Last sequence of SIGNALS that the decision had folded. */
  readonly signalsSeq: number;
  /** When it was taken, in the store's time. */
  readonly decidedAtMs: number;
  readonly eventId: string | null;
}

const straysMax = 1000;
const unknown: Known = { state: initialBreakerState, signalsSeq: 0, decidedAtMs: 0, eventId: null };

/** Both streams folded, each by itself: AUDIT into configuration and states, SIGNALS into windows. {@link inputFor} alone joins them. */
export class Breakers {
  readonly #log: Kit["log"];
  readonly #signals = openBreakerSignals();
  #configured = new Map<string, Breaker>();
  readonly #known = new Map<string, Known>();
  /** Those that time alone may change: open and half-open. */
  readonly #timed = new Set<string>();
  /** Endpoints of which something was heard since they were last looked at. */
  readonly #heard = new Set<string>();
  readonly #trouble = new Trouble();
  readonly #start = new EvidenceStart();
  #displaced = 0;
  #routers: { readonly nowMs: number; readonly liveMs: number; readonly seq: number; readonly live: readonly string[] } | null = null;

  constructor(log: Kit["log"]) {
    this.#log = log;
  }

  get configured(): ReadonlyMap<string, Breaker> {
    return this.#configured;
  }

  known(key: string): Known {
    return this.#known.get(key) ?? unknown;
  }

  /**
   * Whether the state in force was decided on more than is folded here. Sequences alone do not tell: a stream that was lost begins again at 1, and
   * what is stored in it after the decision is no older than that.
   */
  isBehind(key: string): boolean {
    const { signalsSeq, decidedAtMs } = this.known(key);
    const { seq, timeMs } = this.#start.last;
    return seq < signalsSeq && timeMs <= decidedAtMs;
  }

  foldAudit(event: Event, at: Folded): void {
    if (event.type === "config.applied") {
      const applied = readTopology({ seq: at.seq, content: { kind: "event", event } }, this.#log);
      if (applied) this.#configured = breakersOf(applied);
      this.#forgetStrays();
    }
    if (event.type !== "breaker.changed") return;
    const { service, endpoint, state, certificate } = event.data;
    const key = endpointKey(service, endpoint);
    // To the end: what was heard of longest ago is forgotten first.
    this.#known.delete(key);
    this.#known.set(key, {
      state,
      signalsSeq: certificate.folded.SIGNALS?.last ?? 0,
      decidedAtMs: certificate.nowMs,
      eventId: event.id,
    });
    if (state.status === "open" || state.status === "half_open") this.#timed.add(key);
    else this.#timed.delete(key);
    if (!this.#configured.has(key)) this.#forgetStrays();
  }

  /** Of endpoints that no configuration names the newest are kept, because they may come back; without a configuration nothing is known to be one. */
  #forgetStrays(): void {
    let surplus = this.#configured.size === 0 ? 0 : this.#known.size - this.#configured.size - straysMax;
    if (surplus <= 0) return;
    for (const key of this.#known.keys()) {
      if (this.#configured.has(key)) continue;
      this.#known.delete(key);
      this.#timed.delete(key);
      surplus -= 1;
      if (surplus <= 0) return;
    }
  }

  /** `freshAfterSeq`: up to there is no evidence, as far as is known now. */
  foldSignal(event: Event, at: Folded, freshAfterSeq: number): void {
    this.#start.hear(at, freshAfterSeq);
    foldBreakerSignal(this.#signals, event, at.timeMs);
    forEachItem(event, (upstream, endpoint, bad, slow) => {
      const key = endpointKey(upstream, endpoint);
      this.#trouble.fold(key, bad, slow, at.timeMs);
      const closed = this.known(key).state.status === "closed";
      if (!closed || this.#trouble.has(key, this.#configured.get(key)?.policy, at.timeMs)) this.hear(key);
    });
  }

  /** False: none is half-open. */
  get anyOnTrial(): boolean {
    return this.#timed.size > 0;
  }

  /** Half-open: callers wait for what becomes of it, so that its answers are looked at as they come. */
  isOnTrial(key: string): boolean {
    return this.#known.get(key)?.state.status === "half_open";
  }

  /** Open, and its time is not over: whatever is heard changes nothing. */
  waitsForItsTime(key: string, nowMs: number): boolean {
    return waitsForItsTime(this.known(key).state, nowMs);
  }

  /** Something is to be looked at in the next second, whatever is heard till then. */
  hear(key: string): void {
    this.#heard.add(key);
  }

  /** Forgets what is too old, and gives what may have changed: as much work as there is news, however many endpoints there are. */
  takeDue(nowMs: number): readonly string[] {
    expireBreakerSignals(this.#signals, nowMs);
    const due = [...this.#heard];
    this.#heard.clear();
    for (const key of this.#timed) {
      const breaker = this.#configured.get(key);
      if (breaker !== undefined && isBreakerDue(this.known(key).state, breaker.policy, nowMs)) due.push(key);
    }
    return due;
  }

  /** Endpoints that were forgotten though they were heard of still, since this was asked last. */
  takeDisplaced(): number {
    const before = this.#displaced;
    this.#displaced = this.#signals.displaced;
    return this.#displaced - before;
  }

  /** Everything that the decision on one endpoint depends on; it goes into the certificate as it is. */
  inputFor(key: string, breaker: Breaker, nowMs: number, freshAfterSeq: number): BreakerInput {
    const { upstream, endpoint, policy } = breaker;
    const { state } = this.known(key);
    const sinceMs = Math.max(timeOfThisClock(state.sinceMs, nowMs), this.#start.fromMs(freshAfterSeq));
    const cut = {
      generation: state.generation,
      sinceMs,
      ...(state.renewed === undefined
        ? {}
        : { renewed: { ...state.renewed, atMs: Math.max(timeOfThisClock(state.renewed.atMs, nowMs), sinceMs) } }),
    };
    const evidence = evidenceOf(this.#signals.windows.get(key) ?? openWindow(), cut, policy, nowMs);
    // Only where permits may be given: a closed breaker's decision does not depend on who is there.
    const routers = state.status === "open" || state.status === "half_open" ? this.#liveRouters(nowMs, policy.routerLiveMs) : [];
    return { upstream, endpoint, policy, nowMs, state, evidence, routers };
  }

  /** Sorting them once a moment, not once an endpoint. */
  #liveRouters(nowMs: number, liveMs: number): readonly string[] {
    const { seq } = this.#start.last;
    if (this.#routers?.nowMs !== nowMs || this.#routers.liveMs !== liveMs || this.#routers.seq !== seq) {
      this.#routers = { nowMs, liveMs, seq, live: liveRouters(this.#signals, nowMs, liveMs) };
    }
    return this.#routers.live;
  }
}

function breakersOf(applied: AppliedTopology): Map<string, Breaker> {
  const breakers = new Map<string, Breaker>();
  for (const [upstream, { endpoints }] of Object.entries(applied.topology.upstreams)) {
    const policy = policyFor(applied.topology, upstream, applied.environment).breaker;
    for (const { name } of endpoints) breakers.set(endpointKey(upstream, name), { upstream, endpoint: name, policy });
  }
  return breakers;
}

/** `bad` and `slow` as {@link Trouble.fold} takes them. */
type OnItem = (upstream: string, endpoint: string, bad: boolean, slow: boolean) => void;

/** Tells what an event says of endpoints; without an object for each, because every signal is asked. */
export function forEachItem(event: Event, onItem: OnItem): void {
  if (event.type === "probe.observed") {
    for (const { upstream, endpoint, outcome, responseTimeMs } of event.data.observations) {
      onItem(upstream, endpoint, outcome === "hard", responseTimeMs >= slowMsMin);
    }
  } else if (event.type === "traffic.observed") {
    for (const { upstream, endpoint, hard, hung, latencyMsMax, oldestInFlightMs } of event.data.endpoints) {
      onItem(upstream, endpoint, hard > 0 || hung === true, Math.max(latencyMsMax, oldestInFlightMs) >= slowMsMin);
    }
  }
}
