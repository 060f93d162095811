import type { Delivery, Following, QueueOptions, QueueVerdict } from "../bus.ts";
import { place, settledWithin } from "../hand-over.ts";
import { queuedMessages } from "../queued-message.ts";
import type { NatsReader } from "./follow.ts";
import { Lag } from "./lag.ts";
import { openConsumer, type PullConsumer, type Pulled } from "./pull.ts";

const stream = "OUTBOX";
const stopMs = 2000;
/** So many messages that nobody has tried yet. */
const pendingMax = 1000;
const retryMsMin = 100;
const retryMsMax = 2000;
/** A handler that is still at work after a third of so many times `ackWaitMs` hangs; its message and its place go to others. */
const extensionsMax = 100;
/** Those that hang stay in memory: with so many no more places are given away, and the queue stands in this process until it is restarted. */
const hangingMax = 64;

/** B6 and B9: a durable consumer that all instances of a service share. */
export function consumeQueue(
  reader: NatsReader,
  durable: string,
  options: QueueOptions,
  handler: (delivery: Delivery) => Promise<QueueVerdict>,
): Following {
  const { link, say } = reader;
  const verdictOn = queuedMessages(reader, options, handler);
  const lag = new Lag(stream, options.filter, pendingMax);
  const working = new Set<Promise<void>>();
  /** Handlers whose places were given to others. */
  let hanging = 0;
  let stopped = false;
  let seq = 0;
  let consumer: PullConsumer | null = null;
  const onBeat = () => lag.settled();
  const over = () => stopped || link.closed;

  async function run(): Promise<void> {
    let retryMs = retryMsMin;
    while (!over()) {
      if (!link.connected) {
        lag.settled();
        await link.changed(null);
        retryMs = retryMsMin;
        continue;
      }
      const before = seq;
      lag.opening();
      const reason = await stretch().catch((error: unknown) => (error instanceof Error ? error.message : String(error)));
      consumer?.close();
      consumer = null;
      if (over()) break;
      lag.failed(reason);
      say.debug({ stream, durable, reason }, "taking from the queue begins anew");
      if (seq > before) retryMs = retryMsMin;
      if (link.connected) await link.sleep(retryMs * (0.75 + Math.random() / 2));
      retryMs = Math.min(retryMs * 2, retryMsMax);
    }
    await Promise.all(working);
  }

  async function stretch(): Promise<string> {
    consumer = await openConsumer(link, stream, { filter: options.filter, durable, ackWaitMs: options.ackWaitMs });
    for (;;) {
      while (working.size >= options.concurrency) {
        lag.settled();
        await Promise.race(working);
      }
      if (over()) return "stopped";
      const pull = consumer.pull({ batch: options.concurrency - working.size, wait: true, onBeat });
      for (;;) {
        const step = await pull.next();
        // What was taken and is not begun comes back after `ackWaitMs`.
        if (over()) return "stopped";
        if (step.done) {
          if (step.value.kind === "broken") return step.value.reason;
          lag.settled();
          break;
        }
        seq = step.value.raw.seq;
        lag.settled();
        lag.delivered(step.value.position.pending + step.value.waiting);
        const work = handle(step.value).finally(() => working.delete(work));
        working.add(work);
      }
    }
  }

  /** Ends when its place is free. */
  function handle(pulled: Pulled): Promise<void> {
    const { raw, replyTo } = pulled;
    const free = Promise.withResolvers<void>();
    const begun = lag.begun();
    let extensions = 0;
    let hangs = false;
    const stillAtIt = setInterval(() => {
      extensions += 1;
      link.current?.publish(replyTo, "+WPI");
      if (extensions < extensionsMax && !link.closed) return;
      clearInterval(stillAtIt);
      if (hanging >= hangingMax) return;
      hangs = true;
      hanging += 1;
      say.warn({ ...place(raw), hanging }, "the handler of a queued message hangs: the message and its place go to others");
      free.resolve();
    }, options.ackWaitMs / 3);
    void answer(pulled).finally(() => {
      clearInterval(stillAtIt);
      if (hangs) hanging -= 1;
      lag.ended(begun);
      free.resolve();
    });
    return free.promise;
  }

  async function answer({ raw, position: { attempt }, replyTo }: Pulled): Promise<void> {
    try {
      const verdict = await verdictOn(raw, attempt);
      const nc = await link.reach(options.ackWaitMs);
      nc.publish(replyTo, verdict.kind === "done" ? "+ACK" : `-NAK ${JSON.stringify({ delay: Math.round(verdict.delayMs * 1e6) })}`);
    } catch (err) {
      say.warn({ err, ...place(raw) }, "a verdict was not delivered, so the message comes back"); // B6: at least once.
    }
  }

  link.lags.add(lag);
  const loop = Promise.resolve()
    .then(run)
    .finally(() => link.lags.delete(lag));
  return {
    get seq() {
      return seq;
    },
    async stop() {
      stopped = true;
      consumer?.interrupt("stopped");
      await settledWithin(loop, stopMs);
    },
  };
}
