import type { Event } from "@mcp-failover/contracts";
import { defaultPolicy } from "@mcp-failover/domain";
import { type FencedDecider, type Kit, openCommandDesk, type Running, startFencedDecider } from "@mcp-failover/service-kit";
import { AutomaticFailover } from "./automatic.ts";
import { Commands } from "./commands.ts";
import { Gatherer } from "./gatherer.ts";
import { Knowledge } from "./knowledge.ts";
import { Notices } from "./notices.ts";
import { Performer } from "./perform.ts";

/** How often notices that wait for the routers are looked at again, besides at every event. */
const pumpMs = 200;

/** Subjects -> folds -> decisions -> events; the whole service at a glance. */
export async function startFailoverController(kit: Kit<unknown>): Promise<Running> {
  const { observerWindowMs, clockGapMs, tiltMs } = defaultPolicy.failover;
  const knowledge = new Knowledge();
  const gatherer = new Gatherer(kit);
  const desk = openCommandDesk(kit, () => decider);
  const notices = new Notices(kit, () => decider, knowledge);
  let prepared: "no" | "under way" | "yes" = "no";
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
    evaluate(event) {
      if (prepared === "no") prepare();
      pump();
      for (const upstream of upstreamsOf(event, knowledge, gatherer)) automatic.evaluate(upstream);
    },
  });
  /** Not before the untold decisions of the past are known, because each is told in its turn. */
  const pump = (): void => {
    if (prepared === "yes") notices.pump();
  };
  /** Reads what the last event of each subject does not tell; tried again at the next event where the log was out of reach. */
  const prepare = (): void => {
    prepared = "under way";
    desk
      .load()
      .then(() => notices.findMissing(knowledge.upstreams))
      .then(
        () => {
          prepared = "yes";
        },
        (error: unknown) => {
          prepared = "no";
          kit.log.warn({ err: error }, "what happened before this process began could not be read yet");
        },
      );
  };
  const performer = new Performer(kit, decider, knowledge);
  const automatic = new AutomaticFailover(kit, decider, knowledge, gatherer, performer);
  const commands = new Commands({ kit, decider, knowledge, desk, gatherer, performer, notices });
  kit.ready("configuration", false, "no configuration has been applied yet: run `mcpf config apply failover.yaml`");
  const pumping = setInterval(pump, pumpMs);

  return {
    handlers: {
      "command.failover": (body) => commands.failover(body),
      "command.hold": (body) => commands.hold(body),
      "command.release": (body) => commands.release(body),
    },
    async stop() {
      clearInterval(pumping);
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
