import { queueLimits } from "@mcp-failover/contracts";
import type { Delivery, QueueOptions, QueueVerdict, Stored } from "./bus.ts";
import { backOffMs, place } from "./hand-over.ts";
import type { BusLog } from "./log.ts";
import type { RawMessage } from "./message.ts";
import type { Quarantine } from "./quarantine.ts";

/** What an error says may be long, and is read by people. */
const reasonCharsMax = 500;

/**
 * B9. Makes a verdict of each delivery: by the handler where it can, by the limits where it cannot. Counted here and not by the server's
 * `max_deliver`, which says it once, on a subject that keeps nothing, and then leaves the message in the queue where nobody gets it again.
 */
export function queuedMessages(
  { quarantine, say }: { readonly quarantine: Quarantine; readonly say: BusLog },
  options: Pick<QueueOptions, "failuresMax" | "deliveriesMax">,
  handler: (delivery: Delivery) => Promise<QueueVerdict>,
): (raw: RawMessage, attempt: number) => Promise<QueueVerdict> {
  const { failuresMax = queueLimits.failuresMax, deliveriesMax = queueLimits.deliveriesMax } = options;
  /** By sequence, of what failed here and came back. */
  const failures = new Map<number, number>();

  async function putAside(stored: Stored, attempt: number, reason: string): Promise<QueueVerdict> {
    try {
      await quarantine.keep(stored, reason);
    } catch (err) {
      say.warn({ err, ...place(stored), reason }, "a queued message could not be put into QUARANTINE, so it stays in the queue");
      return { kind: "later", delayMs: backOffMs(attempt) };
    }
    say.warn({ ...place(stored), reason }, "a queued message was put into QUARANTINE");
    failures.delete(stored.seq);
    return { kind: "done" };
  }

  function failed(seq: number): number {
    const count = (failures.get(seq) ?? 0) + 1;
    failures.set(seq, count);
    for (const [oldest] of failures) {
      if (failures.size <= queueLimits.ackPendingMax) break;
      failures.delete(oldest);
    }
    return count;
  }

  return async (raw, attempt) => {
    const stored = quarantine.look(raw);
    if (attempt > deliveriesMax) return putAside(stored, attempt, `it was delivered ${attempt - 1} times and is still not done`);
    let verdict: QueueVerdict;
    try {
      verdict = await handler({ stored, attempt });
    } catch (err) {
      // A neighbour that is away is no fault of the message.
      const count = (err as { retriable?: unknown } | null)?.retriable === true ? 0 : failed(stored.seq);
      if (count >= failuresMax) {
        const why = err instanceof Error ? err.message : String(err);
        return putAside(stored, attempt, `its handler failed ${count} times, at last with: ${why}`.slice(0, reasonCharsMax));
      }
      say.warn({ err, ...place(stored), failures: count }, "a queued message failed and comes back");
      return { kind: "later", delayMs: backOffMs(attempt) };
    }
    if (verdict.kind !== "done") return verdict;
    failures.delete(stored.seq);
    // Once it is done it is nowhere else.
    return stored.content.kind === "malformed" ? putAside(stored, attempt, stored.content.reason) : verdict;
  };
}
