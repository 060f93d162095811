import type { HealthState, Observation, Vote } from "@mcp-failover/contracts";
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
 * H7  `auth` and `soft` are answers: they never count for a fall. So many of one in a row make degraded, with their own cause.
 * H8  It rises only after `successesUp` answers in a row.
 * H9  A result that began before one already counted changes nothing: a hung probe's late end says nothing about now.
 * H10 Equal inputs give equal decisions; nothing but the input is read, and it is not altered.
 * H11 The score is between 0 and 1, and 0 while unhealthy.
 *
 * Score: a moving average (`scoreWeight`) of what each result is worth: a good answer 1 less its share of the time-out, rate limited at
 * most 0.6, credentials refused at most 0.4 (both above the router's 0.3: alive), a hard failure 0.
 */
export type HealthEvidence = Pick<Observation, "startedAtMs" | "responseTimeMs" | "outcome" | "code" | "purpose">;

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
}

export type HealthRule =
  | "rise"
  | "fall"
  | "flap_hold"
  | "silence"
  | "credentials_refused"
  | "rate_limited"
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

/** Decides the health of one endpoint (H1 to H11). Pure. */
export function decideHealth(input: HealthInput): HealthDecision {
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
  const against = observersAgainst(input.votes);
  if (against * 2 <= asked) {
    return keep(
      "no_majority",
      `${failures}, but only ${against} of ${asked} observers agree`,
      seen,
      reject(`${against} of ${asked} agree`),
    );
  }
  const changes = countChange(before, "down", policy, nowMs);
  const flapping = policy.holdDownMs > 0 && before.side === "up" && changes.length >= policy.flapChanges;
  const heldDownUntilMs = flapping ? Math.max(nowMs + policy.holdDownMs, before.heldDownUntilMs ?? 0) : before.heldDownUntilMs;
  const reason = `${failures}; ${against} of ${asked} observers agree`;
  return change(flapping ? "flap_hold" : "fall", flapping ? `${reason}; ${changes.length} changes, held down` : reason, {
    ...seen,
    status: "unhealthy",
    side: "down",
    cause: null,
    score: 0,
    sinceMs: nowMs,
    changesAtMs: changes,
    heldDownUntilMs,
  });
}

function decideRise(input: HealthInput, before: HealthState, seen: HealthState): HealthDecision {
  const { policy, nowMs } = input;
  if (before.heldDownUntilMs !== null && nowMs < before.heldDownUntilMs) {
    const why = `held down until ${new Date(before.heldDownUntilMs).toISOString()}`;
    return keep("held_down", `answers again, but ${why}`, seen, [{ option: "healthy", why }]);
  }
  const cause = (seen.impairedRun ?? 0) > 0 ? (seen.cause ?? null) : null;
  return change("rise", `${seen.okRun} answers in a row${cause === null ? "" : `; ${causeText[cause]}`}`, {
    ...seen,
    status: cause === null ? "healthy" : "degraded",
    side: "up",
    cause,
    sinceMs: nowMs,
    changesAtMs: countChange(before, "up", policy, nowMs),
    heldDownUntilMs: null,
  });
}

const causeText = { auth: "it refuses our credentials", soft: "it limits our rate" } as const;
const causeRule = { auth: "credentials_refused", soft: "rate_limited" } as const;

/** Between healthy and degraded: both are up, so neither observers nor the hold-down are asked. */
function decideImpairment(input: HealthInput, before: HealthState, seen: HealthState): HealthDecision {
  const { policy, nowMs } = input;
  const cause = seen.cause ?? null;
  if (cause !== null && (seen.impairedRun ?? 0) >= policy.successesUp && (before.status === "healthy" || before.cause !== cause)) {
    const sinceMs = before.status === "degraded" ? before.sinceMs : nowMs;
    return change(causeRule[cause], causeText[cause], { ...seen, status: "degraded", side: "up", sinceMs });
  }
  if (before.status === "degraded" && (seen.wellRun ?? 0) >= policy.successesUp) {
    return change("cleared", `${seen.wellRun} good answers in a row`, {
      ...seen,
      status: "healthy",
      side: "up",
      cause: null,
      sinceMs: nowMs,
    });
  }
  const saidAtMs = before.lastObservedAtMs ?? before.sinceMs;
  if (Math.abs(seen.score - before.score) >= policy.scoreStep && nowMs - saidAtMs >= policy.scoreEveryMs) {
    return change("score", `the score went from ${before.score} to ${seen.score}`, { ...seen, cause: before.cause ?? null });
  }
  return keep("keep", "nothing new", seen);
}

/** What the evidence makes of the state: runs, score, usual response time. Status and hold are left as they are. */
export function foldEvidence(before: HealthState, evidence: readonly HealthEvidence[], policy: HealthPolicy): HealthState {
  let state: HealthState = before;
  let newestStartMs = Number.NEGATIVE_INFINITY;
  for (const result of evidence) {
    if (result.startedAtMs < newestStartMs) continue;
    newestStartMs = result.startedAtMs;
    const endedAtMs = Math.ceil(result.startedAtMs + result.responseTimeMs);
    const brokenOff = state.lastObservedAtMs !== null && result.startedAtMs - state.lastObservedAtMs > policy.freshMs;
    state = foldResult(brokenOff ? forgetRuns(state) : state, result, endedAtMs, policy);
  }
  return state;
}

function foldResult(state: HealthState, result: HealthEvidence, endedAtMs: number, policy: HealthPolicy): HealthState {
  const { outcome } = result;
  const worth = worthOf(result, policy);
  const score = state.lastObservedAtMs === null ? worth : state.score + policy.scoreWeight * (worth - state.score);
  const folded = { ...state, score: roundScore(score), lastObservedAtMs: endedAtMs };
  if (outcome === "hard") return { ...folded, okRun: 0, failRun: state.failRun + 1, impairedRun: 0, wellRun: 0 };
  const alive = { ...folded, okRun: state.okRun + 1, failRun: 0 };
  if (outcome === "auth" || outcome === "soft") {
    const sameCause = state.cause === outcome;
    return { ...alive, impairedRun: (sameCause ? (state.impairedRun ?? 0) : 0) + 1, wellRun: 0, cause: outcome };
  }
  const usualMs = state.usualMs ?? null;
  const newUsualMs = usualMs === null ? result.responseTimeMs : usualMs + policy.scoreWeight * (result.responseTimeMs - usualMs);
  return { ...alive, impairedRun: 0, wellRun: (state.wellRun ?? 0) + 1, usualMs: Math.round(newUsualMs * 1000) / 1000 };
}

function worthOf({ outcome, responseTimeMs }: HealthEvidence, policy: HealthPolicy): number {
  if (outcome === "hard") return 0;
  const quick = 1 - Math.min(1, responseTimeMs / policy.timeoutMs);
  return quick * (outcome === "auth" ? 0.4 : outcome === "soft" ? 0.6 : 1);
}

const roundScore = (score: number): number => Math.min(1, Math.max(0, Math.round(score * 10_000) / 10_000));

function forgetRuns(state: HealthState): HealthState {
  return { ...state, okRun: 0, failRun: 0, impairedRun: 0, wellRun: 0 };
}

function isSilent(state: HealthState, policy: HealthPolicy, nowMs: number): boolean {
  return state.lastObservedAtMs === null ? true : nowMs - state.lastObservedAtMs > policy.freshMs;
}

/** The changes between up and down inside the window with this one; from a side that was never known it is none. */
function countChange(before: HealthState, to: "up" | "down", policy: HealthPolicy, nowMs: number): number[] {
  const recent = before.changesAtMs.filter((atMs) => nowMs - atMs < policy.flapWindowMs);
  const from = before.side ?? null;
  return (from === null || from === to ? recent : [...recent, nowMs]).slice(-100);
}

function observersAgainst(votes: readonly Vote[]): number {
  return new Set(votes.filter((vote) => vote.verdict === "unhealthy").map((vote) => vote.observer)).size;
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
