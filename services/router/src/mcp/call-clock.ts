import { InOrder, type Linked } from "../in-order.ts";

/** What happens to a call by time alone. */
export interface TimedCall {
  /** The clock of `deadlineMs`; read once. */
  readonly nowMs: () => number;
  readonly deadlineMs: number;
  readonly heartbeatMs: number;
  /** Once, when the deadline is over. */
  onDeadline(): void;
  /** About every `heartbeatMs`. */
  onHeartbeat(): void;
}

export interface CallClock {
  /** The deadline, by `performance.now()`. */
  readonly dueAtMs: number;
  stop(): void;
}

const tickMs = 50;
/** A deadline this near is kept to the millisecond. */
const nearMs = 1000;

/**
 * Keeps the deadlines and heartbeats of all calls with one timer: two timers a call cost more than everything else that is decided for it.
 * Deadlines that are further away than a second are kept to within {@link tickMs}, and by a clock that does not jump: where the machine's is set, no
 * call is ended before its time, and none is waited for beyond it.
 */
export function watchCall(call: TimedCall): CallClock {
  const watched = new Watched(call);
  all.add(watched);
  ticker ??= setInterval(tick, tickMs);
  return watched;
}

class Watched implements Linked<Watched>, CallClock {
  before: Watched | null = null;
  after: Watched | null = null;
  within: object | null = null;
  readonly call: TimedCall;
  readonly dueAtMs: number;
  /** `performance.now()`. */
  #heartbeatAtMs: number;
  late = false;
  readonly #near: NodeJS.Timeout | null;

  constructor(call: TimedCall) {
    const nowMs = performance.now();
    const leftMs = call.deadlineMs - call.nowMs();
    this.call = call;
    this.dueAtMs = nowMs + leftMs;
    this.#heartbeatAtMs = nowMs + call.heartbeatMs;
    this.#near = leftMs > nearMs ? null : setTimeout(() => this.#expire(), Math.max(0, leftMs));
  }

  tick(nowMs: number): void {
    if (nowMs >= this.dueAtMs && this.#near === null) this.#expire();
    if (nowMs < this.#heartbeatAtMs) return;
    this.#heartbeatAtMs = nowMs + this.call.heartbeatMs;
    this.call.onHeartbeat();
  }

  stop(): void {
    if (this.#near !== null) clearTimeout(this.#near);
    all.delete(this);
  }

  #expire(): void {
    if (this.late) return;
    this.late = true;
    this.call.onDeadline();
  }
}

/** As many as there are calls in flight. */
const all = new InOrder<Watched>();
/** Runs while there are calls. */
let ticker: NodeJS.Timeout | null = null;

function tick(): void {
  const nowMs = performance.now();
  for (const watched of all) watched.tick(nowMs);
  if (all.size > 0 || ticker === null) return;
  clearInterval(ticker);
  ticker = null;
}
