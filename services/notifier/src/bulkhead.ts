/** Tries of one channel that are under way at a time. */
export const triesMax = 8;
/** How long a channel that did not answer is left alone: doubling, with each silence that follows. */
const silenceMsMin = 1000;
const silenceMsMax = 60_000;
/** After so long a message that found no place asks again; longer where the place is taken by a try that may get no answer. */
const fullMs = 250;
const tryingMs = 5000;

interface Lane {
  busy: number;
  /** Tries in a row without an answer. */
  silences: number;
  openAtMs: number;
  /** Its receiver wants to be asked nothing before. */
  restsUntilMs: number;
}

/**
 * Keeps every channel to places of its own, so that one that hangs delays no other. A refusal is an answer.
 * C1  At most {@link triesMax} tries of one channel are under way; one, while the last try got no answer.
 * C2  After a try without an answer its channel is left alone for 1 s, doubling to 60 s. Tries that end together are one silence.
 * C3  Only channels that are busy, silent or at rest are remembered, and those that rested until they are asked again.
 * C4  A channel whose receiver says when it may be asked again is asked nothing before, by any message; for 60 s at most, so that one wrong
 *     word mutes it no longer.
 *
 * `nowMs` is of a clock that nobody sets: a wall clock that is set back must not mute a channel.
 */
export class Bulkhead {
  readonly #lanes = new Map<string, Lane>();

  /** 0 where a try may begin, which {@link leave} then ends; else after how many ms the message asks again. */
  enter(channel: string, nowMs: number): number {
    const lane = this.#lanes.get(channel) ?? { busy: 0, silences: 0, openAtMs: 0, restsUntilMs: 0 };
    const openAtMs = Math.max(lane.openAtMs, lane.restsUntilMs);
    if (nowMs < openAtMs) return Math.max(fullMs, openAtMs - nowMs);
    if (lane.silences > 0 && lane.busy > 0) return tryingMs;
    if (lane.busy >= triesMax) return fullMs;
    lane.busy += 1;
    this.#lanes.set(channel, lane);
    return 0;
  }

  /** Whether the last try got no answer. */
  isSilent(channel: string): boolean {
    return (this.#lanes.get(channel)?.silences ?? 0) > 0;
  }

  /** `restMs`: for how long its receiver wants to be asked nothing. */
  leave(channel: string, answered: boolean, nowMs: number, restMs = 0): void {
    const lane = this.#lanes.get(channel);
    if (lane === undefined) return;
    lane.busy -= 1;
    if (restMs > 0) lane.restsUntilMs = nowMs + Math.min(restMs, silenceMsMax);
    if (answered) {
      lane.silences = 0;
      lane.openAtMs = 0;
    } else if (nowMs >= lane.openAtMs) {
      lane.silences += 1;
      lane.openAtMs = nowMs + Math.min(silenceMsMin * 2 ** Math.min(lane.silences - 1, 20), silenceMsMax);
    }
    if (lane.busy === 0 && lane.silences === 0 && lane.restsUntilMs <= nowMs) this.#lanes.delete(channel);
  }

  /** The channel is not configured any more, and may come back as another one. */
  forget(channel: string): void {
    const lane = this.#lanes.get(channel);
    if (lane === undefined) return;
    lane.silences = 0;
    lane.openAtMs = 0;
    lane.restsUntilMs = 0;
    if (lane.busy === 0) this.#lanes.delete(channel);
  }
}
