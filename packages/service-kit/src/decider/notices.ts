import { BusError } from "@mcp-failover/bus";
import type { DataOf, Event, EventType } from "@mcp-failover/contracts";
import type { Kit } from "../kit.ts";
import type { FencedDecider, Folded } from "./fenced-decider.ts";

/**
 * Tells of each decision once, by a notice derived from it, whichever instance finds that it was not told yet (also after a restart).
 *
 * N1  Decisions of one key are told in the order of their epochs, and each once: the id of a notice comes from its decision's, and the
 *     fence of its subject lets one instance through.
 * N2  Nothing is told before `noticeOf` has an answer; a decision that was replaced meanwhile is told all the same.
 */
export interface NoticeDesk {
  /** Takes in an event of AUDIT: decisions and notices. */
  fold(event: Event, at: Folded): void;
  /** Once both streams are read: finds decisions between the last notice and the last decision that were never told. */
  findMissing(): Promise<void>;
  /** Tells what is due; call it after each fold, too (it also runs by itself a few times a second). Never throws. */
  pump(): void;
  /** Who had applied an epoch when it was told; null: it was not yet. */
  toldOf(key: string, epoch: number): Applied | null;
  /** Waits until an epoch was told, or `timeoutMs`. */
  waitTold(key: string, epoch: number, timeoutMs: number): Promise<Applied | null>;
  stop(): void;
}
export interface Applied {
  readonly appliedBy: readonly string[];
  readonly notAppliedBy: readonly string[];
}

/** A decision that has to be told. */
export interface ToldDecision<T extends EventType> {
  readonly event: Event<T>;
  readonly epoch: number;
  /** When the store took it. */
  readonly timeMs: number;
}
export interface Notice<T extends EventType = EventType> {
  readonly type: T;
  readonly keys: readonly string[];
  readonly data: DataOf<T>;
}
export interface NoticeOptions<T extends EventType> {
  /** Key and epoch of an event that is a decision; null for others. */
  readonly decisionOf: (event: Event) => { readonly key: string; readonly epoch: number; readonly event: Event<T> } | null;
  /** The same of an event that is a notice. */
  readonly noticeOfEvent: (event: Event) => ({ readonly key: string; readonly epoch: number } & Applied) | null;
  /** What to say of a decision; null: not yet. */
  readonly noticeFor: (key: string, decision: ToldDecision<T>) => Notice | null;
  /** Subject of the decisions of a key. */
  readonly subjectOf: (key: string) => string;
}

/** More decisions than this untold, of one key: the oldest are left out, and said to be. */
const untoldMax = 1000;
/** A notice that loses this often to something that does not tell its decision is left to the next pump. */
const lostMax = 10;
const pumpMs = 200;
const waitStepMs = 100;

/** Opens the desk of one service's decisions. Call `stop` at the end. */
export function openNoticeDesk<T extends EventType>(
  kit: Pick<Kit, "log" | "bus">,
  decider: () => FencedDecider,
  options: NoticeOptions<T>,
): NoticeDesk {
  const untold = new Map<string, ToldDecision<T>[]>();
  const told = new Map<string, { readonly epoch: number } & Applied>();
  const decidedEpochs = new Map<string, number>();
  const telling = new Set<string>();
  /** Only while there is something to tell. */
  let pumping: NodeJS.Timeout | null = null;
  let stopped = false;
  const toldEpoch = (key: string): number => told.get(key)?.epoch ?? 0;

  const foldDecision = (key: string, decision: ToldDecision<T>): void => {
    decidedEpochs.set(key, Math.max(decidedEpochs.get(key) ?? 0, decision.epoch));
    const queue = untold.get(key) ?? [];
    if (decision.epoch <= toldEpoch(key) || queue.some((other) => other.epoch === decision.epoch)) return;
    queue.push(decision);
    queue.sort((a, b) => a.epoch - b.epoch);
    if (!stopped) pumping ??= setInterval(pump, pumpMs);
    if (queue.length > untoldMax) kit.log.error({ key, epoch: queue.shift()?.epoch }, "too many decisions untold; this one is left out");
    untold.set(key, queue);
  };
  const fold = (event: Event, { timeMs }: Folded): void => {
    const decision = options.decisionOf(event);
    if (decision !== null) foldDecision(decision.key, { event: decision.event, epoch: decision.epoch, timeMs });
    const notice = options.noticeOfEvent(event);
    if (notice === null || notice.epoch <= toldEpoch(notice.key)) return;
    const { key, epoch, appliedBy, notAppliedBy } = notice;
    told.set(key, { epoch, appliedBy, notAppliedBy });
    const left = (untold.get(key) ?? []).filter((other) => other.epoch > epoch);
    if (left.length === 0) untold.delete(key);
    else untold.set(key, left);
  };
  const tellNext = async (key: string): Promise<void> => {
    for (let lost = 0; lost < lostMax; ) {
      const head = untold.get(key)?.[0];
      if (head === undefined || !decider().settled) return;
      const notice = options.noticeFor(key, head);
      if (notice === null) return;
      const expectedSeq = decider().foldedSeq(notice.type, notice.keys);
      // Won or lost, the notice that stands there now is folded, which drops its decision from the queue.
      await decider().publish(notice.type, notice.keys, notice.data, { expectedSeq, id: `${head.event.id}:${notice.type}` });
      if (untold.get(key)?.[0] === head) lost += 1;
    }
  };
  const rest = (): void => {
    if (pumping !== null) clearInterval(pumping);
    pumping = null;
  };
  const pump = (): void => {
    if (untold.size === 0) {
      rest();
      return;
    }
    for (const key of [...untold.keys()]) {
      if (telling.has(key) || !decider().settled) continue;
      telling.add(key);
      tellNext(key)
        .catch((error: unknown) => {
          const level = error instanceof BusError && error.retriable ? "debug" : "error";
          kit.log[level]({ err: error, key }, "a notice could not be published; it is tried again");
        })
        .finally(() => telling.delete(key));
    }
  };
  const toldOf = (key: string, epoch: number): Applied | null => {
    const last = told.get(key);
    return last !== undefined && last.epoch >= epoch ? { appliedBy: last.appliedBy, notAppliedBy: last.notAppliedBy } : null;
  };
  return {
    fold,
    pump,
    toldOf,
    async findMissing() {
      for (const [key, decidedEpoch] of [...decidedEpochs]) {
        if ((untold.get(key)?.[0]?.epoch ?? decidedEpoch) <= toldEpoch(key) + 1) continue;
        for await (const { content, seq, timeMs } of kit.bus.read("AUDIT", { filter: options.subjectOf(key) })) {
          if (content.kind === "event") fold(content.event, { seq, timeMs });
        }
      }
    },
    async waitTold(key, epoch, timeoutMs) {
      const untilMs = performance.now() + timeoutMs;
      for (;;) {
        const applied = toldOf(key, epoch);
        if (applied !== null || performance.now() >= untilMs) return applied;
        await decider().changed(waitStepMs);
      }
    },
    stop() {
      stopped = true;
      rest();
    },
  };
}
