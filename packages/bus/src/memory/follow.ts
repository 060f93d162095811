import type { StreamName } from "@mcp-failover/contracts";
import type { Delivery, Following, FollowOptions, QueueOptions, QueueVerdict, Stored } from "../bus.ts";
import type { ClaimCheck } from "../claim-check.ts";
import { type FollowHandler, guarded, handOver, place, settledWithin } from "../hand-over.ts";
import type { BusLog } from "../log.ts";
import type { RawMessage } from "../message.ts";
import type { Quarantine } from "../quarantine.ts";
import { queuedMessages } from "../queued-message.ts";
import type { BrokerState } from "./broker.ts";
import type { MemoryLink } from "./link.ts";
import type { MemoryStream } from "./store.ts";

const stopMs = 2000;
const retryMs = 100;

export interface Reader {
  readonly state: BrokerState;
  readonly link: MemoryLink;
  readonly quarantine: Quarantine;
  readonly claims: ClaimCheck;
  readonly log: BusLog;
}

export function follow(reader: Reader, name: StreamName, options: FollowOptions, handler: FollowHandler): Following {
  const { state, link, quarantine, claims, log } = reader;
  const filter = options.filter ?? ">";
  let stopped = false;
  let seq = 0;
  const over = () => stopped || link.status.kind === "closed";

  async function run(): Promise<void> {
    const stream = await found();
    if (stream === null) return;
    const lastAtStart = stream.lastSeq;
    // Before anything is handed over: what is appended meanwhile comes after it.
    let cursor = startOf(stream, options.from);
    for (const message of options.from === "last_per_subject" ? stream.lasts(filter) : []) {
      await ready();
      if (over()) return;
      await hand(message);
    }
    let caughtUp = false;
    while (!over()) {
      const message = stream.next(cursor, filter);
      if (!caughtUp && (message === null || message.seq > lastAtStart)) {
        caughtUp = true;
        guarded(() => options.onCaughtUp?.(), log, "onCaughtUp failed");
      }
      if (message === null || !link.connected) {
        await state.changed(null);
        continue;
      }
      cursor = message.seq + 1;
      await hand(message);
    }
  }

  async function hand(message: Parameters<typeof quarantine.look>[0]): Promise<void> {
    const collected = claims.collect(quarantine.look(message));
    const stored = collected instanceof Promise ? await atLast(collected, message) : collected;
    if (stored === null) return;
    seq = message.seq;
    await handOver(stored, handler, options, log);
  }

  /** Waits for what a message points at for as long as the bus is out of reach. Null: nobody wants it any more. */
  async function atLast(first: Promise<Stored>, message: RawMessage): Promise<Stored | null> {
    for (let collected: Stored | Promise<Stored> = first; ; collected = claims.collect(quarantine.look(message))) {
      try {
        return await collected;
      } catch (err) {
        if (over()) return null;
        log.warn({ err, ...place(message) }, "what a message points at is out of reach");
        await link.sleep(retryMs);
      }
    }
  }

  async function ready(): Promise<void> {
    while (!over() && !link.connected) await state.changed(null);
  }

  async function found(): Promise<MemoryStream | null> {
    while (!over()) {
      const stream = link.connected ? state.streams.get(name) : undefined;
      if (stream !== undefined) return stream;
      await state.changed(null);
    }
    return null;
  }

  // Begins after the caller has what it returns, as a real connection does.
  const loop = Promise.resolve().then(run);
  return {
    get seq() {
      return seq;
    },
    async stop() {
      stopped = true;
      state.wake();
      await settledWithin(loop, stopMs);
    },
  };
}

function startOf(stream: MemoryStream, from: FollowOptions["from"]): number {
  if (typeof from === "string") return stream.lastSeq + 1;
  if ("seq" in from) return from.seq;
  for (const message of stream.messages.values()) if (message.timeMs >= from.timeMs) return message.seq;
  return stream.lastSeq + 1;
}

export function consumeQueue(
  reader: Reader,
  durable: string,
  options: QueueOptions,
  handler: (delivery: Delivery) => Promise<QueueVerdict>,
): Following {
  const { state, link, quarantine, log } = reader;
  const verdictOn = queuedMessages({ quarantine, say: log }, options, handler);
  let stopped = false;
  let seq = 0;
  const working = new Set<Promise<void>>();
  const over = () => stopped || link.status.kind === "closed";

  async function run(): Promise<void> {
    while (!over()) {
      const stream = state.streams.get("OUTBOX");
      if (stream === undefined || !link.connected || working.size >= options.concurrency) {
        await state.changed(null);
        continue;
      }
      const queue = state.queue("OUTBOX", durable, options.filter);
      const taken = queue.take(state.nowMs(), options.ackWaitMs);
      if (taken === null) {
        const dueMs = queue.nextDueMs();
        await state.changed(dueMs === null ? null : Math.max(1, dueMs - state.nowMs()));
        continue;
      }
      seq = taken.message.seq;
      const work = handle(taken).finally(() => {
        working.delete(work);
        state.wake();
      });
      working.add(work);
    }
    await Promise.all(working);
  }

  async function handle({ message, attempt }: { message: Parameters<typeof quarantine.look>[0]; attempt: number }): Promise<void> {
    const queue = state.queue("OUTBOX", durable, options.filter);
    const stillAtIt = setInterval(() => {
      if (link.status.kind === "closed") clearInterval(stillAtIt);
      else if (link.connected) queue.extend(message.seq, state.nowMs() + options.ackWaitMs);
    }, options.ackWaitMs / 3);
    try {
      const verdict = await verdictOn(message, attempt);
      await link.reach(options.ackWaitMs);
      if (verdict.kind === "done") queue.done(message.seq);
      else queue.extend(message.seq, state.nowMs() + verdict.delayMs);
    } catch (err) {
      log.warn({ err, ...place(message) }, "a verdict was not delivered, so the message comes back"); // B6: at least once.
    } finally {
      clearInterval(stillAtIt);
    }
  }

  const loop = Promise.resolve().then(run);
  return {
    get seq() {
      return seq;
    },
    async stop() {
      stopped = true;
      state.wake();
      await settledWithin(loop, stopMs);
    },
  };
}
