import {
  decideFailover,
  defaultPolicy,
  type FailoverDecision,
  type FailoverInput,
  type FailoverOrder,
  type WeighedVote,
} from "@mcp-failover/domain";

export const nowMs = 1_000_000_000;
export const policy: FailoverInput["policy"] = { ...defaultPolicy.failover, confirmTimeoutMs: defaultPolicy.health.confirmTimeoutMs };
export const ann = { kind: "operator", id: "ann" } as const;

export type Said = {
  outcome?: WeighedVote["outcome"];
  ageMs?: number;
  purpose?: string;
  run?: number;
  sinceMs?: number;
  proofAgeMs?: number | null;
};
/** A vote as `testimonyOn` would give it. */
export function vote(observer: string, said: Said = {}): WeighedVote {
  const { outcome = "ok", ageMs = 100, purpose = "confirm", run = 1, sinceMs = ageMs, proofAgeMs = outcome === "ok" ? ageMs : null } = said;
  const [kind, name] = observer.split(":") as ["prober" | "router", string];
  const atMs = nowMs - ageMs;
  const isFresh = ageMs <= policy.evidenceFreshMs;
  return {
    observer: name,
    kind,
    verdict: !isFresh ? "unknown" : outcome === "ok" ? "healthy" : outcome === "hard" ? "unhealthy" : "unknown",
    outcome,
    code: outcome === "hard" ? "refused" : null,
    atMs,
    responseTimeMs: 1,
    ref: { stream: "SIGNALS", seq: 1_000_000 - ageMs },
    purpose: kind === "router" ? null : purpose,
    hardRun: outcome === "hard" ? run : 0,
    hardSinceMs: outcome === "hard" ? nowMs - Math.max(sinceMs, ageMs) : null,
    proof: kind === "router" || proofAgeMs === null ? null : { atMs: nowMs - proofAgeMs, seq: 1_000_000 - proofAgeMs },
  };
}
export const three = ["prober:p1", "prober:p2", "prober:p3"];
export const allSay = (said: Said = {}, observers = three) => ({ observers, votes: observers.map((observer) => vote(observer, said)) });
export const dead = (said: Said = {}, observers = three) => allSay({ outcome: "hard", sinceMs: 500, ...said }, observers);

/** Primary dead, secondary proven, everything else allowing the move. */
export function world(more: Partial<FailoverInput> = {}): FailoverInput {
  return {
    upstream: "shop",
    mode: "active_standby",
    endpoints: [
      { name: "primary", tier: 0, role: "write" },
      { name: "secondary", tier: 1, role: "write" },
    ],
    policy,
    generation: 1,
    seenEpoch: 0,
    state: { generation: 1, epoch: 0, active: "primary", tier: 0, sinceMs: 0, held: null, moves: [] },
    evidence: { primary: dead(), secondary: allSay() },
    health: {},
    breakers: {},
    suspects: [],
    fleet: { granted: true, reason: "", expiresAtMs: nowMs + 5000 },
    command: null,
    clock: { tilted: false, freshAfterSeq: 0 },
    signals: { seq: 1_000_000, atMs: nowMs },
    gatherSinceMs: null,
    nowMs,
    ...more,
  };
}
export const ruleOf = (decision: FailoverDecision): string => `${decision.kind} ${decision.rule}`;
export const decide = (more: Partial<FailoverInput> = {}): string => ruleOf(decideFailover(world(more)));
export const moved = (at: number, automatic = true, epoch = 1) => ({ atMs: at, epoch, from: "secondary", to: "primary", automatic });
export const stateWith = (more: object): FailoverInput["state"] => ({ ...world().state, ...more });
export function order(more: Partial<Extract<FailoverOrder, { kind: "failover" }>> = {}): FailoverOrder {
  const { to = "secondary", force = false, afterSeq = 0, gatherOver = false, from } = more;
  const seen = from === undefined ? {} : { from };
  return { kind: "failover", commandId: "c", by: ann, reason: "because", to, force, afterSeq, gatherOver, ...seen };
}
