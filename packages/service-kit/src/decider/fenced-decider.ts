import { BusError, type Following, type FollowOptions, StoreClock, type Stored } from "@mcp-failover/bus";
import { type Certificate, type DataOf, type Event, type EventType, subjectFor } from "@mcp-failover/contracts";
import { Counter, Gauge } from "prom-client";
import type { Kit } from "../kit.ts";
import { type ClockReading, compareClocks } from "./clock-guard.ts";

/**
 * What every service needs that decides on the log: both streams followed and folded, the expectation of each fenced publish, a clock
 * that is stamped by the store, and the reasons not to decide just now.
 *
 * D1  A fenced event is published with the sequence of its subject that its decision stands on (`foldedSeq`, taken together with what is
 *     decided on); what was folded since has won the race. Who loses folds what stands there and decides anew. Lost races are counted,
 *     never retried with the same decision.
 * D2  An event is folded once, whether it came by following, by winning or by losing; on one subject never backwards.
 * D3  Nothing is evaluated before both streams are read to their end and `prepare` is through, nor while the log is out of reach, nor, when it
 *     is back, before AUDIT is read to where it ended then: a hold or a configuration of meanwhile stands on another subject than the decision.
 * D4  After a disconnect or a pause of the process, SIGNALS up to then is no evidence (`freshAfterSeq`); after a jump of the clock nothing
 *     automatic happens for a while (`tilted`).
 * D5  Decisions are taken for a store timestamp of what was folded, or for a boundary of one second of the store's clock: a wrong clock of
 *     this machine moves no decision to another time, nor what is read of SIGNALS. Until that clock was heard it goes on from the last
 *     message of the past; no second is judged by that before this machine says about the same, or nothing that was read is evidence by it.
 * D6  Where a stream is replaced (lost and made again, restored from a backup), its sequences are forgotten and it is read from its
 *     start, while what was folded stays: the next decision is behind the new log's last event, and above all that was seen.
 */
export interface FencedDecider {
  /** True when a decision may be taken now (D3). */
  readonly settled: boolean;
  readonly clock: { readonly tilted: boolean; readonly freshAfterSeq: number };
  /** The store's clock is known, by a message that was stored while this process listened. */
  readonly heardClock: boolean;
  /** The time to decide for (D5). */
  decisionMs(): number;
  /** The store's clock as far as it is known here, never ahead of it; this machine's only while nothing was stored yet. */
  nowMs(): number;
  /** What this process had folded, for certificates. */
  folded(): Certificate["folded"];
  /** The sequence folded last of an event's subject; 0: none. Ask before deciding, with nothing awaited between the two (D1). */
  foldedSeq(type: EventType, keys: readonly string[]): number;
  /** Publishes a fenced event behind what was decided on (D1). Throws `BusError` when the log is out of reach. */
  publish<T extends EventType>(type: T, keys: readonly string[], data: DataOf<T>, options: PublishOptions): Promise<Published>;
  /** Resolves at the next event that is folded, or after `timeoutMs`. */
  changed(timeoutMs: number): Promise<void>;
  stop(): Promise<void>;
}
interface PublishOptions {
  /** What {@link FencedDecider.foldedSeq} was when the decision was taken, which may be a while ago. */
  readonly expectedSeq: number;
  readonly id?: string;
  /** How long the outcome may take at most; after it nothing is stored any more. Default 5000. */
  readonly timeoutMs?: number;
}
export type Published = { readonly outcome: "won"; readonly seq: number; readonly id: string } | { readonly outcome: "lost" };

/** Where an event stands in its stream, and when the store took it. */
export interface Folded {
  readonly seq: number;
  readonly timeMs: number;
}
export interface FencedDeciderOptions {
  readonly foldAudit: (event: Event, at: Folded) => void;
  readonly foldSignal: (event: Event, at: Folded) => void;
  /** AUDIT is another log from here on (D6): sequences that were kept of it mean nothing any more. */
  readonly onAnotherAudit?: () => void;
  /** Called after each event folded (once settled) and at each boundary of a second (`null`). Must not throw and not block. */
  readonly evaluate: (event: Event | null) => void;
  /** Reads what the last event of each subject does not tell, once both streams are read; tried again while the log is out of reach. */
  readonly prepare?: () => Promise<void>;
  /** How far back SIGNALS is read at the start, from its last message. Nothing older is evidence. */
  readonly signalsBackMs: number;
  /** What of SIGNALS it goes by; default everything. */
  readonly signalsFilter?: string;
  readonly clockGapMs: number;
  readonly tiltMs: number;
}

const secondMs = 1000;
/** The clocks are looked at this often at least. */
const tickMsMax = 1000;
/** A message has the clocks looked at where nobody has for this long. */
const lookMs = 100;
/** The last message of the past is taken for the present where this machine's clock says that it is no older. */
const agreeMs = 10_000;
/** A failed read is tried again after this. */
const againMs = 250;
/** Where nothing of AUDIT came for so long it is looked whether there is anything. */
const quietMs = 1000;

/** Starts following both streams. Call `stop` at the end. */
export function startFencedDecider(kit: Kit<unknown>, options: FencedDeciderOptions): FencedDecider {
  const lost = new Counter({
    name: "mcpf_lost_races_total",
    help: "Fenced events that another instance published first",
    labelNames: ["type"],
    registers: [kit.registry],
  });
  const tilts = new Counter({
    name: "mcpf_clock_irregularities_total",
    help: "Jumps of the clock and pauses of the process",
    labelNames: ["kind"],
    registers: [kit.registry],
  });
  const settledGauge = new Gauge({ name: "mcpf_decider_settled", help: "1 while decisions may be taken", registers: [kit.registry] });
  const lastSeqs = new Map<string, number>();
  const ranges: { AUDIT: Certificate["folded"]["AUDIT"]; SIGNALS: Certificate["folded"]["SIGNALS"] } = { AUDIT: null, SIGNALS: null };
  const caughtUp = { AUDIT: false, SIGNALS: false };
  let storeMs = 0;
  /** When `storeMs` was read, by the clock that cannot be set; of use until the store's clock was heard. */
  let pastReadMs = 0;
  let heard = false;
  let settledAtMs: number | null = null;
  let freshAfterSeq = 0;
  let resuming = false;
  /** How often evidence and AUDIT had to be taken up anew. */
  let gaps = 0;
  /** What was followed of AUDIT last, and where it has to be read to. */
  let auditSeq = 0;
  let auditBehind = false;
  let prepared: "no" | "under way" | "yes" = options.prepare === undefined ? "yes" : "no";
  let connected = kit.bus.status.kind === "connected";
  let tiltedUntilMonotonicMs = 0;
  let stopped = false;
  let waiters: (() => void)[] = [];

  const isSettled = (): boolean => caughtUp.AUDIT && caughtUp.SIGNALS && prepared === "yes" && connected && !resuming && !stopped;
  const saySettled = (): void => {
    settledGauge.set(isSettled() ? 1 : 0);
    const reading =
      !caughtUp.AUDIT || auditBehind ? "AUDIT" : !caughtUp.SIGNALS ? "SIGNALS" : prepared === "yes" ? null : "the past of AUDIT";
    kit.ready("log", reading === null, reading === null ? "" : `${reading} is not read to its end yet`);
  };
  /** After each stream is read, and at each tick until it is through. */
  const prepareOnce = (): void => {
    if (prepared !== "no" || !caughtUp.AUDIT || !caughtUp.SIGNALS || options.prepare === undefined) return;
    prepared = "under way";
    options.prepare().then(
      () => {
        prepared = "yes";
        saySettled();
        evaluateSecond();
      },
      (error: unknown) => {
        prepared = "no";
        kit.log.warn({ err: error }, "what happened before this process began could not be read yet");
      },
    );
  };
  const changed = (timeoutMs: number): Promise<void> =>
    new Promise((resolve) => {
      const timer = setTimeout(resolve, timeoutMs);
      waiters.push(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  const wake = (): void => {
    if (waiters.length === 0) return;
    const woken = waiters;
    waiters = [];
    for (const resolve of woken) resolve();
  };
  const folds = { AUDIT: options.foldAudit, SIGNALS: options.foldSignal };
  const take = (stored: Stored): boolean => {
    const { stream, subject, seq } = stored;
    if (stream !== "AUDIT" && stream !== "SIGNALS") return false;
    if (stream === "AUDIT") {
      if (seq <= (lastSeqs.get(subject) ?? 0)) return false;
      lastSeqs.set(subject, seq);
    }
    const range = ranges[stream];
    if (range === null) ranges[stream] = { first: seq, last: seq };
    else if (seq > range.last) range.last = seq;
    else if (seq < range.first) range.first = seq;
    if (stored.content.kind === "event") folds[stream](stored.content.event, { seq, timeMs: stored.timeMs });
    return true;
  };
  const onStored = (stored: Stored): void => {
    // Before anything is decided on it: the next tick may be a second away.
    if (performance.now() - reading.monotonicMs >= lookMs) lookAtClocks();
    if (stored.stream === "AUDIT") auditSeq = stored.seq;
    // What was there before says when it was stored, not how late it is.
    if (caughtUp.AUDIT && caughtUp.SIGNALS) {
      storeMs = stored.timeMs;
      storeClock.hear(storeMs);
      if (!heard) {
        heard = true;
        lastBoundaryMs = 0;
      }
    } else if (heard || stored.timeMs >= storeMs) {
      storeMs = stored.timeMs;
      pastReadMs = performance.now();
    }
    if (!take(stored)) return;
    wake();
    if (isSettled() && stored.content.kind === "event") options.evaluate(stored.content.event);
  };
  const follow = (stream: "AUDIT" | "SIGNALS", from: FollowOptions["from"]): Following =>
    kit.bus.follow(
      stream,
      {
        from,
        ...(stream === "SIGNALS" && options.signalsFilter !== undefined ? { filter: options.signalsFilter } : {}),
        onCaughtUp: () => {
          caughtUp[stream] = true;
          saySettled();
          prepareOnce();
          evaluateSecond();
        },
        onAnotherLog: () => beginAnew(stream),
        onError: (error, { seq }) => kit.log.error({ err: error, stream, seq }, "an event could not be folded"),
      },
      onStored,
    );

  /** As far back from its last message as anything is evidence, by the store's clock. */
  const followSignals = async (): Promise<void> => {
    while (!stopped) {
      try {
        const { lastSeq } = await kit.bus.info("SIGNALS");
        const last = lastSeq === 0 ? null : await kit.bus.at("SIGNALS", lastSeq);
        if (stopped) return;
        // Where the last one has gone, by its age, so have those before it.
        followings.push(follow("SIGNALS", { timeMs: last === null ? 0 : last.timeMs - options.signalsBackMs }));
        return;
      } catch (error) {
        if (!(error instanceof BusError)) throw error;
        await new Promise((resolve) => setTimeout(resolve, againMs));
      }
    }
  };

  const beginAnew = (stream: "AUDIT" | "SIGNALS"): void => {
    caughtUp[stream] = false;
    ranges[stream] = null;
    if (stream === "AUDIT") {
      auditSeq = 0;
      lastSeqs.clear();
      options.onAnotherAudit?.();
    } else {
      // Where the old one was fresh from lies beyond all that comes now.
      resumeAfter("SIGNALS is another stream than before");
    }
    saySettled();
  };

  /** What was taken out of the log is not waited for. Throws `BusError`. */
  const readAuditTo = async (endSeq: number): Promise<void> => {
    let seenSeq = auditSeq;
    let sinceMs = performance.now();
    while (auditSeq < endSeq && connected && !stopped) {
      await changed(againMs);
      const nowMs = performance.now();
      if (auditSeq !== seenSeq) sinceMs = nowMs;
      seenSeq = auditSeq;
      if (nowMs - sinceMs < quietMs) continue;
      sinceMs = nowMs;
      auditBehind = false;
      for await (const _ of kit.bus.read("AUDIT", { fromSeq: auditSeq + 1, toSeq: endSeq })) {
        auditBehind = true;
        break;
      }
      saySettled();
      if (!auditBehind) return;
    }
  };
  /** What SIGNALS holds until now was said while this process did not listen (D4); what AUDIT holds is decided on (D3). */
  const resume = async (why: string): Promise<void> => {
    resuming = true;
    saySettled();
    for (let gap = -1; gap !== gaps && !stopped; ) {
      gap = gaps;
      try {
        const [signals, audit] = await Promise.all([kit.bus.info("SIGNALS"), kit.bus.info("AUDIT")]);
        freshAfterSeq = signals.lastSeq;
        await readAuditTo(audit.lastSeq);
        if (gap === gaps) kit.log.info({ why, freshAfterSeq }, "deciding on what comes from here");
      } catch (error) {
        if (!(error instanceof BusError)) throw error;
        gap = -1;
        await new Promise((resolve) => setTimeout(resolve, againMs));
      }
    }
    auditBehind = false;
    resuming = false;
    saySettled();
  };
  const resumeAfter = (why: string): void => {
    gaps += 1;
    if (resuming || stopped) return;
    resume(why).catch((error: unknown) => kit.log.error({ err: error }, "cannot tell where SIGNALS ends; not deciding"));
  };
  const unlisten = kit.bus.onStatus((status) => {
    const before = connected;
    connected = status.kind === "connected";
    saySettled();
    if (connected && !before && (caughtUp.AUDIT || caughtUp.SIGNALS)) resumeAfter("the bus is back");
  });

  const storeClock = new StoreClock(() => performance.now());
  const storeNowMs = (): number => {
    const pastMs = (): number => (storeMs === 0 ? kit.nowMs() : storeMs + performance.now() - pastReadMs);
    return Math.floor(storeClock.nowMs() ?? pastMs());
  };
  /** Judges the second of the store's clock that it is now, where that is known (D5). */
  const evaluateSecond = (): void => {
    if (!isSettled()) return;
    settledAtMs ??= performance.now();
    const agrees = heard || storeMs === 0 || Math.abs(kit.nowMs() - storeNowMs()) <= agreeMs;
    if (agrees || performance.now() - settledAtMs >= options.signalsBackMs) options.evaluate(null);
  };
  const read = (): ClockReading => ({ wallMs: kit.nowMs(), monotonicMs: performance.now() });
  let reading = read();
  let lastBoundaryMs = 0;
  let ticking: NodeJS.Timeout;
  let tickDueMs = reading.monotonicMs;
  const lookAtClocks = (): void => {
    const now = read();
    const between = compareClocks(reading, now, options.clockGapMs, Math.max(0, tickDueMs - reading.monotonicMs));
    const gapMs = Math.round(now.monotonicMs - reading.monotonicMs);
    reading = now;
    if (between === "even" || !caughtUp.SIGNALS) return;
    tilts.inc({ kind: between });
    kit.log.warn({ between, gapMs }, between === "jumped" ? "the clock jumped; nothing automatic for a while" : "this process stood still");
    if (between === "jumped") tiltedUntilMonotonicMs = now.monotonicMs + options.tiltMs;
    else resumeAfter(`the process stood still for ${gapMs} ms`);
  };
  /** At each boundary of a second of the store's clock, and once a second where that clock is not known yet or was set. */
  const tick = (): void => {
    lookAtClocks();
    prepareOnce();
    const nowMs = storeNowMs();
    const boundaryMs = Math.floor(nowMs / secondMs) * secondMs;
    const waitMs = Math.min(tickMsMax, boundaryMs + secondMs - nowMs);
    tickDueMs = reading.monotonicMs + waitMs;
    ticking = setTimeout(tick, waitMs);
    if (boundaryMs === lastBoundaryMs) return;
    lastBoundaryMs = boundaryMs;
    wake();
    evaluateSecond();
  };
  ticking = setTimeout(tick, 1);
  const followings = [follow("AUDIT", "last_per_subject")];
  followSignals().catch((error: unknown) => kit.log.error({ err: error }, "SIGNALS cannot be followed; not deciding"));
  saySettled();

  return {
    get settled() {
      return isSettled();
    },
    get clock() {
      return { tilted: performance.now() < tiltedUntilMonotonicMs, freshAfterSeq };
    },
    get heardClock() {
      return heard;
    },
    decisionMs: () => Math.max(storeMs, lastBoundaryMs),
    nowMs: storeNowMs,
    folded: () => ({ AUDIT: ranges.AUDIT && { ...ranges.AUDIT }, SIGNALS: ranges.SIGNALS && { ...ranges.SIGNALS } }),
    foldedSeq: (type, keys) => lastSeqs.get(subjectFor(type, ...keys)) ?? 0,
    async publish(type, keys, data, { expectedSeq, id, timeoutMs }) {
      const event = kit.event(type, keys, data, id === undefined ? {} : { id }) as unknown as Event;
      const subject = subjectFor(type, ...keys);
      const foldedSeq = lastSeqs.get(subject) ?? 0;
      if (foldedSeq !== expectedSeq) {
        lost.inc({ type });
        kit.log.debug({ type, subject, expectedSeq, foldedSeq }, "another decision was folded while this one was on its way");
        return { outcome: "lost" };
      }
      const result = await kit.bus.appendFenced(event, expectedSeq, timeoutMs === undefined ? {} : { timeoutMs });
      if (result.outcome === "lost") {
        lost.inc({ type });
        kit.log.debug({ type, subject, expectedSeq, lastSeq: result.last?.seq ?? 0 }, "another instance was first");
        // In one log the last sequence of a subject never falls: this is another one, of which following has not told yet (D6).
        if ((result.last?.seq ?? 0) < expectedSeq && lastSeqs.get(subject) === expectedSeq) lastSeqs.delete(subject);
        if (result.last !== null && take(result.last)) wake();
        return { outcome: "lost" };
      }
      const content = { kind: "event", event } as const;
      take({ stream: "AUDIT", seq: result.seq, subject, timeMs: storeNowMs(), headers: {}, bytes: new Uint8Array(), content });
      wake();
      return { outcome: "won", seq: result.seq, id: event.id };
    },
    changed,
    async stop() {
      stopped = true;
      clearTimeout(ticking);
      unlisten();
      wake();
      await Promise.all(followings.map((following) => following.stop()));
    },
  };
}
