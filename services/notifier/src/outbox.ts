import { setTimeout as sleep } from "node:timers/promises";
import { BusError, type Delivery, type QueueVerdict } from "@mcp-failover/bus";
import { type ChannelConfig, type Notification, notification as notificationSchema } from "@mcp-failover/contracts";
import type { Kit } from "@mcp-failover/service-kit";
import { Bulkhead } from "./bulkhead.ts";
import { deliver, type Outcome } from "./deliver.ts";

/** 1 s doubling to 5 min; after a day a message is given up, and that is said in the log. */
const retryMsMin = 1000;
const retryMsMax = 300_000;
export const giveUpMs = 24 * 3_600_000;
/** How often it is looked whether what has to be told first is delivered. */
const orderMs = 1000;
const sentMax = 1000;
/** More than the queue lends out at a time, so that what waits keeps its back-off. */
const triesMax = 10_000;
/** How often it is tried, this far apart, to put on record what a receiver took. */
const recordTriesMax = 3;
const recordMs = 1000;

/**
 * Takes messages to their channels.
 * N1  A message is gone from OUTBOX only once its receiver took it, or after a day with the reason on record.
 * N2  A message waits for the one before it of the same incident on the same channel: no end is told before its beginning.
 * N3  What a receiver took is not sent again, by nobody, because its record failed: a missing line of the log is better than a second page.
 *     (A crash in between, or NATS out of reach for longer than a message is lent, repeats it with the same id.)
 * N4  A channel that hangs takes no place of another one: what finds none goes back without a try, and that is no attempt.
 *
 * `storeNowMs`: the clock by which messages were stored; null: nobody knows what it says yet, and nothing is a day old. This machine's may be
 * days wrong.
 */
export function openOutbox(
  kit: Kit,
  channels: () => readonly ChannelConfig[] | null,
  storeNowMs: () => number | null,
): (delivery: Delivery) => Promise<QueueVerdict> {
  const sent = new Set<string>();
  const tries = new Map<string, number>();
  const bulkhead = new Bulkhead();
  const record = (
    message: Notification,
    type: "notify.sent" | "notify.failed",
    attempt: number,
    error: string | null,
    willRetry: boolean,
  ) =>
    kit.bus.append(
      kit.event(
        type,
        [message.channel],
        {
          notificationId: message.id,
          channel: message.channel,
          incidentId: message.incidentId,
          kind: message.kind,
          attempt,
          timestamp: new Date(kit.nowMs()).toISOString(),
          error,
          willRetry,
        },
        { id: `${message.id}/${type}/${willRetry}` },
      ),
    );

  const recordSent = async (message: Notification, attempt: number): Promise<void> => {
    for (let tried = 1; ; tried += 1) {
      try {
        await record(message, "notify.sent", attempt, null, false);
        return;
      } catch (error) {
        if (tried < recordTriesMax && error instanceof BusError && error.retriable) {
          await sleep(recordMs);
          continue;
        }
        kit.log.error({ err: error, notification: message.id, attempt }, "a notification was sent and could not be put on record");
        return;
      }
    }
  };

  return async ({ stored }) => {
    if (stored.content.kind !== "event") return { kind: "done" };
    const message = notificationSchema.parse(stored.content.event.data);
    const all = channels();
    if (all === null) return { kind: "later", delayMs: retryMsMin };
    if (await isToldFirst(kit, message)) return { kind: "later", delayMs: orderMs };
    // Our own: deliveries count the waiting, too.
    const attempt = (tries.get(message.id) ?? 0) + 1;
    const channel = all.find(({ name }) => name === message.channel);
    const old = (storeNowMs() ?? stored.timeMs) - stored.timeMs > giveUpMs;
    const outcome = sent.has(message.id) ? ({ kind: "sent" } satisfies Outcome) : await attemptOn(kit, bulkhead, channel, message, old);
    if (outcome.kind === "full") return { kind: "later", delayMs: outcome.waitMs };
    if (outcome.kind === "sent") {
      keep(sent, message.id);
      await recordSent(message, attempt);
      tries.delete(message.id);
      return { kind: "done" };
    }
    tries.set(message.id, attempt);
    for (const [oldest] of tries) {
      if (tries.size <= triesMax) break;
      tries.delete(oldest);
    }
    const over = channel === undefined || old;
    kit.log.warn({ notification: message.id, attempt, error: outcome.error, givenUp: over }, "a notification was not taken");
    // First refusal and giving up are on record; what is between would only fill the log.
    if (over || attempt === 1) await record(message, "notify.failed", attempt, outcome.error, !over);
    if (over) return { kind: "done" };
    return {
      kind: "later",
      delayMs: Math.max(outcome.retryAfterMs ?? 0, Math.min(retryMsMin * 2 ** Math.min(attempt - 1, 20), retryMsMax)),
    };
  };
}

async function attemptOn(
  kit: Kit,
  bulkhead: Bulkhead,
  channel: ChannelConfig | undefined,
  message: Notification,
  old: boolean,
): Promise<Outcome | { readonly kind: "full"; readonly waitMs: number }> {
  if (channel === undefined) {
    bulkhead.forget(message.channel);
    return { kind: "refused", error: `no channel ${message.channel} is configured any more`, retryAfterMs: null, answered: true };
  }
  const waitMs = bulkhead.enter(channel.name, performance.now());
  if (waitMs > 0 && old && bulkhead.isSilent(channel.name)) {
    return { kind: "refused", error: `${channel.name} does not answer`, retryAfterMs: null, answered: true };
  }
  if (waitMs > 0) return { kind: "full", waitMs };
  let answered = false;
  let restMs = 0;
  try {
    const outcome = await deliver(kit, channel, message);
    answered = outcome.kind === "sent" || outcome.answered;
    if (outcome.kind === "refused") restMs = outcome.retryAfterMs ?? 0;
    return outcome;
  } finally {
    bulkhead.leave(channel.name, answered, performance.now(), restMs);
  }
}

/** Whether the message before this one is still in the queue. */
async function isToldFirst(kit: Kit, message: Notification): Promise<boolean> {
  if (message.afterSeq == null) return false;
  const before = await kit.bus.at("OUTBOX", message.afterSeq);
  if (before?.content.kind !== "event" || before.content.event.type !== "outbox") return false;
  const { incidentId, channel } = before.content.event.data;
  return incidentId === message.incidentId && channel === message.channel;
}

function keep(ids: Set<string>, id: string): void {
  ids.add(id);
  for (const oldest of ids) {
    if (ids.size <= sentMax) break;
    ids.delete(oldest);
  }
}
