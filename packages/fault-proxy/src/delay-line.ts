/**
 * Hands chunks on, each `latencyMs` after it came, in their order. The latency may change while chunks wait: what they still have to
 * wait follows at once, so a fault that ends lets everything go. Bounded: `push` says when to stop the source, `onRoom` when to go on.
 */
export interface DelayLine {
  /** False: the line is full, stop the source until `onRoom`. The chunk is taken either way. */
  push(chunk: Buffer): boolean;
  /** The source has ended; `onEnd` follows the last chunk. */
  end(): void;
  /** The sink can take more after it had returned false. */
  resume(): void;
  /** The latency has changed. */
  retime(): void;
  /** Drops what waits; nothing is called any more. */
  destroy(): void;
}

export interface DelayLineOptions {
  readonly latencyMs: () => number;
  readonly bytesMax: number;
  /** Takes a chunk; false when it can take no more until {@link DelayLine.resume}. */
  readonly onChunk: (chunk: Buffer) => boolean;
  readonly onEnd: () => void;
  readonly onRoom: () => void;
  readonly nowMs: () => number;
}

/** Timers take no longer times, and a chunk may have to wait until further notice (`Infinity`). */
const timerMsMax = 60_000;

type Waiting = { readonly arrivedMs: number; readonly chunk: Buffer | null };

/** Makes a {@link DelayLine}. Without latency and with a sink that takes everything, a chunk passes through within the call. */
export function delayLine(options: DelayLineOptions): DelayLine {
  const waiting: Waiting[] = [];
  let waitingBytes = 0;
  let full = false;
  let sinkFull = false;
  let destroyed = false;
  let timer: NodeJS.Timeout | null = null;

  const pump = (): void => {
    if (timer !== null) clearTimeout(timer);
    timer = null;
    while (!destroyed && !sinkFull) {
      const head = waiting[0];
      if (head === undefined) break;
      const restMs = head.arrivedMs + options.latencyMs() - options.nowMs();
      if (restMs > 0) {
        timer = setTimeout(pump, Math.min(restMs, timerMsMax));
        break;
      }
      waiting.shift();
      if (head.chunk === null) {
        options.onEnd();
        continue;
      }
      waitingBytes -= head.chunk.length;
      sinkFull = !options.onChunk(head.chunk);
    }
    if (full && !destroyed && waitingBytes < options.bytesMax / 2) {
      full = false;
      options.onRoom();
    }
  };
  const add = (chunk: Buffer | null): void => {
    waiting.push({ arrivedMs: options.nowMs(), chunk });
    if (waiting.length === 1) pump();
  };
  return {
    push(chunk) {
      if (destroyed) return true;
      waitingBytes += chunk.length;
      add(chunk);
      full = waitingBytes >= options.bytesMax;
      return !full;
    },
    end() {
      if (!destroyed) add(null);
    },
    resume() {
      sinkFull = false;
      pump();
    },
    retime: pump,
    destroy() {
      destroyed = true;
      if (timer !== null) clearTimeout(timer);
      waiting.length = 0;
    },
  };
}
