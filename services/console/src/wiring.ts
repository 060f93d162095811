import type { Stored } from "@mcp-failover/bus";
import { emptyReadModel, foldReadModel, healthReport, type ReadModel, viewStatus } from "@mcp-failover/domain";
import { type Kit, type Running, readConsoleTokens } from "@mcp-failover/service-kit";
import { openAccess } from "./access.ts";
import type { ConsoleConfig } from "./config.ts";
import { Feed } from "./feed.ts";
import { serveConsole } from "./server.ts";

/** Browsers get the state at most this often. */
const stateMs = 100;

/** AUDIT -> read model and live list -> browsers; a failover that a person asks for -> `command.failover`. Decides nothing. */
export async function startConsole(kit: Kit<ConsoleConfig>): Promise<Running> {
  let model: ReadModel = emptyReadModel;
  let lastSeq = 0;
  let caughtUp = false;
  let due: NodeJS.Timeout | null = null;
  const feed = new Feed();
  const view = () => ({
    status: viewStatus(model, [], kit.nowMs()),
    seq: model.seq,
    connected: kit.bus.status.kind === "connected",
  });
  const pushState = (): void => {
    due ??= setTimeout(() => {
      due = null;
      feed.send("state", view());
    }, stateMs);
  };
  kit.ready("audit", false, "the log has not been read yet", { required: false });
  const following = kit.bus.follow(
    "AUDIT",
    {
      from: "last_per_subject",
      onCaughtUp: () => {
        caughtUp = true;
        kit.ready("audit", true, "", { required: false });
        pushState();
      },
    },
    (stored: Stored) => {
      // A log goes forward: this is another one than before.
      if (stored.seq <= lastSeq) model = emptyReadModel;
      lastSeq = stored.seq;
      if (stored.content.kind === "event") {
        model = foldReadModel(model, { seq: stored.seq, subject: stored.subject, timeMs: stored.timeMs, event: stored.content.event });
      }
      feed.add(stored);
      if (caughtUp) pushState();
    },
  );
  const unwatch = kit.bus.onStatus(pushState);
  const access = openAccess({
    tokens: () => readConsoleTokens(kit.secrets, kit.config.MCPF_CREDENTIALS_DIR),
    nowMs: kit.nowMs,
    onWrong: (from) => kit.log.warn({ from }, "somebody showed a token that is not the console's"),
  });
  const closed = access.closed();
  if (closed !== null) kit.log.warn({ why: closed.message }, "nobody can act in the console");
  const server = await serveConsole(kit, { feed, access, view, report: () => healthReport(model, kit.nowMs()) });
  kit.log.info({ url: server.url }, "console");
  return {
    async stop() {
      unwatch();
      if (due) clearTimeout(due);
      await following.stop();
      feed.close();
      await server.close();
    },
  };
}
