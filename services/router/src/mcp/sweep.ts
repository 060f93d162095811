import type { McpContext } from "./inbound.ts";

/** Longer than any call: nothing of the session can still run there. */
export const holdIdleMs = 120_000;

/**
 * Tells endpoints that sessions have left them (requirement R5): after a failover their old sessions would otherwise stay there until the
 * server itself drops them. One that was left too early costs a replay.
 */
export function leaveOldHolds(context: McpContext): void {
  const { control, sessions, directory, replay, nowMs, log } = context;
  for (const session of sessions.all()) {
    const view = control.upstream(session.sealed.upstream);
    if (view === null || view.mode !== "active_standby" || view.sessions !== "replayable") continue;
    for (const hold of session.holds.values()) {
      const old = hold.endpoint !== view.active && hold.endpoint !== session.home && hold.inFlight === 0;
      if (!old || hold.usedAtMs > nowMs() - holdIdleMs) continue;
      session.holds.delete(hold.endpoint);
      const endpoint = view.endpoints.find(({ name }) => name === hold.endpoint);
      if (endpoint !== undefined) replay.forget(session, endpoint, hold);
      directory
        .change(session.sealed.key, ({ holds, ...record }) => {
          if (holds[hold.endpoint] !== hold.upstreamSession) return null;
          const { [hold.endpoint]: _left, ...others } = holds;
          return { ...record, holds: others };
        })
        .catch((error: unknown) => log.warn({ err: error }, "the session directory could not be written"));
    }
  }
}
