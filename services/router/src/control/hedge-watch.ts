import { lateAfterMs } from "@mcp-failover/domain";
import { InOrder, type Linked } from "../in-order.ts";
import type { CallAttempt } from "./attempt.ts";

const tickMs = 25;

/** An attempt that is told. */
export class Armed implements Linked<Armed> {
  before: Armed | null = null;
  after: Armed | null = null;
  within: object | null = null;
  readonly attempt: CallAttempt;
  readonly listener: () => void;
  /** Null: not known yet, because it was too young to be asked about. */
  lateAtMs: number | null = null;

  constructor(attempt: CallAttempt, listener: () => void) {
    this.attempt = attempt;
    this.listener = listener;
  }
}

/**
 * Tells reads that are out when such calls have usually been answered (`hedge.ts` in the domain says when that is). One timer for all of them,
 * and none while there are none: a timer a call costs more than all else that is decided for it. Each is told once.
 */
export class HedgeWatch {
  readonly #monotonicMs: () => number;
  /** As many as there are such calls in flight. */
  readonly #armed = new InOrder<Armed>();
  #timer: NodeJS.Timeout | null = null;
  #stopped = false;

  constructor(monotonicMs: () => number) {
    this.#monotonicMs = monotonicMs;
  }

  arm(attempt: CallAttempt, listener: () => void): void {
    if (this.#stopped) return;
    attempt.armed = new Armed(attempt, listener);
    this.#armed.add(attempt.armed);
    if (this.#timer !== null) return;
    this.#timer = setInterval(() => this.#tick(), tickMs);
    this.#timer.unref();
  }

  disarm(attempt: CallAttempt): void {
    if (attempt.armed !== null) this.#armed.delete(attempt.armed);
    attempt.armed = null;
  }

  stop(): void {
    this.#stopped = true;
    for (const armed of this.#armed) this.#armed.delete(armed);
    this.#rest();
  }

  #rest(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }

  #tick(): void {
    if (this.#armed.size === 0) {
      this.#rest();
      return;
    }
    const nowMs = this.#monotonicMs();
    for (const armed of this.#armed) this.#consider(armed, nowMs);
  }

  #consider(armed: Armed, nowMs: number): void {
    const { attempt } = armed;
    // Whoever was told before may have ended it.
    if (armed.within === null) return;
    const { hedge } = attempt.upstream.policy.router;
    if (armed.lateAtMs === null) {
      // Nearly all calls end before anything has to be looked up for them.
      if (nowMs - attempt.begunMs < hedge.afterMsMin) return;
      const p95Ms = attempt.hedgeKey === null ? null : attempt.state.usualP95MsOf(attempt.hedgeKey, nowMs, hedge.callsMin);
      const afterMs = lateAfterMs(p95Ms, hedge);
      if (afterMs === null) {
        this.#armed.delete(armed);
        return;
      }
      armed.lateAtMs = attempt.begunMs + afterMs;
    }
    if (nowMs < armed.lateAtMs) return;
    this.#armed.delete(armed);
    armed.listener();
  }
}
