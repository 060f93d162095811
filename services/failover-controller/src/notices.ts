import { type Event, subjectFor } from "@mcp-failover/contracts";
import { policyFor, routersHolding } from "@mcp-failover/domain";
import { type FencedDecider, type Kit, type Notice, type NoticeDesk, openNoticeDesk, type ToldDecision } from "@mcp-failover/service-kit";
import type { Knowledge } from "./knowledge.ts";

const noticeTypes = { moved: "failover.executed", held: "failover.held", released: "failover.released" } as const;

/** Tells of each decision: `failover.executed` once the live routers have applied it or `applyWaitMs` is over, the others at once. */
export function openFailoverNotices(kit: Kit<unknown>, decider: () => FencedDecider, knowledge: Knowledge): NoticeDesk {
  return openNoticeDesk<"failover.decided">(kit, decider, {
    subjectOf: (upstream) => subjectFor("failover.decided", upstream),
    decisionOf: (event) => (event.type === "failover.decided" ? { key: event.data.service, epoch: event.data.state.epoch, event } : null),
    noticeOfEvent,
    noticeFor: (upstream, decision) => noticeFor(knowledge, upstream, decision, decider().nowMs()),
  });
}

function noticeOfEvent(event: Event) {
  switch (event.type) {
    case "failover.executed": {
      const { service, epoch, appliedBy, notAppliedBy } = event.data;
      return { key: service, epoch, appliedBy, notAppliedBy };
    }
    case "failover.held":
    case "failover.released":
      return { key: event.data.service, epoch: event.data.epoch, appliedBy: [], notAppliedBy: [] };
    default:
      return null;
  }
}

function noticeFor(
  { audit, evidence }: Knowledge,
  upstream: string,
  { event, epoch, timeMs }: ToldDecision<"failover.decided">,
  nowMs: number,
): Notice | null {
  const { action, previousEndpoint, currentEndpoint, automatic, reason, by, state, certificate } = event.data;
  const { rule } = certificate;
  const { config } = audit;
  const configured = config !== null && Object.hasOwn(config.topology.upstreams, upstream);
  const policy = configured ? policyFor(config.topology, upstream, config.environment).failover : null;
  const applied = routersHolding(evidence, upstream, { generation: state.generation, epoch }, policy?.routerLiveMs ?? 0, nowMs);
  if (action === "moved" && applied.notAppliedBy.length > 0 && nowMs - timeMs < (policy?.applyWaitMs ?? 0)) return null;
  const common = { service: upstream, epoch, decisionId: event.id, timestamp: new Date(nowMs).toISOString(), reason, rule, by };
  const more =
    action === "moved"
      ? { previousEndpoint, currentEndpoint, automatic, ...applied }
      : action === "held"
        ? { untilMs: state.held?.untilMs ?? null }
        : {};
  return { type: noticeTypes[action], keys: [upstream], data: { ...common, ...more } as Notice["data"] };
}
