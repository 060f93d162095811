import { RefusedError } from "@mcp-failover/bus";
import type { Kit, Running } from "@mcp-failover/service-kit";
import { refusing } from "./accept.ts";
import { IncidentDesk } from "./incident-desk.ts";
import { openOutbox } from "./outbox.ts";
import { StoreTime } from "./store-time.ts";

/** Waits end, and what the log did not take is tried again, at this pace. */
const tickMs = 250;
const ackWaitMs = 30_000;
/** Far more than the channels of a fleet times the tries of one that hangs (bulkhead.ts); what waits takes a place for a moment only. */
const concurrency = 64;

/** AUDIT -> incidents (fenced, one winner) -> OUTBOX -> channels. The outbox is what makes a refused message wait instead of getting lost. */
export async function startNotifier(kit: Kit): Promise<Running> {
  const time = new StoreTime(kit);
  const desk = new IncidentDesk(kit, time);
  let caughtUp = false;
  const settle = (): void => {
    if (!caughtUp) return;
    desk.settle().catch((error: unknown) => kit.log.error({ err: error }, "incidents could not be settled; tried again"));
  };
  kit.ready("audit", false, "the log has not been read yet");
  const following = kit.bus.follow(
    "AUDIT",
    {
      from: "last_per_subject",
      onCaughtUp: () => {
        caughtUp = true;
        kit.ready("audit", true);
        settle();
      },
      // Half of a log tells the past as if it were now, and what is known is of the one before.
      onAnotherLog: () => {
        caughtUp = false;
        kit.ready("audit", false, "the log is another one than before, and is still being read");
        desk.forgetLog();
      },
    },
    (stored) => {
      if (caughtUp) time.hear(stored.timeMs);
      desk.note(stored);
      settle();
    },
  );
  const deliver = openOutbox(
    kit,
    () => desk.channels,
    () => time.nowMs,
  );
  const queue = kit.bus.consumeQueue("notifier", { filter: "outbox.>", ackWaitMs, concurrency }, deliver);
  const timer = setInterval(settle, tickMs);
  const unlisten = kit.bus.onStatus(({ kind }) => {
    if (kind === "connected") time.reconnected();
  });
  /** What is not read yet would be refused as unknown. */
  const answering = <A>(act: () => Promise<A>): Promise<A> => {
    if (!caughtUp)
      throw new RefusedError("not_ready", "the notifier is still reading the log, or cannot reach it: ask again in a second", true);
    return refusing(act);
  };
  return {
    handlers: {
      "command.acknowledge": async (command) => answering(() => desk.acknowledge(command)),
      "command.silence": async (command) => answering(() => desk.silence(command)),
      "command.unsilence": async (command) => answering(() => desk.unsilence(command)),
    },
    async stop() {
      clearInterval(timer);
      unlisten();
      await following.stop();
      if (caughtUp)
        await desk.settle().catch((error: unknown) => kit.log.error({ err: error }, "incidents could not be settled before the stop"));
      caughtUp = false;
      await queue.stop();
    },
  };
}
