import { lateAfterMs } from "@mcp-failover/domain";
import type { CallAttempt } from "./attempt.ts";

const tickMs = 25;

interface Armed {
  readonly listener: () => void;
  /** Null: not known yet, because it was too young to be asked about. */
  lateAtMs: number | null;
}

/**
 * Tells reads that are out when such calls have usually been answered (`hedge.ts` in the domain says when that is). One timer for all of them,
 * and none while there are none: a timer a call costs more than all else that is decided for it. Each is told once.
 */
export class HedgeWatch {
  readonly #monotonicMs: () => number;
  /** As many as there are such calls in flight. */
  readonly #armed = new Map<CallAttempt, Armed>();
  #timer: NodeJS.Timeout | null = null;
  #stopped = false;

  constructor(monotonicMs: () => number) {
    this.#monotonicMs = monotonicMs;
  }

  arm(attempt: CallAttempt, listener: () => void): void {
    if (this.#stopped) return;
    this.#armed.set(attempt, { listener, lateAtMs: null });
    if (this.#timer !== null) return;
    this.#timer = setInterval(() => this.#tick(), tickMs);
    this.#timer.unref();
  }

  disarm(attempt: CallAttempt): void {
    this.#armed.delete(attempt);
  }

  stop(): void {
    this.#stopped = true;
    this.#armed.clear();
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
    for (const [attempt, armed] of this.#armed) this.#consider(attempt, armed, nowMs);
  }

  #consider(attempt: CallAttempt, armed: Armed, nowMs: number): void {
    const { hedge } = attempt.upstream.policy.router;
    if (armed.lateAtMs === null) {
      // Nearly all calls end before anything has to be looked up for them.
      if (nowMs - attempt.begunMs < hedge.afterMsMin) return;
      const p95Ms = attempt.hedgeKey === null ? null : attempt.state.usualP95MsOf(attempt.hedgeKey, nowMs, hedge.callsMin);
      const afterMs = lateAfterMs(p95Ms, hedge);
      if (afterMs === null) {
        this.#armed.delete(attempt);
        return;
      }
      armed.lateAtMs = attempt.begunMs + afterMs;
    }
    if (nowMs < armed.lateAtMs) return;
    this.#armed.delete(attempt);
    armed.listener();
  }
}
