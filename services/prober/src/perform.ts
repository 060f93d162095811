import type { Fenced } from "@mcp-failover/bus";
import {
  type Event,
  farewellOf,
  type HealthChanged,
  type Observation,
  type ProbeRequested,
  type ProberHeartbeat,
  type Vote,
} from "@mcp-failover/contracts";
import { type HealthDecision, type HealthInput, isAlive, type ProberPolicy } from "@mcp-failover/domain";
import type { Kit } from "@mcp-failover/service-kit";
import type { LastSaid } from "./health-log.ts";
import type { Target } from "./targets.ts";

/** Everything that the prober says, as I/O on the bus. */
export interface Performer {
  sendHeartbeat(heartbeat: ProberHeartbeat): void;
  observed(observations: Observation[]): Event<"probe.observed">;
  /** That this prober leaves, for those who would count its silence. */
  farewell(): Event<"probe.observed">;
  append(event: Event<"probe.observed">): Promise<void>;
  sayHealth(
    target: Target,
    input: HealthInput,
    decision: HealthDecision,
    last: Observation | null,
    before: LastSaid | null,
  ): Promise<Fenced>;
  /** The observations that the peers reply with; whoever is silent is not in it. */
  askPeers(request: ProbeRequested, peers: readonly string[], waitMs: number): Promise<Observation[]>;
}

/** `startedAtMs`: of this process, as its heartbeats say. */
export function createPerformer(kit: Kit, policy: ProberPolicy, startedAtMs: number): Performer {
  const { bus, instance } = kit;
  return {
    observed: (observations) => kit.event("probe.observed", [instance], { observer: instance, startedAtMs, observations }),
    farewell: () => kit.event("probe.observed", [instance], farewellOf(instance, startedAtMs, Math.floor(kit.nowMs()))),
    sendHeartbeat: (heartbeat) => bus.publish(kit.event("prober.heartbeat", [], heartbeat)),
    async append(event) {
      await bus.append(event);
    },
    sayHealth(target, input, decision, last, before) {
      const data = healthChanged(target, { input, decision, last, before, prober: instance });
      return bus.appendFenced(kit.event("health.changed", [target.upstream, target.endpoint], data), before?.seq ?? 0, {
        timeoutMs: policy.sayMs,
      });
    },
    async askPeers(request, peers, waitMs) {
      const observations: Observation[] = [];
      const silent = new Set(peers);
      if (silent.size === 0) return observations;
      // Everybody hears it, and who was not asked may answer first: it takes nobody's place.
      for await (const reply of bus.requestMany(kit.event("probe.requested", [], request), { timeoutMs: waitMs })) {
        if (reply.type !== "probe.observed" || !silent.delete(reply.data.observer)) continue;
        observations.push(...reply.data.observations);
        if (silent.size === 0) break;
      }
      return observations;
    },
  };
}

/** Codes where no answer came at all, so that there is no response time to tell. */
const unanswered: ReadonlySet<string | null> = new Set(["refused", "reset", "timeout", "dns", "tls", "closed", "unreachable", "other"]);

function healthChanged(
  target: Target,
  from: { input: HealthInput; decision: HealthDecision; last: Observation | null; before: LastSaid | null; prober: string },
): HealthChanged {
  const { input, decision, last, before } = from;
  const { state, rule, reason, rejected } = decision;
  return {
    service: target.upstream,
    endpoint: target.endpoint,
    status: state.status,
    responseTime: last === null || unanswered.has(last.code) ? null : last.responseTimeMs,
    error: last?.error ?? null,
    timestamp: new Date(input.nowMs).toISOString(),
    critical: target.critical,
    previousStatus: before?.state?.status ?? null,
    reason,
    prober: from.prober,
    votes: [...input.votes],
    ...(input.maintenance == null ? {} : { maintenance: { ...input.maintenance } }),
    state,
    certificate: {
      decider: "decideHealth",
      rule,
      policyHash: target.policyHash,
      nowMs: input.nowMs,
      folded: { AUDIT: before === null ? null : { first: before.seq, last: before.seq }, SIGNALS: null },
      input,
      rejected: rejected.map(({ option, why }) => ({ option, why })),
    },
  };
}

/** An observation as a word on the endpoint, from where its observer stands. */
export function voteOf(observation: Observation, zone: string | null): Vote {
  return {
    observer: observation.observer,
    kind: "prober",
    verdict: isAlive(observation.outcome) ? "healthy" : "unhealthy",
    outcome: observation.outcome,
    code: observation.code,
    atMs: Math.ceil(observation.startedAtMs + observation.responseTimeMs),
    responseTimeMs: observation.responseTimeMs,
    ...(zone === null ? {} : { zone }),
    ref: null,
  };
}
