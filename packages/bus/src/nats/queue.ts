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
/** A handler that is still at work after so many times `ackWaitMs` hangs; its message goes to somebody else. */
const extensionsMax = 100;

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
  let stopped = false;
  let seq = 0;
  let consumer: PullConsumer | null = null;
  const over = () => stopped || link.closed;

  async function run(): Promise<void> {
    let retryMs = retryMsMin;
    while (!over()) {
      if (!link.connected) {
        await link.changed(null);
        retryMs = retryMsMin;
        continue;
      }
      const before = seq;
      const reason = await stretch().catch((error: unknown) => (error instanceof Error ? error.message : String(error)));
      consumer?.close();
      consumer = null;
      if (over()) break;
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
      while (working.size >= options.concurrency) await Promise.race(working);
      if (over()) return "stopped";
      const pull = consumer.pull({ batch: options.concurrency - working.size, wait: true });
      for (;;) {
        const step = await pull.next();
        // What was taken and is not begun comes back after `ackWaitMs`.
        if (over()) return "stopped";
        if (step.done) {
          if (step.value.kind === "broken") return step.value.reason;
          break;
        }
        seq = step.value.raw.seq;
        lag.delivered(step.value.position.pending + step.value.waiting);
        const work = handle(step.value).finally(() => working.delete(work));
        working.add(work);
      }
    }
  }

  async function handle({ raw, position: { attempt }, replyTo }: Pulled): Promise<void> {
    let extensions = 0;
    const stillAtIt = setInterval(() => {
      extensions += 1;
      if (extensions >= extensionsMax || link.closed) clearInterval(stillAtIt);
      link.current?.publish(replyTo, "+WPI");
    }, options.ackWaitMs / 3);
    try {
      const verdict = await verdictOn(raw, attempt);
      const nc = await link.reach(options.ackWaitMs);
      nc.publish(replyTo, verdict.kind === "done" ? "+ACK" : `-NAK ${JSON.stringify({ delay: Math.round(verdict.delayMs * 1e6) })}`);
    } catch (err) {
      say.warn({ err, ...place(raw) }, "a verdict was not delivered, so the message comes back"); // B6: at least once.
    } finally {
      clearInterval(stillAtIt);
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
