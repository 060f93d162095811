import { defaultPolicy } from "@mcp-failover/domain";
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
import { Attention } from "./attention.ts";
import { decideByItself } from "./automatic.ts";
import { Commands } from "./commands.ts";
import { Gatherer } from "./gatherer.ts";
import { Knowledge } from "./knowledge.ts";
import { openFailoverNotices } from "./notices.ts";
import { Performer } from "./perform.ts";
import { Reserver } from "./reserver.ts";
import { WaitingRoom } from "./waiting-room.ts";

/** Subjects -> folds -> decisions -> events; the whole service at a glance. */
export async function startFailoverController(kit: Kit<unknown>): Promise<Running> {
  const { observerWindowMs, clockGapMs, tiltMs } = defaultPolicy.failover;
  const knowledge = new Knowledge();
  const gatherer = new Gatherer(kit);
  const waiting = new WaitingRoom();
  const desk = openCommandDesk(kit, () => decider);
  const notices = openFailoverNotices(kit, () => decider, knowledge);
  const tellDisplaced = openLeftOut(kit, {
    metric: "mcpf_evidence_displaced_total",
    help: "Endpoints whose words were forgotten for those of others: more are spoken on than are kept",
    line: "more endpoints are spoken on than are kept: votes on some go missing, and nothing moves those by itself",
  });
  let graceOver = true;
  const sayGrace = (): void => {
    if (graceOver === knowledge.grace.allOver) return;
    graceOver = knowledge.grace.allOver;
    kit.ready("grace", graceOver, "nothing automatic before every endpoint is proven, or the grace is over");
  };
  const decider: FencedDecider = startFencedDecider(kit, {
    signalsBackMs: observerWindowMs,
    clockGapMs,
    tiltMs,
    foldAudit(event, at) {
      const { config } = knowledge.audit;
      knowledge.foldAudit(event, at);
      // One that does not parse changes nothing; this says so, and why.
      if (event.type === "config.applied" && knowledge.audit.config === config)
        readTopology({ seq: at.seq, content: { kind: "event", event } }, kit.log);
      // Nobody is asked about what comes now: it is all looked at as soon as anything may be decided.
      if (!decider.settled) attention.reset();
      notices.fold(event, at);
      desk.fold(event, at);
      if (event.type === "config.applied") {
        kit.ready("configuration", knowledge.upstreams.length > 0);
        waiting.reopen(knowledge.upstreams);
        gatherer.forget(knowledge.upstreams);
      }
      sayGrace();
    },
    foldSignal: (event, at) => knowledge.foldSignal(event, at),
    async prepare() {
      await desk.load();
      await notices.findMissing();
    },
    evaluate(event) {
      notices.pump();
      if (event === null) tellDisplaced(knowledge.takeDisplaced());
      const known = knowledge.upstreams;
      const now = event === null ? attention.due(known, decider.decisionMs()) : attention.heard(event, known);
      // Where hundreds fail at once, the critical ones are decided on first.
      if (now.length > 1) {
        for (const critical of [true, false])
          for (const upstream of now) if (knowledge.isCritical(upstream) === critical) upstreams.evaluate(upstream);
      } else for (const upstream of now) upstreams.evaluate(upstream);
      sayGrace();
    },
  });
  const attention = new Attention();
  const performer = new Performer(kit, decider, knowledge);
  const reserver = new Reserver({ knowledge, decider, publish: (...reserved) => performer.reserved(...reserved) });
  const parts = { decider, knowledge, gatherer, performer, reserver, attention, waiting };
  const upstreams = oneAtATime(kit, (upstream) => decideByItself(upstream, parts));
  const commands = new Commands({ decider, knowledge, desk, gatherer, performer, reserver, notices });
  kit.ready("configuration", false, "no configuration has been applied yet: run `mcpf config apply failover.yaml`");

  return {
    handlers: {
      "command.failover": (body) => commands.failover(body),
      "command.failback": (body) => commands.failback(body),
      "command.hold": (body) => commands.hold(body),
      "command.release": (body) => commands.release(body),
    },
    async stop() {
      notices.stop();
      gatherer.stop();
      await decider.stop();
    },
  };
}
