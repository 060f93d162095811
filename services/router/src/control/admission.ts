import type { Topology } from "@mcp-failover/contracts";
import {
  type Admission,
  type AdmissionPolicy,
  admitCall,
  leaveCall,
  nobodyAdmitted,
  type RatePolicy,
  ratePolicyOf,
  stopWaiting,
  type TokenBucket,
  takeToken,
} from "@mcp-failover/domain";

/** How a wait ended: let in, refused for a more important call, or over by time. */
export type Turn = "in" | "displaced" | "late";

/** The calls of one upstream that run and wait in this process. */
export class UpstreamAdmission {
  #state: Admission = nobodyAdmitted;
  #lastId = 0;
  readonly #waiting = new Map<number, (turn: Turn) => void>();

  get running(): number {
    return this.#state.running;
  }
  get waiting(): number {
    return this.#state.waiting.length;
  }

  /** `run`: at once. A wait ends by itself; `stop` ends it early. Who was let in calls {@link leave} once. */
  enter(
    call: { readonly critical: boolean; readonly deadlineMs: number },
    policy: AdmissionPolicy,
    nowMs: number,
  ):
    | { readonly kind: "run" }
    | { readonly kind: "refuse"; readonly retryAfterMs: number }
    | { readonly kind: "wait"; readonly turn: Promise<Turn>; stop(): void } {
    this.#lastId += 1;
    const id = this.#lastId;
    const { state, answer } = admitCall(this.#state, { id, ...call }, policy, nowMs);
    this.#state = state;
    if (answer.kind !== "wait") return answer;
    if (answer.displaced !== null) this.#waiting.get(answer.displaced)?.("displaced");
    const { promise, resolve } = Promise.withResolvers<Turn>();
    const end = (turn: Turn): void => {
      clearTimeout(timer);
      this.#waiting.delete(id);
      if (turn === "late") this.#state = stopWaiting(this.#state, id);
      resolve(turn);
    };
    const timer = setTimeout(end, answer.untilMs - nowMs, "late");
    this.#waiting.set(id, end);
    return {
      kind: "wait",
      turn: promise,
      stop: () => {
        if (this.#waiting.has(id)) end("late");
      },
    };
  }

  /** The limit is another one: who waits and may run now does (Q1). */
  reconfigure(policy: AdmissionPolicy | null, nowMs: number): void {
    for (let left = this.waiting; left > 0; left = this.waiting) {
      this.#state = { ...this.#state, running: this.running + 1 };
      this.leave(policy, nowMs);
      if (this.waiting === left) return;
    }
  }

  leave(policy: AdmissionPolicy | null, nowMs: number): void {
    const { state, next } = leaveCall(this.#state, policy ?? unlimited, nowMs);
    this.#state = state;
    if (next !== null) this.#waiting.get(next)?.("in");
  }
}

/** The limit was taken out of the configuration while calls ran under it. */
const unlimited: AdmissionPolicy = { concurrencyMax: Number.POSITIVE_INFINITY, queueMax: 0, queueMsMax: 0 };

/** Agents whose accounts are kept; the one that called longest ago goes first. */
const accountsMax = 10_000;

/** How often each agent has called this process lately. */
export class AgentAccounts {
  readonly #buckets = new Map<string, TokenBucket>();

  /** Null: the call may be made; else the time until the next one may. */
  take(agent: string, policy: RatePolicy, nowMs: number): number | null {
    const { bucket, allowed, retryAfterMs } = takeToken(this.#buckets.get(agent) ?? null, policy, nowMs);
    this.#buckets.delete(agent);
    this.#buckets.set(agent, bucket);
    const [oldest] = this.#buckets.keys();
    if (this.#buckets.size > accountsMax && oldest !== undefined) this.#buckets.delete(oldest);
    return allowed ? null : retryAfterMs;
  }
}

/** How often an agent may call; null: as often as it likes. */
export function rateOf(rates: Topology["router"]["agent_rates"], agent: string | null): RatePolicy | null {
  const rate = (agent === null ? undefined : rates?.agents[agent]) ?? rates?.default;
  return rate === undefined ? null : ratePolicyOf(rate);
}
