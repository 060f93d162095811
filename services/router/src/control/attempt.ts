import type { FailureCode } from "@mcp-failover/contracts";
import type { LocalPermit } from "@mcp-failover/domain";
import type { CallWorld } from "./call-world.ts";
import type { EndpointState } from "./endpoint-state.ts";
import type { Attempt, AttemptResult, EndpointView } from "./port.ts";
import type { InFlight } from "./traffic-window.ts";
import type { UpstreamState } from "./upstream-state.ts";

/** Whom the end of an attempt is told. */
export interface AttemptOwner {
  settle(attempt: CallAttempt, result: AttemptResult): { readonly retry: boolean };
}

export interface AttemptParts {
  readonly endpoint: EndpointView;
  readonly state: EndpointState;
  readonly connectMs: number;
  readonly permit: LocalPermit;
  readonly inFlight: InFlight;
  readonly begunMs: number;
}

/** One attempt: gives back what it took, exactly once. */
export class CallAttempt implements Attempt {
  readonly endpoint: EndpointView;
  readonly connectMs: number;
  readonly #owner: AttemptOwner;
  readonly #world: CallWorld;
  readonly #upstream: UpstreamState;
  readonly #parts: AttemptParts;
  #told = false;

  constructor(owner: AttemptOwner, world: CallWorld, upstream: UpstreamState, parts: AttemptParts) {
    this.#owner = owner;
    this.#world = world;
    this.#upstream = upstream;
    this.#parts = parts;
    this.endpoint = parts.endpoint;
    this.connectMs = parts.connectMs;
  }

  done(result: AttemptResult): { readonly retry: boolean } {
    if (this.#told) return { retry: false };
    this.#told = true;
    const { state, permit, inFlight, begunMs } = this.#parts;
    const { report } = this.#world;
    if (result.outcome === "aborted" || result.outcome === "ineligible") {
      state.release(permit);
      report.end(inFlight, null);
      return this.#owner.settle(this, result);
    }
    const endMs = this.#world.monotonicMs();
    const latencyMs = Math.max(0, endMs - begunMs);
    const code: FailureCode | null = result.outcome === "hard" ? result.code : null;
    const retryAfterMs = result.outcome === "soft" ? (result.retryAfterMs ?? null) : null;
    const ejected = state.record(
      permit,
      { outcome: result.outcome, code, latencyMs, retryAfterMs },
      endMs,
      this.#upstream.policy.localBreaker,
    );
    report.end(inFlight, { outcome: result.outcome, code, latencyMs, atMs: this.#world.nowMs() });
    // The fleet hears of a dead endpoint at once, not at the next tick.
    if (ejected) {
      report.hurry();
      this.#upstream.waiters.wakeAll();
    }
    return this.#owner.settle(this, result);
  }
}
