import type { Event } from "@mcp-failover/contracts";
import { defaultPolicy } from "@mcp-failover/domain";
import { type FencedDecider, type Kit, oneAtATime, openCommandDesk, type Running, startFencedDecider } from "@mcp-failover/service-kit";
import { decideByItself } from "./automatic.ts";
import { Commands } from "./commands.ts";
import { Gatherer } from "./gatherer.ts";
import { Knowledge } from "./knowledge.ts";
import { openFailoverNotices } from "./notices.ts";
import { Performer } from "./perform.ts";

/** Subjects -> folds -> decisions -> events; the whole service at a glance. */
export async function startFailoverController(kit: Kit<unknown>): Promise<Running> {
  const { observerWindowMs, clockGapMs, tiltMs } = defaultPolicy.failover;
  const knowledge = new Knowledge();
  const gatherer = new Gatherer(kit);
  const desk = openCommandDesk(kit, () => decider);
  const notices = openFailoverNotices(kit, () => decider, knowledge);
  const decider: FencedDecider = startFencedDecider(kit, {
    signalsBackMs: observerWindowMs,
    clockGapMs,
    tiltMs,
    foldAudit(event, at) {
      knowledge.foldAudit(event, at);
      notices.fold(event, at);
      desk.fold(event, at);
      if (event.type === "config.applied") kit.ready("configuration", knowledge.upstreams.length > 0);
    },
    foldSignal: (event, at) => knowledge.foldSignal(event, at),
    async prepare() {
      await desk.load();
      await notices.findMissing();
    },
    evaluate(event) {
      notices.pump();
      for (const upstream of upstreamsOf(event, knowledge, gatherer)) upstreams.evaluate(upstream);
    },
  });
  const performer = new Performer(kit, decider, knowledge);
  const upstreams = oneAtATime(kit, (upstream) => decideByItself(upstream, { decider, knowledge, gatherer, performer }));
  const commands = new Commands({ kit, decider, knowledge, desk, gatherer, performer, notices });
  kit.ready("configuration", false, "no configuration has been applied yet: run `mcpf config apply failover.yaml`");

  return {
    handlers: {
      "command.failover": (body) => commands.failover(body),
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

/** Which upstreams an event may change something for. Traffic that is all well waits for the next second, where each is looked at. */
function upstreamsOf(event: Event | null, knowledge: Knowledge, gatherer: Gatherer): Iterable<string> {
  if (event === null || event.type === "config.applied" || event.type === "log.started") return knowledge.upstreams;
  switch (event.type) {
    case "health.changed":
    case "breaker.changed":
    case "failover.decided":
      return [event.data.service];
    case "probe.observed":
      return new Set(event.data.observations.map((observation) => observation.upstream));
    case "traffic.observed": {
      const notable = event.data.endpoints.filter(
        ({ upstream, hard, inFlight, ok }) => hard > 0 || (inFlight > 0 && ok === 0) || gatherer.sinceMs(upstream) !== null,
      );
      return new Set(notable.map(({ upstream }) => upstream));
    }
    default:
      return [];
  }
}
