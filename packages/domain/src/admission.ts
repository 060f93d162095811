import type { AgentRate } from "@mcp-failover/contracts";

/**
 * Which calls of one upstream run, wait or are refused, and how often an agent may call (design, "Router"). One process's own limits.
 *
 * Invariants, cited by the tests:
 * Q1  At most `concurrencyMax` calls run at once, and at most `queueMax` wait; none waits while it could run.
 * Q2  Critical calls go before the others; of the same kind, who came first goes first.
 * Q3  In a full queue a critical call takes the place of the other one that came last; it is refused only where all that wait are critical.
 * Q4  Nobody is let in after its own time: the longest wait, or the deadline of its call.
 * Q5  Each call that was let in makes room for exactly one other when it ends.
 * Q6  An agent makes at most `burst` + `perSecond` x T calls in any time T, and is told when the next one will do.
 */
export interface AdmissionPolicy {
  readonly concurrencyMax: number;
  readonly queueMax: number;
  readonly queueMsMax: number;
}

interface WaitingCall {
  readonly id: number;
  readonly critical: boolean;
  readonly untilMs: number;
}

export interface Admission {
  readonly running: number;
  /** In the order in which they are let in: the critical ones first. */
  readonly waiting: readonly WaitingCall[];
}
export const nobodyAdmitted: Admission = { running: 0, waiting: [] };

export type AdmissionAnswer =
  | { readonly kind: "run" }
  /** `displaced`: who waited and is refused instead. */
  | { readonly kind: "wait"; readonly untilMs: number; readonly displaced: number | null }
  | { readonly kind: "refuse"; readonly retryAfterMs: number };

/** A call came. */
export function admitCall(
  state: Admission,
  call: { readonly id: number; readonly critical: boolean; readonly deadlineMs: number },
  policy: AdmissionPolicy,
  nowMs: number,
): { readonly state: Admission; readonly answer: AdmissionAnswer } {
  if (state.running < policy.concurrencyMax) return { state: { ...state, running: state.running + 1 }, answer: { kind: "run" } };
  const untilMs = Math.min(call.deadlineMs, nowMs + policy.queueMsMax);
  const refuse = { state, answer: { kind: "refuse", retryAfterMs: policy.queueMsMax } } as const;
  if (untilMs <= nowMs || policy.queueMax === 0) return refuse;
  const entry: WaitingCall = { id: call.id, critical: call.critical, untilMs };
  if (state.waiting.length < policy.queueMax) {
    return { state: { ...state, waiting: inserted(state.waiting, entry) }, answer: { kind: "wait", untilMs, displaced: null } };
  }
  const last = state.waiting.at(-1);
  if (!call.critical || last === undefined || last.critical) return refuse;
  const waiting = inserted(state.waiting.slice(0, -1), entry);
  return { state: { ...state, waiting }, answer: { kind: "wait", untilMs, displaced: last.id } };
}

/** A call that was let in ended. `next`: who is let in now. */
export function leaveCall(
  state: Admission,
  policy: AdmissionPolicy,
  nowMs: number,
): { readonly state: Admission; readonly next: number | null } {
  const running = Math.max(0, state.running - 1);
  const waiting = state.waiting.filter(({ untilMs }) => untilMs > nowMs);
  const [next, ...rest] = waiting;
  // The limit may have been lowered meanwhile.
  if (next === undefined || running >= policy.concurrencyMax) return { state: { running, waiting }, next: null };
  return { state: { running: running + 1, waiting: rest }, next: next.id };
}

/** A call does not wait any more. */
export function stopWaiting(state: Admission, id: number): Admission {
  return { ...state, waiting: state.waiting.filter((one) => one.id !== id) };
}

function inserted(waiting: readonly WaitingCall[], entry: WaitingCall): WaitingCall[] {
  const at = entry.critical ? waiting.findIndex(({ critical }) => !critical) : -1;
  return at === -1 ? [...waiting, entry] : [...waiting.slice(0, at), entry, ...waiting.slice(at)];
}

export interface RatePolicy {
  readonly perSecond: number;
  readonly burst: number;
}

export function ratePolicyOf({ calls_per_second: perSecond, burst }: AgentRate): RatePolicy {
  return { perSecond, burst: burst ?? Math.max(1, Math.ceil(2 * perSecond)) };
}

/** A token bucket: a call takes one token, `perSecond` come in a second, at most `burst` are kept. */
export interface TokenBucket {
  readonly tokens: number;
  readonly atMs: number;
}

/** Tenths do not add up to one: whoever waited as long as it was told would be refused for the last bit of a fraction. */
const wholeToken = 1 - 1e-9;

/** Takes one token (Q6). Null for an agent that has made no call yet. A clock that goes back adds nothing. */
export function takeToken(
  bucket: TokenBucket | null,
  policy: RatePolicy,
  nowMs: number,
): { readonly bucket: TokenBucket; readonly allowed: boolean; readonly retryAfterMs: number } {
  const passedMs = bucket === null ? 0 : Math.max(0, nowMs - bucket.atMs);
  const tokens = bucket === null ? policy.burst : Math.min(policy.burst, bucket.tokens + (passedMs / 1000) * policy.perSecond);
  const atMs = Math.max(nowMs, bucket?.atMs ?? nowMs);
  if (tokens >= wholeToken) return { bucket: { tokens: Math.max(0, tokens - 1), atMs }, allowed: true, retryAfterMs: 0 };
  return { bucket: { tokens, atMs }, allowed: false, retryAfterMs: Math.ceil(((1 - tokens) / policy.perSecond) * 1000) };
}
