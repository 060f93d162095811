import type { HealthState, Observation, Vote } from "@mcp-failover/contracts";
import type { Maintenance } from "./maintenance.ts";
import type { HealthPolicy } from "./policy.ts";

/**
 * Whether one endpoint is well: rise and fall over its probes, agreed on with the other observers before it is called down.
 * The state before is that of the last `health.changed`; the evidence is what the deciding prober has seen since.
 *
 * H1  Fewer than `failuresDown` hard results in a row never make an endpoint unhealthy; an answer between them starts the count anew.
 * H2  Unhealthy needs a strict majority of the observers that were asked, each counted once; silence of an observer is no vote. Who is
 *     alone is its own majority only by a second probe made for the purpose.
 * H3  Silence makes unknown, never unhealthy. A run does not outlive a silence longer than `freshMs`.
 * H4  Nothing becomes unhealthy before the grace has ended.
 * H5  What is held down stays down until the hold ends, whatever its probes say and whoever decides.
 * H6  A fall that is at least the `flapChanges`-th change between up and down inside `flapWindowMs` holds down for `holdDownMs`.
 * H7  `auth`, `soft` and answers that are not as the configuration asks (`degraded`) are answers: they never count for a fall. So many
 *     of one in a row make degraded, with their own cause.
 * H8  It rises only after `successesUp` answers in a row.
 * H9  A result that began before one already counted changes nothing: a hung probe's late end says nothing about now. One that began
 *     longer before than it took itself was timed by a clock that was set back: it counts, and results are in order again from there.
 * H10 Equal inputs give equal decisions; nothing but the input is read, and it is not altered.
 * H11 The score is between 0 and 1, and 0 while unhealthy.
 * H12 What fails from one zone only, while an observer elsewhere sees it well, is never made unhealthy: it is degraded, with the zone
 *     named, until an observer of that zone sees it well again or none is left there.
 * H13 Maintenance changes no status, only what is said with it; its ups and downs are no flapping, and hold nothing down.
 * H14 A clock that was set holds nothing down for longer: a hold that ends later than the policy's longest, and changes further ahead than
 *     the window is long, were stamped by another clock and do not count.
 *
 * Score: a moving average (`scoreWeight`) of what each result is worth: a good answer 1 less its share of the time-out, rate limited at
 * most 0.6, degraded at most `degradedScoreMax`, credentials refused at most 0.4 (all above the router's 0.3: alive), a hard failure 0.
 */
export type HealthEvidence = Pick<Observation, "startedAtMs" | "responseTimeMs" | "outcome" | "code" | "purpose" | "degraded">;

export interface HealthInput {
  readonly policy: HealthPolicy;
  /** Of the last `health.changed`; null: there is none. */
  readonly state: HealthState | null;
  /** Own probes since then, as they ended. */
  readonly evidence: readonly HealthEvidence[];
  /** How many observers were asked for a confirming probe, the decider included; 0: none yet. */
  readonly asked: number;
  readonly votes: readonly Vote[];
  readonly graceUntilMs: number;
  readonly nowMs: number;
  /** The planned work that the endpoint is in; absent or null: none. */
  readonly maintenance?: Maintenance | null;
}

export type HealthRule =
  | "rise"
  | "fall"
  | "flap_hold"
  | "silence"
  | "credentials_refused"
  | "rate_limited"
  | "answers_degraded"
  | "zone_only"
  | "cleared"
  | "score"
  | "suspect"
  | "no_majority"
  | "grace"
  | "held_down"
  | "keep";

export interface HealthDecision {
  readonly rule: HealthRule;
  /** A sentence for people. */
  readonly reason: string;
  /** Whether the state is to be said in a `health.changed`. */
  readonly publish: boolean;
  /** Whether the observers have to be asked before anything can be said. */
  readonly ask: boolean;
  /** After this decision; without `publish` it is only what the evidence amounts to so far. */
  readonly state: HealthState;
  readonly rejected: readonly { readonly option: string; readonly why: string }[];
}

/** What is known of an endpoint that nobody has probed. */
export function initialHealthState(nowMs: number): HealthState {
  return {
    status: "unknown",
    score: 0.5,
    sinceMs: nowMs,
    okRun: 0,
    failRun: 0,
    changesAtMs: [],
    heldDownUntilMs: null,
    lastObservedAtMs: null,
    impairedRun: 0,
    wellRun: 0,
    cause: null,
    side: null,
    usualMs: null,
  };
}

/** How many of the newest results a decision needs; older ones may be forgotten. 16 leave 0.3 % of the score before them. */
export function evidenceMax(policy: Pick<HealthPolicy, "failuresDown" | "successesUp">): number {
  return Math.max(16, policy.failuresDown, policy.successesUp);
}

/** Whether an outcome is an answer of something that lives. */
export function isAlive(outcome: Observation["outcome"]): boolean {
  return outcome !== "hard";
}

/** Decides the health of one endpoint (H1 to H13). Pure. */
export function decideHealth(input: HealthInput): HealthDecision {
  const decision = decide(input);
  const { maintenance } = input;
  if (!decision.publish || maintenance == null) return decision;
  return { ...decision, reason: `${decision.reason}; in maintenance ${maintenance.name} (${maintenance.reason})` };
}

function decide(input: HealthInput): HealthDecision {
  const { policy, nowMs } = input;
  const before = input.state ?? initialHealthState(nowMs);
  const seen = foldEvidence(before, input.evidence, policy);

  if (isSilent(seen, policy, nowMs)) {
    if (before.status === "unknown") return keep("keep", "no fresh result", seen);
    return change("silence", `no result for over ${policy.freshMs} ms`, { ...forgetRuns(seen), status: "unknown", sinceMs: nowMs });
  }
  if (seen.failRun >= policy.failuresDown && before.status !== "unhealthy") return decideFall(input, before, seen);
  if (seen.okRun >= policy.successesUp && (before.status === "unhealthy" || before.status === "unknown")) {
    return decideRise(input, before, seen);
  }
  if (before.status === "healthy" || before.status === "degraded") return decideImpairment(input, before, seen);
  return keep("keep", "nothing new", seen);
}

function decideFall(input: HealthInput, before: HealthState, seen: HealthState): HealthDecision {
  const { policy, nowMs, asked } = input;
  const failures = `${seen.failRun} failures in a row`;
  if (nowMs < input.graceUntilMs)
    return keep("grace", `${failures}, within the grace after start`, seen, reject("the grace has not ended"));
  if (asked === 0)
    return { ...keep("suspect", `${failures}; the observers have to confirm`, seen, reject("not confirmed yet")), ask: true };
  const zone = zoneAgainst(input.votes);
  if (zone !== null) return decideZone(input, before, seen, failures, zone);
  const against = observersAgainst(input.votes);
  if (against * 2 <= asked) {
    return keep(
      "no_majority",
      `${failures}, but only ${against} of ${asked} observers agree`,
      seen,
      reject(`${against} of ${asked} agree`),
    );
  }
  const changes = countChange(before, "down", input);
  const flapping = input.maintenance == null && policy.holdDownMs > 0 && before.side === "up" && changes.length >= policy.flapChanges;
  const held = holdInForce(before, policy, nowMs);
  const heldDownUntilMs = flapping ? Math.max(nowMs + policy.holdDownMs, held ?? 0) : held;
  const reason = `${failures}; ${against} of ${asked} observers agree`;
  return change(flapping ? "flap_hold" : "fall", flapping ? `${reason}; ${changes.length} changes, held down` : reason, {
    ...seen,
    status: "unhealthy",
    side: "down",
    ...noCause,
    score: 0,
    sinceMs: nowMs,
    changesAtMs: changes,
    heldDownUntilMs,
  });
}

const noCause = { cause: null, causeCode: null, failingZone: null } as const;

/** H12. Of what nobody has proven yet nothing is said. */
function decideZone(input: HealthInput, before: HealthState, seen: HealthState, failures: string, found: ZoneAgainst): HealthDecision {
  const { zone, against, wellElsewhere } = found;
  const why = `only from the zone ${zone} (${against} there); ${wellElsewhere} elsewhere see it well`;
  const said = before.status === "degraded" && before.cause === "zone" && before.failingZone === zone;
  if (said || before.status === "unknown") return keep("zone_only", `${failures}, but ${why}`, seen, reject(why));
  return {
    ...change("zone_only", `${failures}, but ${why}`, {
      ...seen,
      status: "degraded",
      side: "up",
      cause: "zone",
      causeCode: null,
      failingZone: zone,
      score: Math.max(seen.score, input.policy.zoneScoreMin),
      sinceMs: before.status === "degraded" ? before.sinceMs : input.nowMs,
    }),
    rejected: reject(why),
  };
}

function decideRise(input: HealthInput, before: HealthState, seen: HealthState): HealthDecision {
  const { nowMs } = input;
  const heldUntilMs = holdInForce(before, input.policy, nowMs);
  if (heldUntilMs !== null) {
    const why = `held down until ${new Date(heldUntilMs).toISOString()}`;
    return keep("held_down", `answers again, but ${why}`, seen, [{ option: "healthy", why }]);
  }
  const cause = (seen.impairedRun ?? 0) > 0 ? (seen.cause ?? null) : null;
  return change("rise", `${seen.okRun} answers in a row${cause === null ? "" : `; ${textOf(cause, input.evidence)}`}`, {
    ...seen,
    ...(cause === null ? noCause : { cause, failingZone: null }),
    status: cause === null ? "healthy" : "degraded",
    side: "up",
    sinceMs: nowMs,
    changesAtMs: countChange(before, "up", input),
    heldDownUntilMs: null,
  });
}

const causeRule = { auth: "credentials_refused", soft: "rate_limited", degraded: "answers_degraded", zone: "zone_only" } as const;

/** What the newest result of this cause says. */
function textOf(cause: keyof typeof causeRule, evidence: readonly HealthEvidence[]): string {
  if (cause === "auth") return "it refuses our credentials";
  if (cause === "soft") return "it limits our rate";
  const found = evidence.findLast(({ degraded }) => degraded != null)?.degraded;
  return found == null ? "it answers, but not as it should" : `${found.code}: ${found.detail}`;
}

/** Between healthy and degraded: both are up, so neither observers nor the hold-down are asked. */
function decideImpairment(input: HealthInput, before: HealthState, seen: HealthState): HealthDecision {
  const { policy, nowMs } = input;
  const cause = seen.cause ?? null;
  const isNew = before.status === "healthy" || before.cause !== cause || (before.causeCode ?? null) !== (seen.causeCode ?? null);
  if (cause !== null && (seen.impairedRun ?? 0) >= policy.successesUp && isNew) {
    const sinceMs = before.status === "degraded" ? before.sinceMs : nowMs;
    return change(causeRule[cause], textOf(cause, input.evidence), {
      ...seen,
      status: "degraded",
      side: "up",
      sinceMs,
      failingZone: null,
    });
  }
  if (before.status === "degraded" && (seen.wellRun ?? 0) >= policy.successesUp) {
    const zone = before.cause === "zone" ? (before.failingZone ?? null) : null;
    // Seen well from here says nothing of that zone: it is asked (H12).
    if (zone !== null && input.asked === 0) return { ...keep("suspect", `well here; the zone ${zone} has to say so too`, seen), ask: true };
    if (zone !== null && zoneAgainst(input.votes)?.zone === zone) return keep("zone_only", `still failing from the zone ${zone}`, seen);
    return change("cleared", `${seen.wellRun} good answers in a row`, {
      ...seen,
      ...noCause,
      status: "healthy",
      side: "up",
      sinceMs: nowMs,
    });
  }
  const saidAtMs = before.lastObservedAtMs ?? before.sinceMs;
  if (Math.abs(seen.score - before.score) >= policy.scoreStep && nowMs - saidAtMs >= policy.scoreEveryMs) {
    return change("score", `the score went from ${before.score} to ${seen.score}`, {
      ...seen,
      cause: before.cause ?? null,
      causeCode: before.causeCode ?? null,
    });
  }
  return keep("keep", "nothing new", seen);
}

/** A result is heard so long after its end at most, by a prober that is busy. */
const heardLateMsMax = 2000;

/** What the evidence makes of the state: runs, score, usual response time. Status and hold are left as they are. */
export function foldEvidence(before: HealthState, evidence: readonly HealthEvidence[], policy: HealthPolicy): HealthState {
  // One copy for all results: a fleet's probers fold thousands of them a second.
  const state = { ...before };
  let newestStartMs = Number.NEGATIVE_INFINITY;
  for (const result of evidence) {
    const behindMs = newestStartMs - result.startedAtMs;
    if (behindMs > 0 && behindMs <= result.responseTimeMs + heardLateMsMax) continue;
    newestStartMs = result.startedAtMs;
    if (state.lastObservedAtMs !== null && result.startedAtMs - state.lastObservedAtMs > policy.freshMs) Object.assign(state, noRuns);
    foldResult(state, result, policy);
  }
  return state;
}

const noRuns = { okRun: 0, failRun: 0, impairedRun: 0, wellRun: 0 } as const;

/** Changes the state. */
function foldResult(state: HealthState, result: HealthEvidence, policy: HealthPolicy): void {
  const { outcome, responseTimeMs, degraded } = result;
  const worth = worthOf(result, policy);
  state.score = roundScore(state.lastObservedAtMs === null ? worth : state.score + policy.scoreWeight * (worth - state.score));
  state.lastObservedAtMs = Math.ceil(result.startedAtMs + responseTimeMs);
  if (outcome === "hard") {
    state.okRun = 0;
    state.failRun += 1;
    state.impairedRun = 0;
    state.wellRun = 0;
    return;
  }
  state.okRun += 1;
  state.failRun = 0;
  if (outcome === "auth" || outcome === "soft") {
    foldImpaired(state, outcome, null);
    return;
  }
  if (degraded != null) foldImpaired(state, "degraded", degraded.code);
  else {
    state.impairedRun = 0;
    state.wellRun = (state.wellRun ?? 0) + 1;
  }
  const usualMs = state.usualMs ?? null;
  const newUsualMs = usualMs === null ? responseTimeMs : usualMs + policy.scoreWeight * (responseTimeMs - usualMs);
  state.usualMs = Math.round(newUsualMs * 1000) / 1000;
}

/** Changes the state. */
function foldImpaired(state: HealthState, cause: "auth" | "soft" | "degraded", causeCode: string | null): void {
  const sameCause = state.cause === cause && (state.causeCode ?? null) === causeCode;
  state.impairedRun = (sameCause ? (state.impairedRun ?? 0) : 0) + 1;
  state.wellRun = 0;
  state.cause = cause;
  state.causeCode = causeCode;
}

function worthOf({ outcome, responseTimeMs, degraded }: HealthEvidence, policy: HealthPolicy): number {
  if (outcome === "hard") return 0;
  const quick = (1 - Math.min(1, responseTimeMs / policy.timeoutMs)) * (degraded == null ? 1 : policy.degradedScoreMax);
  return quick * (outcome === "auth" ? 0.4 : outcome === "soft" ? 0.6 : 1);
}

const roundScore = (score: number): number => Math.min(1, Math.max(0, Math.round(score * 10_000) / 10_000));

function forgetRuns(state: HealthState): HealthState {
  return { ...state, ...noRuns };
}

function isSilent(state: HealthState, policy: HealthPolicy, nowMs: number): boolean {
  return state.lastObservedAtMs === null ? true : nowMs - state.lastObservedAtMs > policy.freshMs;
}

/** The changes between up and down inside the window with this one; from a side that was never known it is none. */
function countChange(before: HealthState, to: "up" | "down", { policy, nowMs, maintenance }: HealthInput): number[] {
  const recent = before.changesAtMs.filter((atMs) => Math.abs(nowMs - atMs) < policy.flapWindowMs);
  const from = before.side ?? null;
  return (from === null || from === to || maintenance != null ? recent : [...recent, nowMs]).slice(-100);
}

/** H14. Until when it is held down; null: it is not. */
function holdInForce({ heldDownUntilMs }: HealthState, { holdDownMs }: HealthPolicy, nowMs: number): number | null {
  return heldDownUntilMs !== null && nowMs < heldDownUntilMs && heldDownUntilMs - nowMs <= holdDownMs ? heldDownUntilMs : null;
}

function observersAgainst(votes: readonly Vote[]): number {
  return new Set(votes.filter((vote) => vote.verdict === "unhealthy").map((vote) => vote.observer)).size;
}

interface ZoneAgainst {
  readonly zone: string;
  readonly against: number;
  readonly wellElsewhere: number;
}

/** The one named zone whose observers are alone in seeing it fail, most of them, while at least one elsewhere sees it well. */
function zoneAgainst(votes: readonly Vote[]): ZoneAgainst | null {
  const against = votes.filter(({ verdict }) => verdict === "unhealthy");
  const zone = against[0]?.zone ?? null;
  if (zone === null || against.some((vote) => vote.zone !== zone)) return null;
  const wellElsewhere = new Set(votes.filter((vote) => vote.verdict === "healthy" && vote.zone !== zone).map(({ observer }) => observer))
    .size;
  const wellThere = new Set(votes.filter((vote) => vote.verdict === "healthy" && vote.zone === zone).map(({ observer }) => observer)).size;
  const againstThere = observersAgainst(against);
  return wellElsewhere === 0 || againstThere <= wellThere ? null : { zone, against: againstThere, wellElsewhere };
}

function change(rule: HealthRule, reason: string, state: HealthState): HealthDecision {
  return { rule, reason, publish: true, ask: false, state, rejected: [] };
}

function keep(rule: HealthRule, reason: string, state: HealthState, rejected: HealthDecision["rejected"] = []): HealthDecision {
  return { rule, reason, publish: false, ask: false, state, rejected };
}

function reject(why: string): HealthDecision["rejected"] {
  return [{ option: "unhealthy", why }];
}
