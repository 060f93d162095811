import type { BreakerStatus, HealthStatus } from "@mcp-failover/contracts";
import { type BalancingCandidate, type BalancingStrategy, pickEndpoint } from "./balancing.ts";
import { defaultPolicy, type RouterPolicy } from "./policy.ts";
import type { Safety } from "./retry.ts";
import { fractionOf } from "./string-hash.ts";

/**
 * Which endpoint a call goes to next (design, "Words", "Failover", "Balancing"). The shell asks again after every failed attempt, with what
 * it has tried by then, so that each answer is made from the present state.
 *
 * Invariants, cited by the tests:
 * T1  In `active_standby` a call that may write goes to the active endpoint or nowhere; an endpoint with `role: read` never gets one.
 * T2  An endpoint that is forced open, or that cannot be used (its secret is missing), gets nothing, not even in panic.
 * T3  Outside of panic an unhealthy, open or ejected endpoint gets nothing as long as the call may go to another one that is not.
 * T4  Panic: when every endpoint that the call may go to is out, they are tried all the same, the one whose last failure is oldest first.
 *     In `pool`, also when under half are healthy and all tiers together cannot carry the calls: then health is not believed.
 * T5  A sticky session's call goes to the endpoint that holds the session or nowhere.
 * T6  No endpoint is proposed more than twice for one call, and twice only when it still lets calls through.
 * T7  Routes are ordered by (generation, epoch): an older one is never applied.
 * T9  A half-open endpoint gets no more calls of this process than the fleet's breaker lets it make (G2), not even in panic: such a call
 *     goes elsewhere or waits a moment for the verdict or, where it may not, ends with that reason. An endpoint that asked to be left alone gets what has
 *     nowhere else to go.
 * T10 Calls stay in the zone of their router as far as what is there is healthy enough for them; nothing gets a call for its zone alone that it
 *     would not get otherwise.
 * T8  In `pool` a tier gets calls beyond the active one only as far as the active one is not healthy enough for all.
 */
export interface RouteEndpoint extends BalancingCandidate {
  readonly tier: number;
  readonly role: "write" | "read";
  readonly zone?: string | null;
  /** False: it cannot be called at all, for example because its secret is missing. */
  readonly usable: boolean;
  readonly health: HealthStatus;
  readonly breaker: BreakerStatus;
  /** The fleet's breaker lets this process send a call now; see `breakerGate`. */
  readonly breakerAllows: boolean;
  /** It is half-open, this process has used its permit, and the verdict is due soon. */
  readonly verdictDue?: boolean;
  /** It asked to be left alone (`Retry-After`), and the time is not over. */
  readonly resting?: boolean;
  /** This process's own breaker lets a call through now. */
  readonly localAllows: boolean;
  /** Last hard failure that this process saw; null: none. */
  readonly lastFailedAtMs: number | null;
}

export interface RouteQuestion {
  readonly mode: "active_standby" | "pool";
  readonly active: string;
  readonly activeTier: number;
  readonly strategy: BalancingStrategy;
  /** Where this process stands; null: it does not matter. */
  readonly zone?: string | null;
  readonly safety: Safety;
  readonly sessions: "stateless" | "replayable" | "sticky";
  readonly sessionEndpoint: string | null;
  /** Names in the order of the attempts made; an endpoint tried twice stands there twice. */
  readonly tried: readonly string[];
  /** The last attempt failed in a way that another attempt at the same endpoint may cure. */
  readonly again: boolean;
  /** A write that the active endpoint cannot take may wait for the fleet to move it. */
  readonly mayWait: boolean;
  /** The call may wait a moment for what becomes of a half-open breaker. */
  readonly mayWaitVerdict?: boolean;
  /** In the order of the configuration. */
  readonly endpoints: readonly RouteEndpoint[];
  /** In [0, 1). */
  readonly random: number;
  readonly turn: number;
  readonly nowMs: number;
}

export type RouteRule =
  | "active"
  | "standby"
  | "session"
  | "balanced"
  | "spill_over"
  | "unproven"
  | "again"
  | "panic"
  /** No endpoint: the write waits for the next epoch, or the call for the verdict on a half-open breaker. */
  | "wait"
  /** No endpoint: the only one that is left is half-open, and this process has used its permit. */
  | "half_open"
  /** No endpoint: all were tried, or none may be. */
  | "none_left"
  /** No endpoint: the breaker of the active one is open, and others may not take a write. */
  | "breaker_open"
  /** No endpoint: the sticky session's endpoint is gone, or is not the active one any more. */
  | "session_lost";

export interface RoutePlan {
  readonly endpoint: string | null;
  readonly rule: RouteRule;
}

export type RoutePolicy = Pick<RouterPolicy, "scoreMin" | "slowStartMs" | "panicRatio">;

/** Envoy: a tier that is 72 % healthy still takes all calls. */
const overprovisioning = 1.4;

/** The next endpoint for a call, or none and why. */
export function planRoute(question: RouteQuestion, policy: RoutePolicy = defaultPolicy.router): RoutePlan {
  if (question.sessions === "sticky" && question.sessionEndpoint !== null) return planSticky(question, question.sessionEndpoint);
  if (question.mode === "pool") return planPool(question, policy);
  return question.safety === "read_only" ? planRead(question, policy) : planWrite(question);
}

/** What stands between a call and an endpoint. `out` is given up in panic, `barred` never. */
export type Availability = "good" | "unproven" | "out" | "barred";

/** `scoreMin`: null for a write to the active endpoint, which has nowhere better to go. */
export function availabilityOf(endpoint: RouteEndpoint, scoreMin: number | null): Availability {
  if (!endpoint.usable || endpoint.breaker === "forced_open") return "barred";
  if (endpoint.health === "unhealthy" || !endpoint.breakerAllows) return "out";
  if (isEjected(endpoint)) return "out";
  if (endpoint.resting === true && scoreMin !== null) return "out";
  if (endpoint.health === "unknown") return "unproven";
  return scoreMin !== null && endpoint.score < scoreMin ? "out" : "good";
}

/** "disabled" and "metrics_only" are an operator's word that no breaker may stop calls, this process's own included. */
function isEjected({ localAllows, breaker }: RouteEndpoint): boolean {
  return !localAllows && breaker !== "disabled" && breaker !== "metrics_only";
}

/** One sentence on why an endpoint gets no calls, or null where it may get some. For error messages and `mcpf why`. */
export function whyNot(endpoint: RouteEndpoint, policy: RoutePolicy = defaultPolicy.router): string | null {
  if (!endpoint.usable) return "cannot be used: a secret that it needs is missing";
  if (endpoint.breaker === "forced_open") return "its breaker is forced open";
  if (endpoint.health === "unhealthy") return "unhealthy";
  if (!endpoint.breakerAllows)
    return `its breaker is ${endpoint.breaker === "half_open" ? "half open, without a permit for this router" : "open"}`;
  if (isEjected(endpoint)) return "it refused or failed calls just now";
  if (endpoint.resting === true) return "it asked to be left alone for a while (Retry-After)";
  return availabilityOf(endpoint, policy.scoreMin) === "out" ? `its score is under ${policy.scoreMin}` : null;
}

const plan = (endpoint: string | null, rule: RouteRule): RoutePlan => ({ endpoint, rule });

/** Neither good enough to be preferred nor forbidden: how often a call has been there decides. */
function triesOf(question: RouteQuestion, name: string): number {
  let count = 0;
  for (const tried of question.tried) if (tried === name) count += 1;
  return count;
}

const lets = (availability: Availability): boolean => availability === "good" || availability === "unproven";

function planSticky(question: RouteQuestion, holder: string): RoutePlan {
  const endpoint = question.endpoints.find(({ name }) => name === holder);
  if (endpoint === undefined) return plan(null, "session_lost");
  const writes = question.safety !== "read_only";
  if (writes && (endpoint.role === "read" || (question.mode === "active_standby" && holder !== question.active))) {
    return plan(null, "session_lost");
  }
  const availability = availabilityOf(endpoint, null);
  const tries = triesOf(question, holder);
  if (availability === "barred") return plan(null, "none_left");
  if (tries === 0 && endpoint.verdictDue === true) return awaitVerdict(question);
  if (tries === 0) return plan(holder, lets(availability) ? "session" : "panic");
  return tries === 1 && question.again && lets(availability) ? plan(holder, "again") : plan(null, "none_left");
}

function planWrite(question: RouteQuestion): RoutePlan {
  const active = question.endpoints.find(({ name }) => name === question.active);
  if (active === undefined || active.role === "read") return plan(null, question.mayWait ? "wait" : "none_left");
  const tries = triesOf(question, active.name);
  const availability = availabilityOf(active, null);
  if (lets(availability)) {
    if (tries === 0) return plan(active.name, availability === "good" ? "active" : "unproven");
    // An endpoint that lets calls through is not about to be moved away from: waiting for that would be in vain.
    return tries === 1 && question.again ? plan(active.name, "again") : plan(null, "none_left");
  }
  if (question.mayWait) return plan(null, "wait");
  if (availability === "barred" || tries > 0) return plan(null, "none_left");
  if (active.verdictDue === true) return awaitVerdict(question);
  // An open breaker sheds load, and a write into it would most likely end as "outcome unknown"; where nothing else is up either, it is panic.
  if (!active.breakerAllows && question.endpoints.some((other) => lets(availabilityOf(other, null)))) return plan(null, "breaker_open");
  return plan(active.name, "panic");
}

function planRead(question: RouteQuestion, policy: RoutePolicy): RoutePlan {
  let good: RouteEndpoint | null = null;
  let unproven: RouteEndpoint | null = null;
  for (const endpoint of question.endpoints) {
    if (triesOf(question, endpoint.name) > 0) continue;
    const availability = availabilityOf(endpoint, policy.scoreMin);
    // Unknown is not unhealthy: the active endpoint keeps its reads when nobody has looked at it lately.
    if (endpoint.name === question.active && lets(availability)) return plan(endpoint.name, "active");
    if (availability === "good" && isBefore(endpoint, good, question)) good = endpoint;
    if (availability === "unproven" && isBefore(endpoint, unproven, question)) unproven = endpoint;
  }
  if (good !== null) return plan(good.name, "standby");
  if (unproven !== null) return plan(unproven.name, "unproven");
  return planLast(question, question.endpoints, policy);
}

/** By tier, then those of the own zone, then in the order of the configuration. */
function isBefore(one: RouteEndpoint, other: RouteEndpoint | null, question: RouteQuestion): boolean {
  if (other === null || one.tier !== other.tier) return other === null || one.tier < other.tier;
  return isNear(one, question) && !isNear(other, question);
}

const isNear = ({ zone }: RouteEndpoint, question: RouteQuestion): boolean => zone != null && zone === question.zone;

function planPool(question: RouteQuestion, policy: RoutePolicy): RoutePlan {
  const allowed = question.endpoints.filter(
    (endpoint) => (question.safety === "read_only" || endpoint.role === "write") && availabilityOf(endpoint, null) !== "barred",
  );
  const isGood = (endpoint: RouteEndpoint) => availabilityOf(endpoint, policy.scoreMin) === "good";
  const isOpen = (endpoint: RouteEndpoint) => triesOf(question, endpoint.name) === 0;

  const session = question.sessionEndpoint === null ? undefined : allowed.find(({ name }) => name === question.sessionEndpoint);
  if (session !== undefined && isOpen(session) && isGood(session)) return plan(session.name, "session");

  const tiers = tiersOf(allowed, question.activeTier);
  const shares = tiers.map((tier) => {
    const inTier = allowed.filter((endpoint) => endpoint.tier === tier);
    return Math.min(1, (overprovisioning * inTier.filter(isGood).length) / inTier.length);
  });
  const capacity = shares.reduce((sum, share) => sum + share, 0);
  // Envoy: health is ignored only where all tiers together cannot carry the traffic, and most of the group looks dead.
  if (capacity < 1 && allowed.length > 0 && allowed.filter(isGood).length / allowed.length < policy.panicRatio) {
    const able = allowed.filter((endpoint) => isOpen(endpoint) && !isEjected(endpoint) && endpoint.verdictDue !== true);
    const picked = pickFrom(able, question, true, policy);
    if (picked !== null) return plan(picked.name, isGood(picked) ? "balanced" : "panic");
    return planLast(question, allowed, policy);
  }
  const drawn = drawTier(tiers, shares, Math.min(1, capacity), question.random);
  for (const tier of drawn === null ? tiers : [drawn, ...tiers.filter((other) => other !== drawn)]) {
    const inTier = allowed.filter((endpoint) => endpoint.tier === tier);
    const able = nearest(
      inTier,
      inTier.filter((endpoint) => isOpen(endpoint) && isGood(endpoint)),
      question,
      isGood,
    );
    const picked = pickFrom(able, question, false, policy);
    if (picked !== null) return plan(picked.name, tier === question.activeTier ? "balanced" : "spill_over");
  }
  for (const tier of tiers) {
    const able = allowed.filter((endpoint) => endpoint.tier === tier && isOpen(endpoint) && availabilityOf(endpoint, null) === "unproven");
    const picked = pickFrom(able, question, true, policy);
    if (picked !== null) return plan(picked.name, "unproven");
  }
  return planLast(question, allowed, policy);
}

/** T10: those of the own zone for the share of the calls that they can carry, as tiers are filled (Envoy's zone aware routing). */
function nearest(
  inTier: readonly RouteEndpoint[],
  able: readonly RouteEndpoint[],
  question: RouteQuestion,
  isGood: (endpoint: RouteEndpoint) => boolean,
): readonly RouteEndpoint[] {
  const near = able.filter((endpoint) => isNear(endpoint, question));
  if (near.length === 0 || near.length === able.length) return able;
  const own = inTier.filter((endpoint) => isNear(endpoint, question));
  const share = (overprovisioning * own.filter(isGood).length) / own.length;
  // The tier was drawn from the first digits, and the endpoint is from later ones.
  return (question.random * 1024) % 1 < share ? near : able;
}

function awaitVerdict(question: RouteQuestion): RoutePlan {
  return plan(null, question.mayWaitVerdict === true ? "wait" : "half_open");
}

/** The last resorts: once more where calls still get through, then whatever is out, the oldest failure first. */
function planLast(question: RouteQuestion, allowed: readonly RouteEndpoint[], policy: RoutePolicy): RoutePlan {
  let again: RouteEndpoint | null = null;
  let out: RouteEndpoint | null = null;
  let awaited = false;
  for (const endpoint of allowed) {
    const tries = triesOf(question, endpoint.name);
    const availability = availabilityOf(endpoint, policy.scoreMin);
    if (tries === 1 && question.again && again === null && lets(availability)) again = endpoint;
    if (tries > 0 || availability !== "out") continue;
    if (endpoint.verdictDue === true) {
      awaited = true;
      continue;
    }
    if (out === null || (endpoint.lastFailedAtMs ?? 0) < (out.lastFailedAtMs ?? 0)) out = endpoint;
  }
  if (again !== null) return plan(again.name, "again");
  if (awaited && (out === null || question.mayWaitVerdict === true)) return awaitVerdict(question);
  return out === null ? plan(null, "none_left") : plan(out.name, "panic");
}

function pickFrom(able: readonly RouteEndpoint[], question: RouteQuestion, panic: boolean, policy: RoutePolicy): RouteEndpoint | null {
  // The tier was drawn from the first digits.
  const random = (question.random * 1_048_576) % 1;
  const { strategy, turn, nowMs } = question;
  return pickEndpoint({ strategy, candidates: able, random, turn, panic, nowMs }, policy);
}

/** The active tier, then those behind it, then those before it: going back is the fleet's decision. */
function tiersOf(endpoints: readonly RouteEndpoint[], activeTier: number): number[] {
  const rank = (tier: number) => (tier === activeTier ? -1 : tier > activeTier ? tier : tier + 1000);
  return [...new Set(endpoints.map(({ tier }) => tier))].sort((a, b) => rank(a) - rank(b));
}

/** Each tier takes its share of what the tiers before it leave (Envoy's priority loads). Null: no tier is healthy at all. */
function drawTier(tiers: readonly number[], shares: readonly number[], capacity: number, random: number): number | null {
  let left = random * capacity;
  for (const [index, tier] of tiers.entries()) {
    left -= shares[index] ?? 0;
    if (left < 0) return tier;
  }
  return null;
}

export interface RouteOrder {
  readonly generation: number;
  readonly epoch: number;
}

/** Whether a decided route replaces the one held (T7). An equal one does not: another decision under the same epoch is a forked log. */
export function isNewerRoute(decided: RouteOrder, held: RouteOrder | null): boolean {
  if (held === null) return true;
  return decided.generation > held.generation || (decided.generation === held.generation && decided.epoch > held.epoch);
}

export interface ImplementationQuestion {
  /** The tool has a legacy implementation. */
  readonly hasLegacy: boolean;
  /** The configuration switches everything to legacy. */
  readonly legacyMode: boolean;
  /** `mcpPercent` of every scope that covers the call and was ever decided on: tool, agent, system. */
  readonly mcpPercents: readonly number[];
  /** Names the call among others: equal keys get equal answers. */
  readonly callKey: string;
}

/** Which implementation serves a call. The strictest scope wins; during a ramp the call's key decides, not chance. */
export function chooseImplementation({ hasLegacy, legacyMode, mcpPercents, callKey }: ImplementationQuestion): "mcp" | "legacy" {
  if (!hasLegacy) return "mcp";
  if (legacyMode) return "legacy";
  let percent = 100;
  for (const mcpPercent of mcpPercents) percent = Math.min(percent, mcpPercent);
  if (percent >= 100) return "mcp";
  return fractionOf(callKey) * 100 < percent ? "mcp" : "legacy";
}
