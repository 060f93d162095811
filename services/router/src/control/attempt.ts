import { Ending, type EndSignal } from "../ending.ts";
import type { Linked } from "../in-order.ts";
import type { CallWorld } from "./call-world.ts";
import type { EndpointPermit, EndpointState } from "./endpoint-state.ts";
import type { Armed } from "./hedge-watch.ts";
import type { Attempt, AttemptResult, EndpointView } from "./port.ts";
import type { InFlight } from "./traffic-window.ts";
import type { UpstreamState } from "./upstream-state.ts";

/** Whom the end of an attempt is told. */
export interface AttemptOwner {
  settle(attempt: CallAttempt, result: AttemptResult): { readonly retry: boolean };
  /** Whether the attempt is better given up, because the call may be made at another endpoint; what that costs is paid by the asking. */
  mayLeave(): boolean;
}

export interface AttemptParts {
  readonly endpoint: EndpointView;
  readonly state: EndpointState;
  readonly connectMs: number;
  readonly permit: EndpointPermit;
  readonly inFlight: InFlight;
  readonly begunMs: number;
  /** Only of a call that may be sent again whatever became of this attempt. */
  readonly leavable: boolean;
  /** Which calls take as long as this one; null: it is never made twice at once. */
  readonly hedgeKey: string | null;
}

/** One attempt: gives back what it took, exactly once. */
export class CallAttempt implements Attempt, Linked<CallAttempt> {
  before: CallAttempt | null = null;
  after: CallAttempt | null = null;
  within: object | null = null;
  /** What tells it that it is late. */
  armed: Armed | null = null;
  readonly endpoint: EndpointView;
  readonly connectMs: number;
  readonly givenUp: EndSignal | null;
  readonly whenLate: ((listener: () => void) => void) | null;
  readonly #giveUp: Ending | null;
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
    this.#giveUp = parts.leavable ? new Ending() : null;
    this.givenUp = this.#giveUp;
    this.whenLate = parts.hedgeKey === null ? null : (listener) => world.hedges.arm(this, listener);
    world.watch.begin(this);
  }

  get state(): EndpointState {
    return this.#parts.state;
  }
  get upstream(): UpstreamState {
    return this.#upstream;
  }
  get begunMs(): number {
    return this.#parts.begunMs;
  }
  get hedgeKey(): string | null {
    return this.#parts.hedgeKey;
  }
  get inFlight(): InFlight {
    return this.#parts.inFlight;
  }

  answering(): void {
    if (this.#told) return;
    this.#world.watch.end(this);
    this.#rest();
    this.#parts.state.hear(this.#world.monotonicMs());
  }

  /** Its endpoint hangs: ends it where the call may go elsewhere. What is told of it afterwards counts as of any other attempt. */
  leave(): void {
    if (this.#told || this.#giveUp === null || this.#giveUp.aborted || !this.#owner.mayLeave()) return;
    this.#giveUp.abort(undefined);
  }

  done(result: AttemptResult): { readonly retry: boolean } {
    if (this.#told) return { retry: false };
    this.#told = true;
    this.#world.watch.end(this, result.outcome === "cancelled");
    this.#rest();
    const { state, permit, inFlight, begunMs, hedgeKey } = this.#parts;
    const { report } = this.#world;
    const code = result.outcome === "hard" ? result.code : null;
    // None of these is a word on the endpoint.
    if (result.outcome === "aborted" || result.outcome === "ineligible" || result.outcome === "cancelled" || code === "exhausted") {
      state.release(permit);
      report.end(inFlight, null);
      return this.#owner.settle(this, result);
    }
    const endMs = this.#world.monotonicMs();
    const latencyMs = Math.max(0, endMs - begunMs);
    if (hedgeKey !== null && result.outcome !== "hard") state.learnUsual(hedgeKey, latencyMs, endMs);
    const asked = result.outcome === "soft" || result.outcome === "hard" ? result.retryAfterMs : undefined;
    const retryAfterMs = asked ?? null;
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

  #rest(): void {
    if (this.#parts.hedgeKey !== null) this.#world.hedges.disarm(this);
  }
}
