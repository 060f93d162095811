import type { Kit, Running } from "@mcp-failover/service-kit";
import { IncidentDesk } from "./incident-desk.ts";
import { openOutbox } from "./outbox.ts";

/** Waits end, and what the log did not take is tried again, at this pace. */
const tickMs = 250;
const ackWaitMs = 30_000;
/** Far more than the channels of a fleet times the tries of one that hangs (bulkhead.ts); what waits takes a place for a moment only. */
const concurrency = 64;

/** AUDIT -> incidents (fenced, one winner) -> OUTBOX -> channels. The outbox is what makes a refused message wait instead of getting lost. */
export async function startNotifier(kit: Kit): Promise<Running> {
  const desk = new IncidentDesk(kit);
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
    },
    (stored) => {
      desk.note(stored, caughtUp);
      settle();
    },
  );
  const deliver = openOutbox(
    kit,
    () => desk.channels,
    () => desk.storeNowMs,
  );
  const queue = kit.bus.consumeQueue("notifier", { filter: "outbox.>", ackWaitMs, concurrency }, deliver);
  const timer = setInterval(settle, tickMs);
  const unlisten = kit.bus.onStatus(({ kind }) => {
    if (kind === "connected") desk.reconnected();
  });
  return {
    handlers: { "command.acknowledge": (command) => desk.acknowledge(command) },
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
