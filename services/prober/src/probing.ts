import type { Observation } from "@mcp-failover/contracts";
import { gridSlot, type NextProbe, nextProbe, type ProberPolicy, probeTimeoutMs, slotsBetween } from "@mcp-failover/domain";
import type { HealthLog } from "./health-log.ts";
import type { Keeper } from "./keeper.ts";
import type { Limits } from "./limits.ts";
import type { ProberMetrics } from "./metrics.ts";
import type { ObservationLog } from "./observations.ts";
import type { ProbeMade, ProbeNotMade, ProbeRunner } from "./probes/run-probe.ts";
import type { SelfCheck } from "./self-check.ts";
import type { Target } from "./targets.ts";

/** What the asker of a probe wants, besides the target. */
interface ProbeOrder {
  readonly purpose: "confirm" | "requested";
  readonly requestId: string;
  readonly timeoutMs: number;
  /** False while this prober decides on the endpoint already: the result counts, but starts no second decision. */
  readonly decide: boolean;
}

/** Makes probes, on schedule and on demand, and hands what they found to the log and to the keeper. */
export interface Probing {
  /** A probe that is due; returns when the next one is, or null when the endpoint is not this prober's any more. */
  scheduled(key: string, due: NextProbe): Promise<NextProbe | null>;
  /** A probe at once, on a fresh connection. Null: nothing was learned. */
  now(target: Target, order: ProbeOrder): Promise<Observation | null>;
  /** Time-out of a confirming probe of this target. */
  confirmTimeoutMs(target: Target, askedMs?: number): number;
}

export interface ProbingOptions {
  readonly instance: string;
  readonly policy: ProberPolicy;
  readonly targets: () => ReadonlyMap<string, Target>;
  readonly runner: ProbeRunner;
  readonly limits: Limits;
  readonly keeper: Keeper;
  readonly health: HealthLog;
  readonly observations: ObservationLog;
  readonly metrics: ProberMetrics;
  readonly self: SelfCheck;
  readonly nowMs: () => number;
  /** Monotonic milliseconds. */
  readonly clockMs: () => number;
  readonly onNotMade: (target: Target, probe: ProbeNotMade) => void;
}

/** A probe under way that others may wait for too, where they mean the same server. */
interface Joint {
  readonly identity: string;
  /** On the monotonic clock. */
  readonly startedMs: number;
  readonly timeoutMs: number;
  readonly made: Promise<ProbeMade | null>;
}

/** Two who ask for the same may differ by this in how long they wait: less than the margin that an asker leaves for answers. */
const joinSlackMs = 50;

/**
 * Whether who asks at `nowMs`, and waits `timeoutMs`, is served by a probe under way: it is as patient as one of its own would be and is
 * over when that would be, so that nobody waits for a longer one, nor takes for proof what began long before the question.
 */
function serves({ startedMs, timeoutMs: lastsMs }: Joint, timeoutMs: number, nowMs: number): boolean {
  const elapsedMs = nowMs - startedMs;
  return lastsMs >= timeoutMs && elapsedMs <= timeoutMs && lastsMs - elapsedMs <= timeoutMs + joinSlackMs;
}

export function createProbing(options: ProbingOptions): Probing {
  const { limits, keeper, metrics, nowMs, runner, self } = options;
  const underWay = new Map<string, Set<Joint>>();
  const usualMs = (key: string): number | null => keeper.usualMs(key) ?? options.health.last(key)?.state?.usualMs ?? null;

  /** Null, which is counted: the configuration means another server by this name now, and nothing is said of it. */
  function record(target: Target, probe: ProbeMade, purpose: Observation["purpose"], requestId: string | null): Observation | null {
    if (options.targets().get(target.key)?.identity !== target.identity) {
      skip("reconfigured");
      return null;
    }
    const { outcome, code, error, httpStatus, era, responseTimeMs, degraded, toolsHash } = probe.result;
    const observation: Observation = {
      upstream: target.upstream,
      endpoint: target.endpoint,
      observer: options.instance,
      purpose,
      requestId,
      startedAtMs: probe.startedAtMs,
      responseTimeMs,
      outcome,
      code,
      error: error?.slice(0, 300) ?? null,
      httpStatus,
      era,
      ...(degraded === undefined ? {} : { degraded: { ...degraded, detail: degraded.detail.slice(0, 300) } }),
      ...(toolsHash === undefined ? {} : { toolsHash }),
    };
    options.observations.add(observation, purpose === "confirm" || purpose === "requested");
    return observation;
  }

  function skip(reason: string, count = 1): void {
    metrics.skipped.inc({ reason }, count);
  }

  /** Runs a probe within the limits; null: it was not made, which is counted. */
  async function run(target: Target, purpose: Observation["purpose"], timeoutMs: number): Promise<ProbeMade | null> {
    const lane = purpose === "confirm" || purpose === "requested" ? "confirm" : "scheduled";
    const refusal = limits.acquire(target.host, lane, target.critical);
    self.due(refusal === "fleet_limit");
    if (refusal !== null) {
      skip(refusal);
      return null;
    }
    const startedMs = options.clockMs();
    self.began();
    try {
      // Only a regular probe uses a kept connection; see the wire.
      const probe = await runner.probe(target, { fresh: purpose !== "scheduled", timeoutMs });
      if (probe.kind === "not_made") {
        skip(probe.reason);
        // As good as without a place: it is this prober that cannot.
        if (probe.reason === "exhausted") self.due(true);
        options.onNotMade(target, probe);
        return null;
      }
      if (probe.result.outcome !== "hard") self.answered(startedMs);
      else {
        // What may be our own failure is nobody else's, and is not said of the endpoint.
        const own = await self.blames(probe.result.code, startedMs);
        if (own !== null) {
          skip(own);
          return null;
        }
      }
      metrics.countProbe({ purpose, outcome: probe.result.outcome, code: probe.result.code ?? "" });
      return probe;
    } finally {
      self.ended();
      limits.release(target.host, lane);
    }
  }

  return {
    async scheduled(key, { atMs: dueMs, purpose }) {
      const target = options.targets().get(key);
      if (target === undefined || !keeper.owns(key)) return null;
      const { policy } = target;
      // A timer may fire a little early; the slot that it was for is not one that was missed.
      const startedMs = notBefore(dueMs, nowMs());
      const made = await run(target, purpose, probeTimeoutMs(policy, purpose, usualMs(key)));
      const endedMs = notBefore(startedMs, nowMs());
      if (purpose === "scheduled") {
        const overrun = slotsBetween(key, policy, startedMs, endedMs);
        if (overrun > 0) skip("overrun", overrun);
      }
      if (made === null) return { atMs: Math.min(gridSlot(key, policy, endedMs), endedMs + policy.downIntervalMs), purpose };
      const observation = record(target, made, purpose, null);
      if (observation === null) return keeper.owns(key) ? { atMs: endedMs, purpose: "scheduled" } : null;
      const decision = keeper.observe(key, observation);
      if (decision === null) return null;
      return nextProbe({
        key,
        policy,
        state: decision.state,
        lastOutcome: made.result.outcome,
        retryAfterMs: made.result.retryAfterMs,
        nowMs: endedMs,
      });
    },
    async now(target, { purpose, requestId, timeoutMs, decide }) {
      const { key, identity } = target;
      const startedMs = options.clockMs();
      const others = underWay.get(key) ?? new Set();
      const joined = [...others].find((joint) => joint.identity === identity && serves(joint, timeoutMs, startedMs));
      // Two who ask at the same time share one probe; each finds it under its own id, with the time at which it began.
      if (joined !== undefined) {
        const made = await joined.made;
        return made === null ? null : record(target, made, purpose, requestId);
      }
      const joint: Joint = { identity, startedMs, timeoutMs, made: run(target, purpose, timeoutMs) };
      underWay.set(key, others.add(joint));
      try {
        const made = await joint.made;
        if (made === null) return null;
        const observation = record(target, made, purpose, requestId);
        if (observation !== null) keeper.observe(key, observation, { decide });
        return observation;
      } finally {
        others.delete(joint);
        if (others.size === 0) underWay.delete(key);
      }
    },
    confirmTimeoutMs: (target, askedMs) => probeTimeoutMs(target.policy, "confirm", usualMs(target.key), askedMs ?? null),
  };
}

/** Timers and clocks agree to within this; a clock that is further behind was set back, and is right. */
const clocksAgreeMs = 250;

/** Now, but where a timer was a little early the time that it was for. A clock that was set back must not put the next probe off. */
function notBefore(atMs: number, nowMs: number): number {
  return nowMs < atMs && atMs - nowMs <= clocksAgreeMs ? atMs : nowMs;
}
