import type { Stored } from "@mcp-failover/bus";
import { healthReport, ownReadModel, viewStatus } from "@mcp-failover/domain";
import { type Kit, type Running, readConsoleTokens } from "@mcp-failover/service-kit";
import { openAccess } from "./access.ts";
import type { ConsoleConfig } from "./config.ts";
import { Feed } from "./feed.ts";
import { serveConsole } from "./server.ts";

/** AUDIT -> read model and live list -> browsers; a failover that a person asks for -> `command.failover`. Decides nothing. */
export async function startConsole(kit: Kit<ConsoleConfig>): Promise<Running> {
  let own = ownReadModel();
  let unread: string | null = "the log has not been read yet";
  /** The newest version of the configuration that was heard of. */
  let newest = 0;
  const isConnected = (): boolean => kit.bus.status.kind === "connected";
  /** Why what is shown may not be how things are; null: it is what the log says. */
  const stale = (): string | null => {
    if (!isConnected()) return "NATS is out of reach";
    const { reading } = kit.readiness().conditions;
    if (unread !== null || reading?.ok === false) return unread ?? reading?.reason ?? null;
    if (newest <= own.model.configVersion) return null;
    return `version ${newest} of the configuration says what this console does not know, so that it shows version ${own.model.configVersion} (update it)`;
  };
  const view = () => ({ status: viewStatus(own.model, [], kit.nowMs()), seq: own.model.seq, connected: isConnected(), stale: stale() });
  const report = () => {
    const found = healthReport(own.model, kit.nowMs());
    const why = stale();
    return why === null ? found : { ...found, overall: "unknown", stale: why };
  };
  const feed = new Feed(view);
  const setUnread = (why: string | null): void => {
    unread = why;
    kit.ready("audit", why === null, why ?? "", { required: false });
  };
  setUnread(unread);
  const onCaughtUp = (): void => {
    setUnread(null);
    feed.changed();
  };
  const onAnotherLog = (): void => {
    own = ownReadModel();
    newest = 0;
    setUnread("the log is another one than before, and is still being read");
    feed.beginAnew();
  };
  const following = kit.bus.follow("AUDIT", { from: "last_per_subject", onCaughtUp, onAnotherLog }, (stored: Stored) => {
    const { seq, subject, timeMs, content } = stored;
    if (content.kind === "event") own.fold({ seq, subject, timeMs, event: content.event });
    if (content.kind === "event" && content.event.type === "config.applied") newest = Math.max(newest, content.event.data.version);
    feed.add(stored);
    if (unread === null) feed.changed();
  });
  const unwatch = kit.bus.onStatus(() => feed.changed());
  const access = openAccess({
    tokens: () => readConsoleTokens(kit.secrets, kit.config.MCPF_CREDENTIALS_DIR),
    nowMs: kit.nowMs,
    onWrong: (from) => kit.log.warn({ from }, "somebody showed a token that is not the console's"),
  });
  const closed = access.closed();
  if (closed !== null) kit.log.warn({ why: closed.message }, "nobody can act in the console");
  const server = await serveConsole(kit, { feed, access, view, report });
  kit.log.info({ url: server.url }, "console");
  return {
    async stop() {
      unwatch();
      await following.stop();
      feed.close();
      await server.close();
    },
  };
}
