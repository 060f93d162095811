import { BusError } from "@mcp-failover/bus";
import { type BreakerState, type Event, endpointKey } from "@mcp-failover/contracts";
import {
  type BreakerInput,
  type BreakerPolicy,
  type BreakerSignals,
  decideBreaker,
  defaultPolicy,
  emptyBreakerSignals,
  emptyWindow,
  evidenceOf,
  expireBreakerSignals,
  foldBreakerSignal,
  initialBreakerState,
  liveRouters,
  policyFor,
  policyHash,
} from "@mcp-failover/domain";
import { type AppliedTopology, type Folded, type Kit, type Running, readTopology, startFencedDecider } from "@mcp-failover/service-kit";
import { Counter } from "prom-client";
import type { BreakerStateConfig } from "./config.ts";

interface Breaker {
  readonly upstream: string;
  readonly endpoint: string;
  readonly policy: BreakerPolicy;
}
interface Known {
  readonly state: BreakerState;
  /** Last sequence of SIGNALS that the decision had folded. */
  readonly signalsSeq: number;
}

const expireEveryMs = 10_000;
/** A lost race is decided anew at once, so often; then the next second does. */
const lostRacesMax = 5;

/**
 * SIGNALS -> windows, AUDIT -> states and configuration, both -> `breaker.changed`.
 * Any number of instances decide the same; the fence of each subject lets one of them say it.
 */
export async function startBreakerState(kit: Kit<BreakerStateConfig>): Promise<Running> {
  const changes = new Counter({
    name: "mcpf_breaker_changes_total",
    help: "Changes of breakers that this instance published",
    labelNames: ["rule"],
    registers: [kit.registry],
  });
  let signals: BreakerSignals = emptyBreakerSignals;
  let breakers = new Map<string, Breaker>();
  const known = new Map<string, Known>();
  const deciding = new Set<string>();
  /** Endpoints of which something was heard since they were last looked at. */
  const heard = new Set<string>();
  let lastSignal = { seq: 0, timeMs: 0 };
  /** What was said before a gap is no evidence after it: this is where the evidence begins, in the store's time. */
  let evidence = { fromMs: 0, afterSeq: 0 };
  let expiredMs = 0;

  const foldAudit = (event: Event, at: Folded): void => {
    if (event.type === "config.applied") {
      const applied = readTopology({ seq: at.seq, content: { kind: "event", event } }, kit.log);
      if (applied) breakers = breakersOf(applied);
    }
    if (event.type === "breaker.changed") {
      const key = endpointKey(event.data.service, event.data.endpoint);
      known.set(key, { state: event.data.state, signalsSeq: event.data.certificate.folded.SIGNALS?.last ?? 0 });
    }
  };
  const foldSignal = (event: Event, at: Folded): void => {
    signals = foldBreakerSignal(signals, event, at.timeMs);
    lastSignal = { seq: at.seq, timeMs: at.timeMs };
    for (const { upstream, endpoint } of itemsOf(event)) heard.add(endpointKey(upstream, endpoint));
  };

  const decider = startFencedDecider(kit, {
    foldAudit,
    foldSignal,
    evaluate: (event) => {
      if (event === null) evaluateAll();
      // A failure is looked at as it comes; everything else can wait for the next second.
      else for (const item of itemsOf(event)) if (item.hard) look(endpointKey(item.upstream, item.endpoint));
    },
    signalsBackMs: defaultPolicy.breaker.baselineMs,
    clockGapMs: defaultPolicy.failover.clockGapMs,
    tiltMs: defaultPolicy.failover.tiltMs,
  });

  function evaluateAll(): void {
    const nowMs = decider.decisionMs();
    if (nowMs - expiredMs >= expireEveryMs) {
      expiredMs = nowMs;
      signals = expireBreakerSignals(signals, nowMs);
    }
    for (const key of breakers.keys()) {
      const status = known.get(key)?.state.status ?? "closed";
      if (heard.has(key) || status === "open" || status === "half_open") look(key);
    }
    heard.clear();
  }

  /** Until a new gap is read past, and in the moment in which it becomes known, all that was read so far lies before it. */
  function evidenceFromMs(): number {
    const { freshAfterSeq } = decider.clock;
    if (freshAfterSeq !== evidence.afterSeq || lastSignal.seq <= freshAfterSeq) {
      evidence = { fromMs: lastSignal.timeMs + 1, afterSeq: freshAfterSeq };
    }
    return evidence.fromMs;
  }

  /** Everything that the decision on one endpoint depends on; it goes into the certificate as it is. */
  function inputFor(key: string, breaker: Breaker): BreakerInput {
    const { upstream, endpoint, policy } = breaker;
    const nowMs = decider.decisionMs();
    const state = known.get(key)?.state ?? initialBreakerState;
    const sinceMs = Math.max(state.sinceMs, evidenceFromMs());
    const cut = {
      generation: state.generation,
      sinceMs,
      ...(state.renewed === undefined ? {} : { renewed: { ...state.renewed, atMs: Math.max(state.renewed.atMs, sinceMs) } }),
    };
    const seen = evidenceOf(signals.windows.get(key) ?? emptyWindow, cut, policy, nowMs);
    return { upstream, endpoint, policy, nowMs, state, evidence: seen, routers: liveRouters(signals, nowMs, policy.routerLiveMs) };
  }

  function look(key: string): void {
    const breaker = breakers.get(key);
    if (breaker === undefined || deciding.has(key) || !decideBreaker(inputFor(key, breaker)).changed) return;
    deciding.add(key);
    settle(key)
      .catch((error: unknown) => {
        if (!(error instanceof BusError)) throw error;
        kit.log.warn({ err: error, key }, "a change of a breaker could not be published; the next second decides anew");
        heard.add(key);
      })
      .catch((error: unknown) => kit.log.error({ err: error, key }, "a breaker could not be decided"))
      .finally(() => deciding.delete(key));
  }

  /** Decides and publishes until it has won or nothing changes any more. */
  async function settle(key: string): Promise<void> {
    for (let race = 0; race < lostRacesMax; race += 1) {
      const breaker = breakers.get(key);
      if (breaker === undefined || !decider.settled || decider.clock.tilted) return;
      const input = inputFor(key, breaker);
      const decision = decideBreaker(input);
      const folded = decider.folded();
      // Another instance has decided on more than this one has read; what it still has to read will tell.
      if (!decision.changed || (folded.SIGNALS?.last ?? 0) < (known.get(key)?.signalsSeq ?? 0)) return;
      const result = await decider.publish("breaker.changed", [input.upstream, input.endpoint], {
        service: input.upstream,
        endpoint: input.endpoint,
        status: decision.state.status,
        previousStatus: input.state.status,
        timestamp: new Date(input.nowMs).toISOString(),
        reason: decision.reason,
        by: { kind: "service", id: kit.instance },
        state: decision.state,
        certificate: {
          decider: "decideBreaker",
          rule: decision.rule,
          policyHash: policyHash(input.policy),
          nowMs: input.nowMs,
          folded,
          input,
          rejected: [...decision.rejected],
        },
      });
      if (result.outcome === "lost") continue;
      changes.inc({ rule: decision.rule });
      kit.log.info(
        { key, from: input.state.status, to: decision.state.status, rule: decision.rule, reason: decision.reason },
        "breaker changed",
      );
      return;
    }
    heard.add(key);
  }

  return { stop: () => decider.stop() };
}

function breakersOf(applied: AppliedTopology): Map<string, Breaker> {
  const breakers = new Map<string, Breaker>();
  for (const [upstream, { endpoints }] of Object.entries(applied.topology.upstreams)) {
    const policy = policyFor(applied.topology, upstream, applied.environment).breaker;
    for (const { name } of endpoints) breakers.set(endpointKey(upstream, name), { upstream, endpoint: name, policy });
  }
  return breakers;
}

function itemsOf(event: Event): readonly { upstream: string; endpoint: string; hard: boolean }[] {
  if (event.type === "probe.observed") {
    return event.data.observations.map(({ upstream, endpoint, outcome }) => ({ upstream, endpoint, hard: outcome === "hard" }));
  }
  if (event.type === "traffic.observed") {
    return event.data.endpoints.map(({ upstream, endpoint, hard }) => ({ upstream, endpoint, hard: hard > 0 }));
  }
  return [];
}
