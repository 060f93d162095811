import { BusError } from "@mcp-failover/bus";
import type { Event, Observation } from "@mcp-failover/contracts";
import type { ProberPolicy } from "@mcp-failover/domain";

/**
 * Publishes observations in batches.
 *
 * O1  Regular ones leave within `batchMs`, urgent ones at once; a batch has at most `batchMax`.
 * O2  While the log is out of reach at most `bufferMax` are kept; the oldest are dropped, and counted.
 * O3  A batch whose outcome is unknown is sent again with the same id, so that the server drops the repeat.
 * O4  Who has said anything says at the end that it leaves, once and in the time that a batch has: where that is lost, it counts as silent, like one that was killed.
 */
export interface ObservationLog {
  add(observation: Observation, urgent: boolean): void;
  /** The log can be reached again. */
  resume(): void;
  /** Sends what is left, and the farewell, once. */
  close(): Promise<void>;
}

export interface ObservationLogOptions {
  readonly policy: Pick<ProberPolicy, "batchMs" | "batchMax" | "bufferMax">;
  readonly event: (observations: Observation[]) => Event<"probe.observed">;
  readonly farewell: () => Event<"probe.observed">;
  /** False while the log is out of reach: then nothing is tried, and the newest are kept. */
  readonly reachable: () => boolean;
  readonly append: (event: Event<"probe.observed">) => Promise<void>;
  readonly onDropped: (count: number) => void;
  readonly onFailed: (error: unknown) => void;
}

const retryMs = 1000;
const underWayMax = 8;

export function openObservationLog(options: ObservationLogOptions): ObservationLog {
  const { policy } = options;
  let waiting: Observation[] = [];
  let failed: Event<"probe.observed">[] = [];
  const underWay = new Set<Promise<void>>();
  let underWayCount = 0;
  let timer: NodeJS.Timeout | null = null;
  let closed = false;
  let said = false;

  function kept(): number {
    return underWayCount + waiting.length + failed.reduce((sum, event) => sum + event.data.observations.length, 0);
  }

  function bound(): void {
    let over = kept() - policy.bufferMax;
    while (over > 0 && failed.length + waiting.length > 0) {
      const oldest = failed.shift()?.data.observations ?? waiting.splice(0, over);
      options.onDropped(oldest.length);
      over -= oldest.length;
    }
  }

  function later(ms: number): void {
    if (closed || timer !== null) return;
    timer = setTimeout(() => {
      timer = null;
      flush();
    }, ms);
  }

  function flush(): void {
    // `resume` comes back to what stays here.
    if (!options.reachable()) return;
    while (underWay.size < underWayMax) {
      const event = failed.shift() ?? (waiting.length === 0 ? undefined : options.event(waiting.splice(0, policy.batchMax)));
      if (event === undefined) return;
      said = true;
      underWayCount += event.data.observations.length;
      const sending = options
        .append(event)
        .then(
          () => null,
          (error: unknown) => error ?? new Error("unknown"),
        )
        .then((error) => {
          underWay.delete(sending);
          underWayCount -= event.data.observations.length;
          if (error !== null) sendAgain(event, error);
        });
      underWay.add(sending);
    }
    later(policy.batchMs);
  }

  function sendAgain(event: Event<"probe.observed">, error: unknown): void {
    options.onFailed(error);
    if (closed || (error instanceof BusError && !error.retriable)) {
      options.onDropped(event.data.observations.length);
      return;
    }
    failed.push(event);
    failed.sort((a, b) => (a.time < b.time ? -1 : 1));
    bound();
    later(retryMs);
  }

  return {
    add(observation, urgent) {
      if (closed) return;
      waiting.push(observation);
      bound();
      if (urgent) flush();
      else later(policy.batchMs);
    },
    resume: flush,
    async close() {
      closed = true;
      if (timer !== null) clearTimeout(timer);
      failed = [];
      flush();
      const leaving = said && options.reachable() ? options.append(options.farewell()).catch(options.onFailed) : null;
      await Promise.all([...underWay, leaving]);
      waiting = [];
    },
  };
}
