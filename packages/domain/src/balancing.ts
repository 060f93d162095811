import { defaultPolicy, type RouterPolicy } from "./policy.ts";

/**
 * Which of several interchangeable endpoints gets the next call (design, "Balancing"). Randomness comes in as a number.
 *
 * Invariants, cited by the tests:
 * D1  An endpoint with a score under `scoreMin` gets nothing, unless in panic.
 * D2  The pick is one of the candidates, and there is one whenever any candidate may be picked.
 * D3  An endpoint that has just recovered gets a share that grows in a line from a tenth to its whole weight over `slowStartMs`.
 * D4  Equal arguments give an equal pick.
 */
export type BalancingStrategy = "health_weighted" | "round_robin" | "least_connections" | "peak_ewma";

export interface BalancingCandidate {
  readonly name: string;
  /** The operator's weight. */
  readonly weight: number;
  /** Health, 0 to 1. */
  readonly score: number;
  /** Calls of this process on it now. */
  readonly inFlight: number;
  /** Peak-sensitive mean of its latency; null: no call has ended yet. */
  readonly ewmaMs: number | null;
  /** When it last became healthy after having been down; null: it has been up as long as is known. */
  readonly recoveredAtMs: number | null;
}

export interface BalancingQuestion<C extends BalancingCandidate> {
  readonly strategy: BalancingStrategy;
  readonly candidates: readonly C[];
  /** In [0, 1). Both draws of "the better of two" are made from it. */
  readonly random: number;
  /** Counts calls; `round_robin` takes its turn from it. */
  readonly turn: number;
  readonly panic: boolean;
  readonly nowMs: number;
}

type BalancingPolicy = Pick<RouterPolicy, "scoreMin" | "slowStartMs">;

/** Envoy: a ramp never gives less than a tenth. */
const rampMin = 0.1;

/** Picks one, or null when every candidate is under the score. In panic health says nothing: only weights count. */
export function pickEndpoint<C extends BalancingCandidate>(
  question: BalancingQuestion<C>,
  policy: BalancingPolicy = defaultPolicy.router,
): C | null {
  const { candidates, panic } = question;
  const able = panic ? candidates : candidates.filter((candidate) => candidate.score >= policy.scoreMin);
  const only = able[0];
  if (only === undefined || able.length === 1) return only ?? null;
  switch (question.strategy) {
    case "health_weighted": {
      const one = drawByWeight(able, question.random, question, policy);
      const two = drawByWeight(able, secondOf(question.random), question, policy);
      return relativeLoad(two, question, policy) < relativeLoad(one, question, policy) ? two : one;
    }
    case "peak_ewma": {
      const first = Math.floor(question.random * able.length);
      const other = Math.floor(secondOf(question.random) * (able.length - 1));
      const one = able[first] ?? only;
      const two = able[other < first ? other : other + 1] ?? only;
      return peakCost(two, question, policy) < peakCost(one, question, policy) ? two : one;
    }
    case "least_connections":
      return least(able, question.turn, (candidate) => (candidate.inFlight + 1) / effectiveWeight(candidate, question, policy));
    case "round_robin": {
      const turn = able[question.turn % able.length] ?? only;
      // A ramping endpoint gives away the part of its turns that it may not have yet.
      if (question.random < rampOf(turn, question.nowMs, policy.slowStartMs)) return turn;
      return able[(question.turn + 1) % able.length] ?? turn;
    }
  }
}

/** Weight x health x ramp: the share that an endpoint should get (after Envoy's weighting; in panic health is ignored). */
export function effectiveWeight(
  candidate: BalancingCandidate,
  { panic, nowMs }: { readonly panic: boolean; readonly nowMs: number },
  policy: BalancingPolicy = defaultPolicy.router,
): number {
  const health = panic ? 1 : candidate.score;
  return Math.max(Number.MIN_VALUE, candidate.weight * health * rampOf(candidate, nowMs, policy.slowStartMs));
}

function rampOf({ recoveredAtMs }: BalancingCandidate, nowMs: number, slowStartMs: number): number {
  if (recoveredAtMs === null || slowStartMs <= 0) return 1;
  return Math.min(1, Math.max(rampMin, (nowMs - recoveredAtMs) / slowStartMs));
}

type Moment = Pick<BalancingQuestion<BalancingCandidate>, "panic" | "nowMs">;

/** 0 for every idle endpoint, so that the draw by weight alone decides between those. */
function relativeLoad(candidate: BalancingCandidate, moment: Moment, policy: BalancingPolicy): number {
  return candidate.inFlight / effectiveWeight(candidate, moment, policy);
}

/** Finagle: an endpoint that has answered nothing yet, and has calls out, is taken for a slow one; without calls it is tried. */
const unknownPenaltyMs = 1_000_000;

/** Finagle's peak EWMA: latency x (calls in flight + 1). */
function peakCost(candidate: BalancingCandidate, moment: Moment, policy: BalancingPolicy): number {
  const latencyMs = candidate.ewmaMs ?? (candidate.inFlight === 0 ? 0 : unknownPenaltyMs);
  return (latencyMs * (candidate.inFlight + 1)) / effectiveWeight(candidate, moment, policy);
}

/** A second number from the later digits of the first: independent of it for every use here. */
function secondOf(random: number): number {
  return (random * 65_536) % 1;
}

function drawByWeight<C extends BalancingCandidate>(able: readonly C[], random: number, moment: Moment, policy: BalancingPolicy): C {
  let sum = 0;
  for (const candidate of able) sum += effectiveWeight(candidate, moment, policy);
  let left = random * sum;
  let last: C | undefined;
  for (const candidate of able) {
    last = candidate;
    left -= effectiveWeight(candidate, moment, policy);
    if (left < 0) return candidate;
  }
  if (last === undefined) throw new RangeError("cannot draw from no candidates: give at least one");
  return last;
}

/** The least by a measure; equals are taken in turn, so that idle endpoints share. */
function least<C>(able: readonly C[], turn: number, measure: (candidate: C) => number): C | null {
  let best: C | null = null;
  let bestMeasure = Number.POSITIVE_INFINITY;
  for (let index = 0; index < able.length; index += 1) {
    const candidate = able[(index + turn) % able.length];
    if (candidate === undefined) continue;
    const value = measure(candidate);
    if (best === null || value < bestMeasure) {
      best = candidate;
      bestMeasure = value;
    }
  }
  return best;
}

/** Finagle: 10 s. */
const ewmaDecayMs = 10_000;
/** Linkerd: a 429 counts as at least 5 s, at most 300 s, of latency. */
const shedMsMin = 5000;
const shedMsMax = 300_000;

export interface PeakEwma {
  readonly valueMs: number;
  readonly atMs: number;
}

/** Adds one latency: a higher one counts at once, lower ones pull the mean down over 10 s. */
export function observeLatency(state: PeakEwma | null, latencyMs: number, nowMs: number): PeakEwma {
  if (state === null || latencyMs >= state.valueMs) return { valueMs: latencyMs, atMs: nowMs };
  const kept = Math.exp(-Math.max(0, nowMs - state.atMs) / ewmaDecayMs);
  return { valueMs: state.valueMs * kept + latencyMs * (1 - kept), atMs: Math.max(nowMs, state.atMs) };
}

/** The latency that a 429 counts as: the endpoint asks for less. */
export function shedLatencyMs(latencyMs: number, retryAfterMs: number | null): number {
  return Math.max(latencyMs, shedMsMin, Math.min(retryAfterMs ?? 0, shedMsMax));
}
