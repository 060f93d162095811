import { defaultPolicy, rollbackBackMs } from "@mcp-failover/domain";
import {
  type FencedDecider,
  type Kit,
  oneAtATime,
  openCommandDesk,
  openLeftOut,
  type Running,
  readTopology,
  startFencedDecider,
} from "@mcp-failover/service-kit";
import { decideByItself } from "./automatic.ts";
import { Commands } from "./commands.ts";
import { Knowledge } from "./knowledge.ts";
import { openRollbackNotices } from "./notices.ts";
import { Performer } from "./perform.ts";

/** Subjects -> folds -> decisions -> events; the whole service at a glance. */
export async function startRollbackController(kit: Kit<unknown>): Promise<Running> {
  const { clockGapMs, tiltMs } = defaultPolicy.failover;
  const knowledge = new Knowledge();
  const tellLeftOut = openLeftOut(kit, {
    metric: "mcpf_tool_callers_left_out_total",
    help: "Rows of traffic in nobody's name: more routers and agents call tools than are told apart",
    line: "more routers and agents call tools than are told apart: some have no word on rollbacks",
  });
  const desk = openCommandDesk(kit, () => decider);
  const notices = openRollbackNotices(kit, () => decider, knowledge);
  const decider: FencedDecider = startFencedDecider(kit, {
    signalsBackMs: rollbackBackMs,
    // Probes say nothing of tools.
    signalsFilter: "traffic.observed.>",
    clockGapMs,
    tiltMs,
    foldAudit(event, at) {
      const { config } = knowledge.audit;
      knowledge.foldAudit(event, at);
      // One that does not parse changes nothing; this says so, and why.
      if (event.type === "config.applied" && knowledge.audit.config === config)
        readTopology({ seq: at.seq, content: { kind: "event", event } }, kit.log);
      notices.fold(event, at);
      desk.fold(event, at);
      if (event.type === "config.applied") kit.ready("configuration", knowledge.scopes.size > 0);
    },
    foldSignal: (event, at) => knowledge.foldSignal(event, at, decider.clock.freshAfterSeq),
    async prepare() {
      await desk.load();
      await notices.findMissing();
    },
    evaluate(event) {
      notices.pump();
      // Windows move on with the second; nothing in between changes what they say.
      if (event !== null) return;
      const nowMs = decider.decisionMs();
      tellLeftOut(knowledge.takeLeftOut());
      const ahead = knowledge.ahead();
      for (const [key, of] of knowledge.scopes) if (ahead.has(key) || !knowledge.isQuiet(of, nowMs)) scopes.evaluate(key);
    },
  });
  const performer = new Performer(kit, decider, knowledge);
  const scopes = oneAtATime(kit, async (key) => {
    const of = knowledge.scopes.get(key);
    if (of !== undefined) await decideByItself(of, { decider, knowledge, performer });
  });
  const commands = new Commands({ decider, knowledge, desk, performer, notices });
  kit.ready("configuration", false, "no configuration has been applied yet: run `mcpf config apply failover.yaml`");

  return {
    handlers: {
      "command.rollback": (body) => commands.rollback(body),
      "command.recover": (body) => commands.recover(body),
    },
    async stop() {
      notices.stop();
      await decider.stop();
    },
  };
}
