import { BusError } from "@mcp-failover/bus";
import type { DataOf, Event, EventType } from "@mcp-failover/contracts";
import type { Kit } from "../kit.ts";
import type { FencedDecider } from "./fenced-decider.ts";

/**
 * Tells of each decision once, by a notice derived from it, whichever instance finds that it was not told yet (also after a restart).
 *
 * N1  Decisions of one key are told in the order of their epochs, and each once: the id of a notice comes from its decision's, and the
 *     fence of its subject lets one instance through.
 * N2  Nothing is told before `dataOf` has an answer; a decision that was replaced meanwhile is told all the same.
 */
export interface NoticeDesk<D extends ToldDecision> {
  /** Takes in a decision as it is folded. */
  decided(key: string, decision: D): void;
  /** Takes in a notice as it is folded: everything up to its epoch is told. */
  told(key: string, epoch: number): void;
  /** Once both streams are read: finds decisions between the last notice and the last decision that were never told. */
  findMissing(key: string): Promise<void>;
  /** Tells what is due; call it after each fold and each tick. Never throws. */
  pump(): void;
}

/** A decision that has to be told. */
export interface ToldDecision {
  readonly id: string;
  readonly epoch: number;
  readonly seq: number;
  /** When the store took it. */
  readonly timeMs: number;
}
export interface Notice<T extends EventType> {
  readonly type: T;
  readonly keys: readonly string[];
  readonly data: DataOf<T>;
}
export interface NoticeOptions<D> {
  /** Null: not yet. */
  readonly noticeOf: (key: string, decision: D) => Notice<EventType> | null;
  /** Subject of the decisions of a key, and how one of its events reads as a decision. */
  readonly subjectOf: (key: string) => string;
  readonly read: (event: Event, at: { seq: number; timeMs: number }) => D | null;
}

/** More decisions than this untold, of one key: the oldest are left out, and said to be. */
const untoldMax = 1000;

/** Opens the desk of one service's decisions. */
export function openNoticeDesk<D extends ToldDecision>(
  kit: Pick<Kit, "log" | "bus">,
  decider: () => FencedDecider,
  options: NoticeOptions<D>,
): NoticeDesk<D> {
  const untold = new Map<string, D[]>();
  const toldEpochs = new Map<string, number>();
  const lastDecided = new Map<string, number>();
  const telling = new Set<string>();

  const decided = (key: string, decision: D): void => {
    lastDecided.set(key, Math.max(lastDecided.get(key) ?? 0, decision.epoch));
    if (decision.epoch <= (toldEpochs.get(key) ?? 0)) return;
    const queue = untold.get(key) ?? [];
    if (queue.some((other) => other.epoch === decision.epoch)) return;
    queue.push(decision);
    queue.sort((a, b) => a.epoch - b.epoch);
    if (queue.length > untoldMax) kit.log.error({ key, epoch: queue.shift()?.epoch }, "too many decisions untold; this one is left out");
    untold.set(key, queue);
  };
  const told = (key: string, epoch: number): void => {
    if (epoch <= (toldEpochs.get(key) ?? 0)) return;
    toldEpochs.set(key, epoch);
    const left = (untold.get(key) ?? []).filter((decision) => decision.epoch > epoch);
    if (left.length === 0) untold.delete(key);
    else untold.set(key, left);
  };
  const tellNext = async (key: string): Promise<void> => {
    for (let tries = 0; tries < untoldMax; tries += 1) {
      const head = untold.get(key)?.[0];
      if (head === undefined || !decider().settled) return;
      const notice = options.noticeOf(key, head);
      if (notice === null) return;
      // Won or lost, the notice that stands there now is folded, and `told` drops its decision.
      await decider().publish(notice.type, notice.keys, notice.data, { id: `${head.id}:${notice.type}` });
      if (untold.get(key)?.[0] === head && tries > 10) return;
    }
  };
  return {
    decided,
    told,
    async findMissing(key) {
      const toldEpoch = toldEpochs.get(key) ?? 0;
      const first = untold.get(key)?.[0]?.epoch ?? lastDecided.get(key) ?? 0;
      if (first <= toldEpoch + 1) return;
      for await (const stored of kit.bus.read("AUDIT", { filter: options.subjectOf(key) })) {
        const decision = stored.content.kind === "event" ? options.read(stored.content.event, stored) : null;
        if (decision !== null) decided(key, decision);
      }
    },
    pump() {
      for (const key of [...untold.keys()]) {
        if (telling.has(key)) continue;
        telling.add(key);
        tellNext(key)
          .catch((error: unknown) => {
            const level = error instanceof BusError && error.retriable ? "debug" : "error";
            kit.log[level]({ err: error, key }, "a notice could not be published; it is tried again");
          })
          .finally(() => telling.delete(key));
      }
    },
  };
}
