import type { BreakerStatus, HealthStatus } from "@mcp-failover/contracts";
import type { Testimony, WeighedVote } from "./evidence.ts";
import { type CallsHeard, judgeCalls } from "./failover-calls.ts";
import type { FailoverPolicy } from "./policy.ts";

/**
 * How far the word of the observers goes: whether an endpoint has failed, and whether another is proven.
 * The invariants F2 to F5 of `failover.ts` are kept here.
 */
export type EndpointSlice = { name: string; tier: number; role: "write" | "read" };
export type HealthSlice = {
  status: HealthStatus;
  sinceMs: number;
  heldDownUntilMs: number | null;
  /** Changes between up and down within `flapWindowMs`. */
  flaps?: number;
};

export type ProofContext = {
  policy: FailoverPolicy & { confirmTimeoutMs: number };
  evidence: Record<string, Testimony>;
  health: Record<string, HealthSlice>;
  breakers: Record<string, BreakerStatus>;
  /** Since when those breakers are open that are. */
  opened?: Record<string, number>;
  /** Observers that can reach nothing while others can: `prober:a`. */
  suspects: string[];
  /** Endpoints in maintenance. */
  maintained?: Record<string, { name: string; untilMs: number }>;
  /** By endpoint, how calls of the routers ended there lately; absent: none says that any fail. */
  calls?: CallsHeard;
  clock: { tilted: boolean; freshAfterSeq: number };
  nowMs: number;
};

export type Suspicion =
  | { readonly kind: "none"; readonly proven: boolean }
  | { readonly kind: "suspected"; readonly sinceMs: number | null; readonly why: string; readonly answered: boolean }
  | {
      readonly kind: "failed";
      readonly sinceMs: number;
      readonly rule: "majority_unhealthy" | "lone_observer_confirmed" | "breaker_forced_open" | "calls_failing";
      readonly why: string;
    };

const keyOf = (vote: WeighedVote): string => `${vote.kind}:${vote.observer}`;

/** A vote that may move something: fresh, after whatever the decider slept through, of an observer that is not suspect itself. */
function isUsable(vote: WeighedVote, context: ProofContext, afterMs: number, afterSeq = 0): boolean {
  return (
    vote.verdict !== "unknown" &&
    context.nowMs - vote.atMs <= context.policy.evidenceFreshMs &&
    vote.atMs > afterMs &&
    (vote.ref?.seq ?? 0) > Math.max(context.clock.freshAfterSeq, afterSeq) &&
    !context.suspects.includes(keyOf(vote))
  );
}

/** What the observers say of an endpoint in use, with votes after `afterMs` only (F2, F3, F4). */
export function weighActive(endpoint: string, context: ProofContext, afterMs: number): Suspicion {
  const { observers, votes } = context.evidence[endpoint] ?? { observers: [], votes: [] };
  const usable = votes.filter((vote) => isUsable(vote, context, afterMs));
  const against = usable.filter((vote) => vote.verdict === "unhealthy");
  if (against.length === 0) {
    const provenAtMs = Math.max(-1, ...usable.filter((vote) => vote.verdict === "healthy").map((vote) => vote.atMs));
    const probes = usable.filter((vote) => vote.kind === "prober" && vote.verdict === "healthy");
    const hint = hintOf(endpoint, context, provenAtMs, Math.max(-1, ...probes.map((vote) => vote.atMs)));
    if (hint === null) return { kind: "none", proven: provenAtMs >= 0 };
    return { kind: "suspected", sinceMs: null, why: hint, answered: false };
  }
  const sinceMs = Math.max(afterMs, Math.min(...against.map((vote) => vote.hardSinceMs ?? vote.atMs)));
  const why = `${against.length} of ${observers.length} observers say it fails (${against.map((vote) => `${keyOf(vote)}: ${vote.code ?? vote.outcome}`).join(", ")})`;
  if (observers.length >= 2 && against.length * 2 > observers.length) {
    return { kind: "failed", sinceMs, rule: "majority_unhealthy", why };
  }
  if (observers.length === 1 && loneWordHolds(against[0] as WeighedVote, context)) {
    return { kind: "failed", sinceMs, rule: "lone_observer_confirmed", why: `the only observer says it twice: ${why}` };
  }
  // Who spoke before the last observer turned has to be asked again: it may have turned too.
  const turnedAtMs = Math.max(...against.map((vote) => vote.hardSinceMs ?? vote.atMs));
  const heard = new Set(usable.filter((vote) => vote.atMs >= turnedAtMs).map(keyOf));
  const probers = observers.filter((observer) => observer.startsWith("prober:") && !context.suspects.includes(observer));
  const answered = observers.length > 1 && probers.every((observer) => heard.has(observer));
  return { kind: "suspected", sinceMs, why, answered };
}

/** F19: what the routers that call it say of their calls, whatever probes say. Proof of another endpoint has to be as young as any word that counts. */
export function weighCalls(endpoint: string, context: ProofContext, afterMs: number): Suspicion | null {
  const { votes } = context.evidence[endpoint] ?? { votes: [] };
  const why = judgeCalls(
    endpoint,
    context,
    votes.filter((vote) => isUsable(vote, context, afterMs)),
  );
  if (why === null) return null;
  return { kind: "failed", sinceMs: Math.max(afterMs, context.nowMs - context.policy.evidenceFreshMs), rule: "calls_failing", why };
}

/** A lone observer: its own second probe, made for the purpose; and time enough for another observer to speak up (F3). */
function loneWordHolds(vote: WeighedVote, { policy, nowMs }: ProofContext): boolean {
  if (vote.kind !== "prober" || vote.purpose !== "confirm" || vote.hardRun < 2) return false;
  return nowMs - (vote.hardSinceMs ?? nowMs) >= policy.confirmTimeoutMs;
}

/** What others decided about it since it was proven last (-1: never): enough to ask the observers, and for nothing more. */
function hintOf(endpoint: string, { health, breakers, opened }: ProofContext, provenAtMs: number, probedAtMs: number): string | null {
  const known = health[endpoint];
  if (known?.status === "unhealthy" && known.sinceMs >= provenAtMs) return "its health is unhealthy";
  if (breakers[endpoint] !== "open") return null;
  // Answers to calls do not speak against it: it opens on slow ones too.
  return provenAtMs < 0 || probedAtMs < (opened?.[endpoint] ?? -1) ? "its breaker is open" : null;
}

export type Candidate = {
  readonly name: string;
  readonly tier: number;
  /** Null: it may be moved to. */
  readonly refusal: { readonly code: CandidateCode; readonly why: string } | null;
  /** Nothing speaks against it but that its proof has not come yet. */
  readonly pending: boolean;
};
export type CandidateCode =
  | "read_only"
  | "candidate_maintenance"
  | "candidate_held_down"
  | "candidate_unhealthy"
  | "candidate_breaker_open"
  | "candidate_calls_failing"
  | "candidate_unknown";

/**
 * Whether an endpoint may be moved to (F5): its proof is a probe made for the purpose, ended `ok`, stored at `sinceMs` or later and
 * after `afterSeq`, not contradicted by as many other observers.
 */
export function weighCandidate(endpoint: EndpointSlice, context: ProofContext, sinceMs: number, afterSeq: number): Candidate {
  const refuse = (code: CandidateCode, why: string, pending = false): Candidate => ({
    name: endpoint.name,
    tier: endpoint.tier,
    refusal: { code, why },
    pending,
  });
  if (endpoint.role === "read") return refuse("read_only", "it takes no writes (role: read)");
  const maintenance = context.maintained?.[endpoint.name];
  if (maintenance !== undefined) {
    return refuse(
      "candidate_maintenance",
      `it is in maintenance (${maintenance.name}) until ${new Date(maintenance.untilMs).toISOString()}`,
    );
  }
  const health = context.health[endpoint.name];
  if (health?.heldDownUntilMs != null && health.heldDownUntilMs > context.nowMs) {
    return refuse("candidate_held_down", `it flapped and is held down until ${new Date(health.heldDownUntilMs).toISOString()}`);
  }
  if (health?.status === "unhealthy") return refuse("candidate_unhealthy", "its health is unhealthy");
  if (context.calls !== undefined && weighCalls(endpoint.name, context, 0) !== null) {
    return refuse("candidate_calls_failing", "calls that were sent there fail too");
  }
  const breaker = context.breakers[endpoint.name];
  if (breaker === "open" || breaker === "forced_open") return refuse("candidate_breaker_open", `its breaker is ${breaker}`);

  const fromMs = Math.max(sinceMs, context.nowMs - context.policy.evidenceFreshMs);
  const { observers, votes } = context.evidence[endpoint.name] ?? { observers: [], votes: [] };
  const usable = votes.filter((vote) => isUsable(vote, context, 0, afterSeq));
  const against = usable.filter((vote) => vote.verdict === "unhealthy");
  const healthy = usable.filter((vote) => vote.verdict === "healthy");
  const proofs = healthy.filter(({ proof }) => isProof(proof, fromMs, Math.max(afterSeq, context.clock.freshAfterSeq)));
  if (proofs.length > 0 && healthy.length > against.length) {
    return { name: endpoint.name, tier: endpoint.tier, refusal: null, pending: false };
  }
  const probers = observers.filter((observer) => observer.startsWith("prober:"));
  const spoken = new Set(votes.filter((vote) => vote.atMs >= fromMs && (vote.ref?.seq ?? 0) > afterSeq).map(keyOf));
  const pending = probers.length === 0 || !probers.every((observer) => spoken.has(observer));
  if (against.length > 0) {
    return refuse(
      "candidate_unhealthy",
      `${against.length} of ${observers.length} observers say that it fails (${codesOf(against)})`,
      pending,
    );
  }
  const auth = votes.find((vote) => vote.outcome === "auth" && vote.atMs >= fromMs);
  if (auth) return refuse("candidate_unknown", `it answers ${auth.observer}, but refuses the credentials, which proves nothing`, pending);
  return refuse("candidate_unknown", "no probe made for the purpose has proven it since", pending);
}

/**
 * Whether most observers of an endpoint have proven it since `sinceMs`: a prober by a probe made for the purpose, a router, which makes
 * none, by a call of its own. Only words that may move something count, as everywhere; whoever is silent or suspect counts against it.
 */
export function isProvenByMost(endpoint: string, context: ProofContext, sinceMs: number): boolean {
  const fromMs = Math.max(sinceMs, context.nowMs - context.policy.evidenceFreshMs);
  const { observers, votes } = context.evidence[endpoint] ?? { observers: [], votes: [] };
  const proven = votes.filter((vote) => {
    if (vote.verdict !== "healthy" || !isUsable(vote, context, 0)) return false;
    return vote.kind === "router" ? vote.atMs >= fromMs : isProof(vote.proof, fromMs, context.clock.freshAfterSeq);
  });
  return proven.length * 2 > observers.length;
}

function isProof(proof: WeighedVote["proof"], fromMs: number, afterSeq: number): boolean {
  return proof !== null && proof.atMs >= fromMs && proof.seq > afterSeq;
}

const codesOf = (votes: readonly WeighedVote[]): string => votes.map((vote) => `${keyOf(vote)}: ${vote.code ?? vote.outcome}`).join(", ");
